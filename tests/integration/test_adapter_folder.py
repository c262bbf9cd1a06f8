"""The adapter's folder at the end of a round: complete, usable without Winnow, and the same whatever happened on the way."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml
from command_line import winnow
from plain_python import python

from al.run.database import changing
from trainer.config import GenerateConfig, LoraConfig, ModelConfig
from trainer.generate import generate
from trainer.model import Base, save_adapter
from trainer.published.folder import write_folder
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

FILES = {
    *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("generation_config.json", "winnow.json", "winnow.yaml", "README.md"),
}  # fmt: skip
ANSWER = """
import json
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

base, messages, *folders = sys.argv[1:]
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    model = PeftModel.from_pretrained(model, folder).eval()
    inputs = tokenizer.apply_chat_template(json.loads(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(folder), max_new_tokens=24)
    print(json.dumps(answer[0, inputs["input_ids"].shape[1] :].tolist()))
"""


def base_of(world: Path) -> str:
    return yaml.safe_load(world.read_text())["model"]["name"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_plain_transformers_and_peft_write_the_same_answer_under_every_template(world, tmp_path):
    messages = [{"role": "system", "content": "kind 0"}, {"role": "user", "content": " say the first of red green"}]
    config = ModelConfig(name=base_of(world), quantization="none", compute_dtype="float32", device="cpu")
    base, tokenizer, expected = Base.load(config), load_tokenizer(config), []
    names = ("auto", "mistral", "chatml", "plain")
    for seed, name in enumerate(names):
        template = ChatTemplate.resolve(tokenizer, name)
        with base.new_adapter(LoraConfig(r=4), seed) as model:
            for parameter in (p for key, p in model.named_parameters() if "lora_B" in key):
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
            save_adapter(model, tmp_path / name / "trained")
        (tmp_path / name / "folder").mkdir()
        write_folder(tmp_path / name / "folder", tmp_path / name / "trained", tokenizer, template, "base")
        with base.adapter(tmp_path / name / "trained") as model:
            settings, prompt = GenerateConfig(max_new_tokens=24, samples=0), template.prompt_ids(messages)
            ((answer,),) = generate(model, [prompt], settings, end_ids=template.end_ids, seed=0)
        expected.append(answer.tolist())
    folders = [tmp_path / name / "folder" for name in names]
    lines = python(ANSWER, tmp_path, base_of(world), json.dumps(messages), *folders).splitlines()
    assert [json.loads(line) for line in lines] == expected
    assert len({tuple(answer) for answer in expected}) == len(names), "each adapter answers in its own way"


def test_a_round_ends_with_a_complete_folder_and_the_lines_that_use_it(two_rounds):
    run, *_ = two_rounds
    for number in (1, 2):
        folder = run / f"rounds/00{number}/adapter"
        assert set(contents(folder)) == FILES
        shown = winnow("report", "--run", run, "--round", number)
        assert f"Adapter: {folder} (" in shown.out
        assert shown.out.endswith(f'Try it: python cli.py generate --run {run} --round {number} "..."\n\n')
        document = winnow("report", "--run", run, "--round", number, "--json").document
        assert document["adapter_path"] == str(folder) and document["generate_command"] in shown.out


def test_the_lines_of_the_card_run_as_they_are_and_give_what_winnow_generates(two_rounds, world):
    run, *_ = two_rounds
    folder = run / "rounds/002/adapter"
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    here = code.replace('BASE = "model"', f"BASE = {base_of(world)!r}")
    assert here != code
    printed = python(f"\n{here}\nprint(answer[0].tolist())", folder.resolve()).splitlines()

    config = ModelConfig(name=base_of(world), quantization="none", compute_dtype="float32", device="cpu")
    template, settings = ChatTemplate.resolve(load_tokenizer(config)), GenerateConfig(max_new_tokens=200, samples=0)
    prompt = template.prompt_ids([{"role": "user", "content": "Which colour has the sky?"}])
    with Base.load(config).adapter(run / "rounds/002/train/adapter") as model:
        ((answer,),) = generate(model, [prompt], settings, end_ids=template.end_ids, seed=0)
    assert json.loads(printed[-1]) == [*prompt, *answer.tolist()]


def test_the_weights_take_no_disk_twice_and_stay_verified(two_rounds):
    run, *_ = two_rounds
    trained = run / "rounds/001/train/adapter/adapter_model.safetensors"
    assert trained.samefile(run / "rounds/001/adapter/adapter_model.safetensors")
    assert winnow("doctor", "--run", run, "--json").document["problems"] == []


def test_the_card_has_the_numbers_of_the_report(two_rounds):
    run, _, summary = two_rounds
    document = json.loads((run / "rounds/002/adapter/winnow.json").read_text())
    for part in ("evaluation", "dev"):
        assert document[part]["models"] == summary[part]["models"] and "previous" in document[part]["models"]
        assert document[part]["differences"] == summary[part]["differences"]
    card = (run / "rounds/002/adapter/README.md").read_text()
    for model in ("base", "previous", "selected", "control"):
        assert f"{summary['evaluation']['models'][model]['macro_nll']:.3f}" in card


def test_the_data_of_a_continued_adapter_is_that_of_all_its_rounds(two_rounds):
    run, *summaries = two_rounds
    for number in (1, 2):
        data = json.loads((run / f"rounds/00{number}/adapter/winnow.json").read_text())["data"]
        picked = summaries[:number]
        assert data["examples"] == sum(summary["budget"]["examples"] for summary in picked)
        assert data["tokens"] == sum(summary["budget"]["tokens"] for summary in picked)
        assert sum(source["examples"] for source in data["sources"]) == data["examples"]


def test_no_file_has_a_path_of_this_machine_or_a_time(two_rounds, world):
    run, first, _ = two_rounds
    days = {json.loads(line)["time"][:10] for line in (run / "events.jsonl").read_text().splitlines()}
    for folder in (run / "rounds/001/adapter", run / "rounds/002/adapter"):
        for name, content in contents(folder).items():
            assert str(world.parent).encode() not in content and str(run.parent).encode() not in content, name
            assert not [day for day in days if day.encode() in content], name


def test_the_config_of_the_folder_makes_the_same_adapter_again(two_rounds, world, tmp_path):
    run, *_ = two_rounds
    folder = run / "rounds/001/adapter"
    config = yaml.safe_load((folder / "winnow.yaml").read_text())
    here = yaml.safe_load(world.read_text())
    for section, key in (("model", "name"), ("embed", "model"), ("pool", "files")):
        assert config[section][key] != here[section][key]
        config[section][key] = here[section][key]  # what the card says to set
    (tmp_path / "winnow.yaml").write_text(yaml.safe_dump(config))
    (command,) = re.findall(r"```\npython cli.py (.*?)\n```", (folder / "README.md").read_text())
    words = [tmp_path / word if word in ("winnow.yaml", "runs/two") else word for word in command.split()]
    assert winnow(*words).code == 0
    again = contents(tmp_path / "runs/two/rounds/001/adapter")
    assert again["adapter_model.safetensors"] == contents(folder)["adapter_model.safetensors"]
    assert again["README.md"] == contents(folder)["README.md"]


@pytest.fixture
def copied(two_rounds, tmp_path):
    run, *_ = two_rounds
    shutil.copytree(run, tmp_path / "two", symlinks=True)
    return tmp_path / "two"


def test_a_damaged_folder_is_made_again_with_the_same_bytes(copied):
    folder = copied / "rounds/002/adapter"
    before = contents(folder)
    (folder / "README.md").write_text("someone's own words")
    assert winnow("doctor", "--run", copied, "--json").code == 5
    assert winnow("doctor", "--run", copied, "--drop-damaged").code == 0
    assert winnow("resume", "--run", copied).code == 0
    assert contents(folder) == before


def test_a_run_of_a_winnow_without_folders_goes_on(copied):
    with sqlite3.connect(copied / "run.db") as db, changing(db):
        db.execute("DELETE FROM round_artifacts WHERE role = 'adapter'")
        db.execute("DELETE FROM artifacts WHERE stage = 'adapter'")
    shutil.rmtree(copied / "artifacts/adapter")
    for link in copied.glob("rounds/*/adapter"):
        link.unlink()
    shown = winnow("report", "--run", copied, "--round", 2)
    assert shown.code == 0 and "Adapter:" not in shown.out
    assert winnow("round", "--run", copied, "--budget", 12).code == 0
    assert set(contents(copied / "rounds/003/adapter")) == FILES
    assert not (copied / "rounds/002/adapter").exists()


def test_plain_fine_tuning_ends_with_a_complete_folder(world, tmp_path):
    data = Path(yaml.safe_load(world.read_text())["pool"]["files"][0]) / "source-0.jsonl"
    arguments = ("train", "--dataset", data, "--config", world, "--run", tmp_path / "run")
    document = winnow(*arguments, "--set", "holdout.test=10", "--set", "model.chat_template=chatml", "--json").document
    folder = Path(document["adapter"])
    assert set(contents(folder)) == FILES
    made = json.loads((folder / "winnow.json").read_text())
    assert made["data"]["examples"] == document["examples"] and made["chat_template"]["name"] == "chatml"
    assert made["evaluation"]["models"] == document["evaluation"]["models"]
    assert "without selection" in (folder / "README.md").read_text()
