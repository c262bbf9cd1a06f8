"""README.md of an adapter's folder, as a function of its winnow.json. A text of the data in it is never read as markup."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from al.program import PROGRAM
from al.release.data import UNKNOWN, hub_licence
from al.report.reading.values import write
from al.report.reading.verdict import verdict
from al.report.text.blocks import Block, Cell, Line, Table, one_line
from al.report.text.markdown import as_markdown, code_block, escape
from al.report.text.round import KEY, evaluation_table, written_table
from al.terminal import displayable

SOURCES_SHOWN = 40
PARTS = {"evaluation": "Test", "dev": "Dev"}


@dataclass(frozen=True)
class Form:
    """What a card is about, if not a PEFT adapter: `what` it is, the hub's `library` and `tags`, how to `use` it (Markdown)."""

    what: str
    library: str
    tags: tuple[str, ...]
    use: str


def card(document: Mapping[str, Any], form: Form | None = None) -> str:
    """The model card: front matter as the hub reads it, then how to load the adapter, and what it is made of.

    Args:
        form: None for the adapter's own folder; else another form of it, such as a merged model.
    """
    shown = one_line(displayable(document))
    form = form or Form("LoRA adapter for", "peft", ("lora",), _use(shown))
    title = f"{shown['run']}, round {shown['round']}" if shown["round"] else str(shown["run"])
    sections = {
        f"# {escape(title)}: {form.what} {escape(shown['base']['name'])}": _verdict(shown),
        "## Use it": form.use,
        "## Chat template": _chat_template(shown),
        "## Base and adapter": _base(shown),
        "## Data": data_section(shown),
        "## Budget and training": _budget(shown),
        "## Evaluation": _evaluation(shown),
        "## Make it again": _reproduce(shown),
    }
    return (
        "\n\n".join([_front_matter(shown, form), *(f"{head}\n\n{text.strip()}" for head, text in sections.items())])
        + "\n"
    )


def _front_matter(document: Mapping[str, Any], form: Form) -> str:
    base, sources = document["base"], document["data"]["sources"]
    front = {
        **({} if base["local"] else {"base_model": base["name"]}),
        "library_name": form.library,
        "pipeline_tag": "text-generation",
        "license": hub_licence({source["licence"] for source in sources}),
        "datasets": sorted({source["dataset"] for source in sources if source["dataset"]}),
        "tags": [*form.tags, "transformers", "winnow"],
    }
    text = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _verdict(document: Mapping[str, Any]) -> str:
    return as_markdown(
        [Line(verdict(document) if document["round"] else "Trained on a whole data set, without selection.")]
    )


def _use(document: Mapping[str, Any]) -> str:
    base = document["base"]
    name, revision = json.dumps(base["name"]), json.dumps(base["revision"]) if base["revision"] else None
    dtype = "auto" if base["compute_dtype"] == "auto" else base["compute_dtype"]
    nf4 = base["quantization"] == "nf4"
    quantized = f"""
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                         bnb_4bit_use_double_quant={base["double_quantization"]}, bnb_4bit_compute_dtype="bfloat16")"""
    options = f'dtype="{dtype}"' + (", quantization_config=nf4" if nf4 else "")
    options += f", revision={revision}" if revision else ""
    code = f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, {"BitsAndBytesConfig, " if nf4 else ""}GenerationConfig

BASE = {name}{"  # the directory of the base model on your machine" if base["local"] else ""}
ADAPTER = "."  # this folder
messages = [{{"role": "user", "content": "Which colour has the sky?"}}]
{quantized if nf4 else ""}
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)
base = AutoModelForCausalLM.from_pretrained(BASE, {options})
model = PeftModel.from_pretrained(base, ADAPTER).eval()
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
settings = GenerationConfig.from_pretrained(ADAPTER, max_new_tokens=200)  # the folder has the tokens that end an answer
answer = model.generate(**inputs.to(model.device), generation_config=settings)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
    block = code_block(code).replace("```\n", "```python\n", 1)
    local = (
        f"The base was loaded from a local directory named {escape(base['name'])}. Set `BASE` to your copy, and before you publish "
        "this folder, `base_model_name_or_path` in adapter_config.json and `base_model` in the front matter to its name on the hub."
    )
    return block + (f"\n\n{local}" if base["local"] else "")


def _chat_template(document: Mapping[str, Any]) -> str:
    found = document["chat_template"]
    own = found["name"] == "tokenizer"
    lines = [
        "chat_template.jinja is the base tokenizer's own template."
        if own
        else f"chat_template.jinja is Winnow's template `{found['name']}`. It refuses a message that contains the text of a special "
        "token, such as the one that ends a turn: in training such a text is not that token, and a template cannot write it so.",
        "It writes every special token itself: use `apply_chat_template` with `tokenize=True`, or encode its text with "
        "`add_special_tokens=False`.",
    ]
    if found["prompts"] == found["conversations"] == found["probes"]:
        lines.append(f"Checked on {found['probes']} conversations: it gives exactly the tokens that were trained on.")
    else:
        lines.append(
            f"**It is not exact for this tokenizer**: of {found['probes']} conversations, {found['prompts']} prompts and "
            f"{found['conversations']} whole conversations have exactly the tokens that were trained on. winnow.json has an example "
            "(`chat_template.example`)."
        )
    return " ".join(lines)


def _base(document: Mapping[str, Any]) -> str:
    base, lora = document["base"], document["lora"]
    revision = f", revision {base['revision']}" if base["revision"] else ""
    targets = lora["targets"] if isinstance(lora["targets"], str) else ", ".join(lora["targets"])
    rows = [
        ["Base", f"{base['name']}{revision}"],
        ["Base weights in training", "NF4 (4 bits)" if base["quantization"] == "nf4" else base["compute_dtype"]],
        ["LoRA", f"r {lora['r']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g}, {targets}"],
        ["Seed", str(document["seed"])],
        [
            "Made with",
            ", ".join(f"{key} {document['versions'][key]}" for key in ("winnow", "torch", "transformers", "peft")),
        ],
    ]
    return as_markdown([Table(["", ""], rows, left=(0, 1))])


def data_section(document: Mapping[str, Any]) -> str:
    """What the adapter was trained on, by source, with the licence of each, as Markdown. `document`: winnow.json, displayable."""
    data = document["data"]
    shown, rest = data["sources"][:SOURCES_SHOWN], data["sources"][SOURCES_SHOWN:]
    rows: list[list[str | Cell]] = [
        [s["source"], s["dataset"] or s["file"], s["licence"], _count(s["examples"]), _count(s["tokens"])]
        for s in shown
    ]
    if rest:
        counts = [_count(sum(source[key] for source in rest)) for key in ("examples", "tokens")]
        rows.append([f"{len(rest)} more, in winnow.json", "", "", *counts])
    head = ["Source", "From", "Licence", "Examples", "Tokens"]
    text = f"{_count(data['examples'])} examples, {_count(data['tokens'])} tokens, by source:"
    note = (
        f"Licences are those that Winnow knows of published sets; {UNKNOWN}: the file's own terms apply. The license in the "
        "front matter is that of the data if all of it has the same. The base model has its own."
    )
    return as_markdown([Line(text), Table(head, rows, left=(0, 1, 2)), Line(note)])


def _budget(document: Mapping[str, Any]) -> str:
    budget, training = document.get("budget"), document["training"]
    lines = []
    if budget:
        lines.append(
            f"Budget of this round: {budget['asked']}. Selected: {_count(budget['examples'])} examples, {_count(budget['tokens'])} tokens, "
            f"{_count(budget['target_tokens'])} of them in responses."
        )
    lines.append(
        f"Training: {_count(training['steps'])} steps, {_count(training['tokens'])} tokens, epochs counted again."
    )
    return as_markdown([Line(" ".join(lines))])


def _evaluation(document: Mapping[str, Any]) -> str:
    parts = {part: title for part, title in PARTS.items() if part in document}
    blocks: list[Block] = [evaluation_table(document, (part,), title) for part, title in parts.items()]
    written = [*written_table(document, "test"), *written_table(document, "dev")]
    return as_markdown([Line(KEY), *blocks, *written])


def _reproduce(document: Mapping[str, Any]) -> str:
    past = document.get("rounds") or []
    command = [*PROGRAM.split(), "round", "--config", "winnow.yaml", "--run", f"runs/{document['run']}", "--budget"]
    commands = [shlex.join([*command, entry["budget"]]) for entry in past]
    if not past:
        commands = [f"{PROGRAM} train --config winnow.yaml --dataset FILES"]
    text = (
        "winnow.yaml is the config; absolute paths in it are shortened, so set them. winnow.json has the sha256 of every data file, the "
        "versions, and the fingerprints of the artifacts. With the same versions on a CPU in float32 the adapter has the same bytes."
    )
    changed = [str(entry["round"]) for entry in past if entry["changed"]]
    if changed:
        text += f" The config changed before round {', '.join(changed)}: `rounds` in winnow.json says how."
    if document.get("reviewed"):
        text += " The selection was changed in a review, whose decision is in the run directory."
    return f"{text}\n\n{code_block(chr(10).join(_each_once(commands)))}"


def _each_once(commands: Sequence[str]) -> list[str]:
    """Equal commands in a row as one, with how often it is run."""
    found: list[tuple[str, int]] = []
    for command in commands:
        if found and found[-1][0] == command:
            found[-1] = (command, found[-1][1] + 1)
        else:
            found.append((command, 1))
    return [command + (f"  # {times} times" if times > 1 else "") for command, times in found]


def _count(value: float) -> str:
    return write(value, "count")
