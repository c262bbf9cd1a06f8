"""README.md of an exported folder: the adapter's card with how to use this form of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from al.release.card import Form, card, data_section
from al.release.data import hub_licence
from al.report.text.blocks import one_line
from al.report.text.markdown import code_block, escape
from al.terminal import displayable

USE_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForCausalLM.from_pretrained(".", dtype="bfloat16").eval()
messages = [{"role": "user", "content": "Which colour has the sky?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs.to(model.device), max_new_tokens=200)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
USE_DATA = """\
from datasets import load_from_disk

rows = load_from_disk("dataset")  # of this folder; selection.jsonl has the same rows
print(rows[0]["messages"], rows[0]["why"])"""
MEASURED = "The evaluation below is of base and adapter before they were merged."


def merged_card(document: Mapping[str, Any]) -> str:
    """The card of a merged model, from its winnow.json."""
    found = document["difference"]
    difference = (
        f"On {found['positions']:,} tokens of {found['documents']} texts its logits differ from those of base and adapter by "
        f"{found['mean']:.4f} on average and {found['largest']:.3f} at most (bfloat16 rounding); the most probable token is the same at "
        f"{found['same_top']:.1%}."
    )
    text = f"{_python(USE_MERGED)}\n\n{difference} {MEASURED}"
    return card(document, Form("LoRA adapter merged into", "transformers", (), text))


def gguf_card(document: Mapping[str, Any]) -> str:
    """The card of a GGUF file, from its winnow.json."""
    commands = shlex.join(["llama-server", "-m", document["file"], "--jinja"])
    text = f"{code_block(commands)}\n\nThe context is {document['context']:,} tokens. {MEASURED}"
    return card(document, Form("GGUF of a LoRA adapter merged into", "gguf", ("gguf",), text))


def data_card(document: Mapping[str, Any]) -> str:
    """The card of the selected data, from its winnow.json."""
    shown = one_line(displayable(document))
    licences = {source["licence"] for source in shown["data"]["sources"]}
    front = {"license": hub_licence(licences), "task_categories": ["text-generation"], "tags": ["winnow"]}
    rounds = "round 1" if shown["round"] == 1 else f"rounds 1 to {shown['round']}"
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# Data selected in {rounds} of {escape(shown['run'])}",
        "Each row is one conversation (`messages`) with its `source`, the scores that it was picked by, the reason of the pick (`why`) and "
        "the reason of its group's quota (`quota_reason`). The licences are those of the sources.",
        f"## Use it\n\n{_python(USE_DATA)}",
        f"## Data\n\n{data_section(shown).strip()}",
    ]
    return "\n\n".join(sections) + "\n"


def _python(code: str) -> str:
    return code_block(code).replace("```\n", "```python\n", 1)
