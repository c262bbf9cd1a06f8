"""The text of an export for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.excerpt import counted

WHAT = {"adapter": "LoRA adapter", "merged": "merged model", "gguf": "GGUF file", "data": "selected data"}


def describe_exported(document: Mapping[str, Any]) -> str:
    """What was written, what was measured of it, and how to use it."""
    kind = document["kind"]
    lines = [
        f"{document['folder']}: {WHAT[kind]} of {document['run']}, round {document['round']}: {counted(document['files'], 'file')}, "
        f"{document['bytes'] / 2**20:,.1f} MiB",
        *_OF[kind](document),
    ]
    if document["pushed"] is not None:
        lines.append(f"Uploaded: {document['pushed']}")
    return "\n".join(lines)


def _adapter(document: Mapping[str, Any]) -> list[str]:
    vllm = document["vllm"]
    if vllm["problems"]:
        return [f"vLLM cannot serve it as it is: {'; '.join(vllm['problems'])}."]
    return [f"Within vLLM's documented limits. In an environment with vLLM: {vllm['command']}"]


def _merged(document: Mapping[str, Any]) -> list[str]:
    found = document["difference"]
    return [
        f"Logits compared with base and adapter on {found['positions']} tokens of {counted(found['documents'], 'text')}: they differ by "
        f"{found['mean']:.4f} on average and {found['largest']:.3f} at most; KL divergence {found['divergence']:.2g} nats; the "
        f"most probable token is the same at {found['same_top']:.1%}."
    ]


def _gguf(document: Mapping[str, Any]) -> list[str]:
    lines = [f"Try it: llama-cli -m {document['folder']}/{document['file']} --jinja"]
    if document["context"] < document["context_of_the_base"]:
        lines.append(
            f"The context is {document['context']:,} tokens, the base's sliding window: llama.cpp has no such window for this architecture."
        )
    return lines


def _data(document: Mapping[str, Any]) -> list[str]:
    return [f"{counted(document['examples'], 'example')}: selection.jsonl, and dataset/ for datasets.load_from_disk"]


_OF = {"adapter": _adapter, "merged": _merged, "gguf": _gguf, "data": _data}
