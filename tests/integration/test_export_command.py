"""`export`: every form loads in programs that know nothing of Winnow, is whole or not there, and reaches the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Result, winnow
from hub_server import hub_server
from plain_python import python

LOADED = """
import json
import torch
from datasets import load_from_disk
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, out = sys.argv[1:]
messages = [{"role": "user", "content": "task 1 say the last of red green blue"}]
models = {
    "adapter": PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), f"{out}/adapter"),
    "merged": AutoModelForCausalLM.from_pretrained(f"{out}/merged", dtype="float32"),
    "gguf": AutoModelForCausalLM.from_pretrained(f"{out}/gguf", gguf_file="two-002-f16.gguf", dtype="float32"),
}
logits = {}
for name, model in models.items():
    tokenizer = AutoTokenizer.from_pretrained(f"{out}/{name}" if name != "gguf" else f"{out}/merged")
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        logits[name] = model.eval()(**inputs).logits
far = {name: float((logits[name] - logits["adapter"]).abs().max()) for name in models}
rows = load_from_disk(f"{out}/data/dataset").to_list()
print(json.dumps({"far": far, "std": float(logits["adapter"].std()), "rows": rows}))
"""


def export(run: Path, kind: str, to: Path, *options: object) -> Result:
    return winnow("export", "--run", run, "--as", kind, "--to", to, *options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def exported(two_rounds, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    for kind in ("adapter", "merged", "gguf", "data"):
        result = export(two_rounds[0], kind, out / kind, "--json")
        assert result.code == 0, result.err
        (out / f"{kind}.json").write_text(result.out)
    return out


def test_plain_transformers_peft_and_datasets_load_every_form(two_rounds, exported):
    run = two_rounds[0]
    base = json.loads((run / "rounds/002/config.json").read_text())["model"]["name"]
    found = json.loads(python(LOADED, exported, base, exported))
    assert 0 < found["far"]["merged"] < 0.01 * found["std"]
    assert 0 < found["far"]["gguf"] < 0.01 * found["std"]
    lines = [json.loads(line) for line in (exported / "data/selection.jsonl").read_text().splitlines()]
    picks = [(run / f"rounds/00{n}/selection/selection.jsonl").read_text().splitlines() for n in (1, 2)]
    assert [row["id"] for row in lines] == [json.loads(line)["id"] for line in (*picks[0], *picks[1])]
    assert [row["round"] for row in lines] == [1] * len(picks[0]) + [2] * len(picks[1])
    assert all(row["why"] and row["quota_reason"] for row in lines)
    for row, line in zip(found["rows"], lines, strict=True):
        assert {key: row[key] for key in line if key != "messages"} == {
            k: v for k, v in line.items() if k != "messages"
        }
        assert [(m["role"], m["content"]) for m in row["messages"]] == [
            (m["role"], m["content"]) for m in line["messages"]
        ]


def test_an_adapter_is_the_rounds_own_folder_and_says_how_vllm_serves_it(two_rounds, exported):
    assert contents(exported / "adapter") == contents(two_rounds[0] / "rounds/002/adapter")
    vllm = json.loads((exported / "adapter.json").read_text())["vllm"]
    assert vllm["problems"] == [] and vllm["max_lora_rank"] == 8
    assert vllm["command"].startswith("vllm serve BASE_FOLDER --enable-lora --max-lora-rank 8 --lora-modules selected=")


def test_the_logit_difference_of_a_merged_model_is_printed_and_kept(exported):
    difference = json.loads((exported / "merged.json").read_text())["difference"]
    assert difference["documents"] == 8 and difference["positions"] > 100
    assert 0 < difference["mean"] < difference["largest"] and difference["same_top"] > 0.9
    assert json.loads((exported / "merged/winnow.json").read_text())["difference"] == difference
    assert (
        f"differ from those of base and adapter by {difference['mean']:.4f}"
        in (exported / "merged/README.md").read_text()
    )


def test_an_earlier_round_is_exported_by_its_number(two_rounds, tmp_path):
    assert export(two_rounds[0], "adapter", tmp_path / "one", "--round", 1).code == 0
    assert contents(tmp_path / "one") == contents(two_rounds[0] / "rounds/001/adapter")
    refused = export(two_rounds[0], "adapter", tmp_path / "three", "--round", 3)
    assert refused.code == 2 and "--round 3: the run has finished the rounds 1, 2." in refused.err


def test_only_an_earlier_export_is_replaced_and_only_with_force(two_rounds, tmp_path):
    run, to = two_rounds[0], tmp_path / "made"
    assert export(run, "data", to).code == 0
    again = export(run, "adapter", to)
    assert again.code == 2 and "add --force" in again.err and (to / "selection.jsonl").exists()
    assert export(run, "adapter", to, "--force").code == 0
    assert contents(to) == contents(run / "rounds/002/adapter")
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    assert export(run, "adapter", other, "--force").code == 2
    assert contents(other) == {"letter.txt": b"mine"}


def test_no_part_of_a_run_is_replaced(two_rounds, tmp_path):
    run = tmp_path / "two"
    shutil.copytree(two_rounds[0], run, symlinks=True)
    adapter = (run / "rounds/002/adapter").resolve()  # has the winnow.json of an export
    before = contents(adapter)
    for to in (adapter, run / "rounds/003", run):
        refused = export(run, "data", to, "--force")
        assert refused.code == 2 and "is in the run" in refused.err
    assert contents(adapter) == before and not (run / "rounds/003").exists()


def test_the_current_folder_is_not_replaced(two_rounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for to in (".", tmp_path):
        refused = export(two_rounds[0], "data", to)
        assert refused.code == 2 and "is the current folder" in refused.err


def test_of_two_exports_to_one_place_the_later_one_does_not_replace_the_other(two_rounds, tmp_path, monkeypatch):
    from al.exporting import export as exporting

    def slow(*arguments):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "winnow.json").write_text("of the other")
        return 0

    monkeypatch.setattr(exporting, "write_data", slow)
    refused = export(two_rounds[0], "data", tmp_path / "made")
    assert refused.code == 2 and "has an export already" in refused.err
    assert contents(tmp_path / "made") == {"winnow.json": b"of the other"}


def test_an_interrupted_export_leaves_nothing(two_rounds, tmp_path, monkeypatch):
    def interrupt(folder: Path, *rest: object) -> None:
        assert (folder / "model.safetensors").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.published.merged.measure_difference", interrupt)
    assert export(two_rounds[0], "merged", tmp_path / "out" / "merged").code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_adapter_is_not_exported(two_rounds, tmp_path):
    run = tmp_path / "two"
    shutil.copytree(two_rounds[0], run, symlinks=True)
    weights = run / "rounds/002/adapter/adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    assert export(run, "adapter", tmp_path / "made").code == 5
    assert not (tmp_path / "made").exists()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_TheSecretOfThisTest")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the stand-in has Git LFS only
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def test_push_uploads_every_file_to_a_private_repository_and_prints_no_token(two_rounds, hub, tmp_path):
    for kind, repository in (("adapter", "model"), ("data", "dataset")):
        hub.files.clear()
        pushed = export(two_rounds[0], kind, tmp_path / kind, "--push", f"me/{kind}")
        assert pushed.code == 0, pushed.err
        written = {p.relative_to(tmp_path / kind).as_posix(): p for p in (tmp_path / kind).rglob("*") if p.is_file()}
        assert hub.files == {name: path.read_bytes() for name, path in written.items()}
        made = hub.repositories[f"me/{kind}"]
        assert made["visibility"] == "private" and made["type"] == repository
        assert f"Uploaded: {hub.address}/me/{kind}/commit/" in pushed.out and "hf_The" not in pushed.out + pushed.err
    assert hub.tokens == {"Bearer hf_TheSecretOfThisTest"}


def test_a_push_that_fails_keeps_the_folder_and_one_without_a_token_makes_none(two_rounds, hub, tmp_path, monkeypatch):
    hub.refuses = 403
    refused = export(two_rounds[0], "adapter", tmp_path / "made", "--push", "me/adapter")
    assert (
        refused.code == 4
        and "403" in refused.err
        and "hf upload me/adapter" in refused.err
        and "hf_The" not in refused.err
    )
    assert (tmp_path / "made/README.md").exists()
    assert export(two_rounds[0], "adapter", tmp_path / "bad", "--push", "no/such/name").code == 2
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    without = export(two_rounds[0], "adapter", tmp_path / "other", "--push", "me/adapter")
    assert without.code == 2 and "$HF_TOKEN" in without.err
    assert not (tmp_path / "other").exists() and not (tmp_path / "bad").exists()
