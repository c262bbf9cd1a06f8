"""What side-by-side adapters write, and how likely they find other answers of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.proving_ground.many_adapters import JOINED, Adapters, FrozenBase
from benchmarks.proving_ground.side_by_side import measure_side_by_side
from trainer.config import GenerateConfig
from trainer.forward import bound_decoder
from trainer.generate import generate
from trainer.generation.adapters import AdapterSet, LowRank
from trainer.tokens import TokenTable

NEW_TOKENS = 160
AT_ONCE = 8
"""Adapters that write at once; more would make steps longer and save none."""


def adapter_set(adapters: Adapters, layers: int, members: Sequence[int], dtype: torch.dtype) -> AdapterSet:
    """The adapters of these runs as the generator takes them."""
    at = list(members)
    found = []
    for index in range(layers):
        of_layer = []
        for name in JOINED:
            a, bs = adapters.parameters[index, name]
            downs = tuple(part[at].contiguous().to(dtype) for part in a.detach().split(adapters.rank, -1))
            ups = tuple((b.detach()[at] * adapters.scale).to(dtype) for b in bs)
            of_layer.append(LowRank(downs, ups))
        found.append(tuple(of_layer))
    return AdapterSet(len(at), found)


def prompt_of_row(table: TokenTable, row: int) -> np.ndarray:
    """Token ids up to the last response."""
    targets = np.asarray(table.targets(row))
    last = int(np.flatnonzero(targets)[-1])
    before = np.flatnonzero(targets[:last] == 0)
    return np.asarray(table.ids(row))[: int(before[-1]) + 1]


def end_tokens(table: TokenTable, rows: np.ndarray) -> set[int]:
    """Ids of the tokens that end a response."""
    found: set[int] = set()
    for row in rows[:50].tolist():
        found |= set(np.asarray(table.ids(row))[np.asarray(table.targets(row)) == 2].tolist())
    return found


def write_answers(
    model: torch.nn.Module, adapters: Adapters, table: TokenTable, rows: Sequence[np.ndarray], tokenizer: Any
) -> list[list[str]]:
    """Greedy answers of each run to its rows, as text."""
    decoder = bound_decoder(model)
    if decoder is None:
        raise SystemExit("the model does not run on Winnow's decoder: no answers can be written side by side")
    config = GenerateConfig(max_new_tokens=NEW_TOKENS, samples=0)
    texts: list[list[str]] = []
    for start in range(0, len(rows), AT_ONCE):
        members = range(start, min(start + AT_ONCE, len(rows)))
        prompts = [prompt_of_row(table, int(row)) for k in members for row in rows[k]]
        owners = [k - start for k in members for _ in rows[k]]
        ends = end_tokens(table, np.concatenate([rows[k] for k in members]))
        chosen = adapter_set(adapters, len(decoder.layers), members, model.get_input_embeddings().weight.dtype)
        written = generate(model, prompts, config, end_ids=ends, seed=0, adapters=chosen, owners=owners)
        plain = [tokenizer.decode([t for t in answer[0].tolist() if t not in ends]) for answer in written]
        borders = np.cumsum([0, *(len(rows[k]) for k in members)])
        texts += [plain[a:b] for a, b in zip(borders[:-1], borders[1:], strict=True)]
    return texts


def likelihoods(
    base: FrozenBase, adapters: Adapters, table: TokenTable, rows: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each run on its rows of the table of alternatives: summed NLL in nats (n,), and number of response tokens (n,)."""
    found = measure_side_by_side(base, adapters, table, rows)
    return [(entry["nll"].astype(np.float32), entry["targets"].astype(np.int16)) for entry in found]
