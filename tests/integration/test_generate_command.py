"""`generate` and `serve` from the command line, on a run of two rounds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import time

import pytest
import torch
from command_line import ended, start, winnow
from safetensors import safe_open

PROMPTS = [
    "task 0 say the first of river cloud",
    "task 1 say the last of stone seven paper",
    "task 2 say the longest of red",
]


@pytest.fixture(scope="module")
def run(two_rounds):
    return two_rounds[0]


def answers(result, model="selected"):
    assert result.code == 0, result.err
    return [[answer["text"] for answer in entry["answers"][model]] for entry in result.document["answers"]]


def by_transformers(run, prompt, adapter, size):
    """What plain transformers and PEFT write, through the tokenizer's own template."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = json.loads((run / "rounds/002/config.json").read_text())["model"]["name"]
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(run / "rounds" / adapter / "adapter")).eval()
    given = tokenizer.apply_chat_template(
        [{"role": "system", "content": "kind 1"}, {"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with torch.no_grad():
        found = model.generate(**given, max_new_tokens=size, do_sample=False, eos_token_id=ends, pad_token_id=0)
    return tokenizer.decode(found[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_base_and_every_adapter_answer_as_plain_transformers_does(run):
    names = {
        "base": None,
        "1": "001/train",
        "2": "002/train",
        "control": "002/control.train",
        "control:1": "001/control.train",
    }
    options = ["--compare", ",".join(names), "--system", "kind 1", "--max-new-tokens", 8, "--json"]
    result = winnow("generate", *PROMPTS, "--run", run, *options)
    assert result.code == 0, result.err
    assert result.document["models"] == list(names)
    for name, adapter in names.items():
        assert answers(result, name) == [[by_transformers(run, prompt, adapter, 8)] for prompt in PROMPTS]
    drawn = winnow("generate", *PROMPTS, "--run", run, *options, "--temperature", 2, "--answers", 4)
    assert len({str(answers(drawn, name)) for name in names}) == len(names), "two names gave the same adapter"


def test_the_last_round_answers_by_default_and_its_text_is_streamed(run):
    last = winnow("generate", PROMPTS[0], "--run", run, "--round", 2, "--json")
    streamed = winnow("generate", PROMPTS[0], "--run", run)
    assert streamed.code == 0, streamed.err
    assert streamed.out == f"selected: {last.document['answers'][0]['answers']['2'][0]['text']}\n"
    assert answers(winnow("generate", PROMPTS[0], "--run", run, "--json")) == answers(last, "2")


def test_several_prompts_are_printed_with_their_answers(run, tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": PROMPTS[1]}]}))
    result = winnow("generate", PROMPTS[0], "--file", file, "--run", run, "--compare", "base,2", "--max-new-tokens", 4)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == f"1. {PROMPTS[0]}" and lines[1].startswith("   base: ") and lines[2].startswith("   2: ")
    assert f"2. {PROMPTS[1]}" in lines


def test_drawn_answers_depend_on_the_seed_alone(run):
    def drawn(seed, *prompts):
        found = winnow(
            "generate", *prompts, "--run", run, "--answers", 3, "--temperature", 1.5, "--max-new-tokens", 6, "--seed", seed, "--json"
        )  # fmt: skip
        return answers(found)

    first = drawn(3, *PROMPTS)
    assert drawn(3, PROMPTS[1]) == first[1:2] and drawn(4, *PROMPTS) != first
    assert all(len(of_prompt) == 3 for of_prompt in first) and len({str(text) for text in first[0]}) > 1


def test_a_prompt_may_come_through_a_pipe(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPTS[2] + "\n"))
    piped = winnow("generate", "--run", run, "--json")
    assert answers(piped) == answers(winnow("generate", PROMPTS[2], "--run", run, "--json"))
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    empty = winnow("generate", "--run", run)
    assert empty.code == 2 and "expected a prompt" in empty.err


def test_a_terminal_without_prompts_is_a_chat(run, monkeypatch):
    class Keyboard(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Keyboard(f"{PROMPTS[0]}\n/quit\n"))
    result = winnow("generate", "--run", run)
    assert result.code == 0, result.err
    (expected,) = answers(winnow("generate", PROMPTS[0], "--run", run, "--json"))
    assert f"selected: {expected[0]}" in " ".join(result.out.split("\n"))


def test_nothing_in_the_run_changes_and_none_of_it_need_be_writable(run):
    before = {
        path: path.stat().st_mtime_ns for path in sorted(run.rglob("*")) if path.is_file() and "run.db" not in path.name
    }
    assert winnow("generate", PROMPTS[0], "--run", run).code == 0
    after = {
        path: path.stat().st_mtime_ns for path in sorted(run.rglob("*")) if path.is_file() and "run.db" not in path.name
    }
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["a", "--compare", "base,7"],
            2,
            "--compare 7: the run has base, previous, selected, control, 1, 2, control:1, control:2.",
        ),
        (["a", "--compare", "base", "--round", 1], 2, "--compare lists the models"),
        (["a", "--answers", 2], 2, "--answers 2: at temperature 0 all answers are the same"),
        (["river " * 800, "b"], 3, "prompt 1: a prompt of"),
        (["--file", "/absent.txt"], 3, "--file /absent.txt: expected a UTF-8 text file"),
    ],
)
def test_what_cannot_be_answered_is_refused(run, arguments, code, message):
    result = winnow("generate", *arguments, "--run", run)
    assert result.code == code and message in result.err, result.err


def test_a_run_without_a_round_says_what_to_do(tmp_path, world):
    assert winnow("pool", "import", os.devnull, "--run", tmp_path / "new", "--config", world).code
    result = winnow("generate", "a", "--run", tmp_path / "none")
    assert result.code == 5 and "no run here" in result.err


# `serve`, which offers the same models.


def test_serve_answers_as_generate_does_until_sigterm_and_then_finishes_what_is_under_way(run, tmp_path):
    import openai

    options = ["--models", "2,base,control:1", "--port", 0, "--token", "a-secret", "--max-new-tokens", 400, "--json"]
    child = start([str(word) for word in ("serve", "--run", run, *options)], tmp_path, method="fork")
    address = _first_line(child, tmp_path / "out")
    assert address["models"] == ["2", "base", "control:1"] and address["token"] is None, (
        "a token that was given is not printed"
    )
    with openai.OpenAI(base_url=f"{address['url']}/v1", api_key="a-secret", max_retries=0) as client:
        for name in address["models"]:
            found = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": PROMPTS[0]}], temperature=0, max_tokens=12
            )
            expected = winnow("generate", PROMPTS[0], "--compare", name, "--run", run, "--json")
            assert [[found.choices[0].message.content.strip()]] == answers(expected, name)
        stream = client.completions.create(
            model="base", prompt="river", max_tokens=400, stream=True, temperature=2, seed=1
        )
        next(stream)
        os.kill(child.pid, signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("length", "stop")
    child.join(timeout=60)
    result = ended(child, tmp_path)
    assert result.code == 0, result.err
    assert result.document == address and "stopped after 4 answered requests" in result.err


def _first_line(child, file):
    for _ in range(600):
        if file.exists() and (line := file.read_text().partition("\n")[0]).endswith("}"):
            return json.loads(line)
        assert child.is_alive(), file.with_name("err").read_text()
        time.sleep(0.1)
    raise AssertionError("the server did not say where it answers")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 is reached from other machines: choose the secret"),
        (["--host", "example.org"], 2, "expected an IP address or localhost"),
        (["--token", "a", "--no-token"], 2, "contradict"),
        (["--token", "a b"], 2, "without spaces"),
        (["--models", "base,9"], 2, "--models 9: the run has base, previous, selected, control"),
        (["--models", ","], 2, "found none"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(run, arguments, code, message):
    result = winnow("serve", "--run", run, *arguments)
    assert result.code == code and message in result.err, result.err


def test_a_port_that_is_taken_is_an_error_of_the_machine(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = winnow("serve", "--run", run, "--port", taken.getsockname()[1])
    assert result.code == 4 and "cannot be used on 127.0.0.1" in result.err


def test_the_adapters_folder_is_within_the_documented_limits_of_vllm(run):
    """As vllm/lora/peft_helper.py and vllm/config/lora.py state them: rank, plain LoRA, layers, names of weights and files."""
    folder = run / "rounds/002/adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["bias"] == "none" and 0 < config["r"] <= 512
    assert not any(config.get(name) for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"))
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config["target_modules"]) <= layers
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        names = list(weights.keys())
    pattern = re.compile(r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.(\w+)\.lora_[AB]\.weight")
    assert names and {pattern.fullmatch(name)[2] for name in names} == set(config["target_modules"])
