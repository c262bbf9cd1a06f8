"""Measures examples: one packed forward pass gives every statistic, without full logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from trainer.errors import MachineError
from trainer.forward import Batch, Tokens, bound_decoder, collate, hidden_states, output_head
from trainer.loss import target_statistics
from trainer.rendering import END_OF_TURN, NO_TARGET
from trainer.shortage import Shortage, attempt, report


@dataclass(frozen=True)
class Wanted:
    """Optional measurements of `measure`, in addition to the statistics of responses.

    conversation: the NLL of every token, including prompts, which then also need the output head: up to 3% on a 7B model.
    turns: the NLL of each response of a conversation. pooled: a vector of each conversation (RDS+).
    """

    conversation: bool = False
    turns: bool = False
    pooled: bool = False


@dataclass(frozen=True)
class Turns:
    """Each response of each example, in order: `counts` (n,) int64 responses of an example; nll_total float64 nats and
    targets int64 of all responses, (sum of counts,)."""

    counts: np.ndarray
    nll_total: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Statistics per example, aligned to the measured rows. NLL and entropy are in nats; means are over target tokens.

    nll_total, nll_mean, entropy_mean (n,) float64; top_mean, margin_mean: highest probability, and by how much it exceeds
    the second; accuracy: share of targets that are the model's most probable token; targets (n,) int64; correct (n,)
    bool: all of them are. nll_total_no_end, targets_no_end and correct_no_end are the same without the end-of-turn
    tokens. An example without targets has zeros, NaN means and False.

    Optional, else None: conversation_nll (n,) float64 in nats and conversation_tokens (n,) int64, of every token but
    the first; turns; pooled (n, d) float16, unit vectors: the mean of the final hidden states, the i-th token weighing
    i (position-weighted pooling, RDS+ of arXiv 2503.01807).
    """

    nll_total: np.ndarray
    nll_mean: np.ndarray
    entropy_mean: np.ndarray
    top_mean: np.ndarray
    margin_mean: np.ndarray
    accuracy: np.ndarray
    targets: np.ndarray
    nll_total_no_end: np.ndarray
    targets_no_end: np.ndarray
    correct: np.ndarray
    correct_no_end: np.ndarray
    conversation_nll: np.ndarray | None = None
    conversation_tokens: np.ndarray | None = None
    turns: Turns | None = None
    pooled: np.ndarray | None = None


@torch.inference_mode()
def measure(
    model: torch.nn.Module,
    tokens: Tokens,
    rows: np.ndarray,
    *,
    batch_tokens: int,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    progress: Callable[[int], None] = lambda rows: None,
) -> Statistics:
    """Statistics of documents `rows` (n,) of `tokens` under `model` with its current adapter.

    Documents are sorted by length and packed up to `batch_tokens` tokens per batch; a longer document gets its own batch.
    Order and batching change results only by rounding. When memory runs out, this batch and the later ones are halved.
    `progress` receives the number of rows just finished. Raises MachineError if one document alone does not fit.
    """
    rows = np.asarray(rows, dtype=np.int64)
    lengths = np.array([len(tokens.ids(int(row))) for row in rows], dtype=np.int64)
    sums = _Sums(len(rows), wanted)
    model.eval()
    device = next(model.parameters()).device
    progress(int((lengths == 0).sum()))
    under_way: _UnderWay | None = None
    batches = FittingBatches(lengths, batch_tokens, "measuring", partial(_release_weights, model))
    for members in batches:
        following = attempt(partial(_launch, model, tokens, rows, members, device, wanted))
        if under_way is not None:  # read finished results while the GPU works on the next batch
            progress(sums.add(under_way))
            under_way = None
        if isinstance(following, Shortage):
            batches.halve(following)
        else:
            under_way = following
    if under_way is not None:
        progress(sums.add(under_way))
    return sums.finish()


def length_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Indices of non-empty documents, longest first, in batches of at most batch_tokens tokens (or one document)."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        totals = np.cumsum(lengths[order[start : start + batch_tokens]])
        count = max(1, int(np.searchsorted(totals, batch_tokens, side="right")))
        yield order[start : start + count]
        start += count


class FittingBatches:
    """`length_batches`, of which the last one can be given back in halves when memory runs out.

    `doing` says in messages what the batches are for. `save_memory` frees what one document alone can do without; it
    returns False if there is nothing left to free.
    """

    def __init__(self, lengths: np.ndarray, batch_tokens: int, doing: str, save_memory: Callable[[], bool]):
        self.lengths, self.batch_tokens, self.doing, self.save_memory = lengths, batch_tokens, doing, save_memory
        self._waiting = length_batches(lengths, batch_tokens)
        self._last = np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        while (members := next(self._waiting, None)) is not None:
            self._last = members
            yield members

    def halve(self, found: Shortage) -> None:
        """Repeat the last batch, and continue, with at most half its tokens; at one document, with less memory.

        Raises:
            MachineError: one document alone does not fit.
        """
        tokens, last = int(self.lengths[self._last].sum()), self._last
        rest = np.concatenate([last, *self._waiting])
        if len(last) > 1:
            self.batch_tokens = tokens // 2
            report(found, f"{self.doing} {tokens:,} tokens at once", f"at most {self.batch_tokens:,} tokens at once")
        elif self.save_memory():
            report(found, f"{self.doing} one example of {tokens:,} tokens", "the plan that needs the least memory")
        else:
            raise MachineError(
                f"out of {found.memory} while {self.doing} one example of {tokens:,} tokens ({found.message}). Finished work is "
                f"kept. Free memory that other programs use and run the same command again, or lower tokens.max_length."
            )
        self._waiting = (rest[members] for members in length_batches(self.lengths[rest], self.batch_tokens))


def _release_weights(model: torch.nn.Module) -> bool:
    """Stop holding NF4 weights dequantized; False if they are not."""
    decoder = bound_decoder(model)
    held = decoder is not None and decoder.resident
    if held:
        decoder.hold(False)
    return held


@dataclass(frozen=True)
class _UnderWay:
    """A batch that the device may still be working on: its results, and the event of their arrival."""

    members: np.ndarray
    batch: Batch
    found: torch.Tensor
    pooled: torch.Tensor | None
    ready: torch.cuda.Event | None


def _launch(
    model: torch.nn.Module,
    tokens: Tokens,
    rows: np.ndarray,
    members: np.ndarray,
    device: torch.device,
    wanted: Wanted,
) -> _UnderWay:
    batch = collate(tokens, rows[members], device, every_token=wanted.conversation)
    if wanted.pooled:
        hidden_Td = hidden_states(model, batch)
        pooled, hidden_Pd = _pool(hidden_Td, batch), hidden_Td[batch.predictors]
        del hidden_Td
    else:
        pooled, hidden_Pd = None, hidden_states(model, batch, rows=batch.predictors)
    found = target_statistics(hidden_Pd, output_head(model), batch.labels)
    columns = torch.stack([found.nll, found.entropy, found.top, found.margin, found.correct.float()])
    if device.type != "cuda":
        return _UnderWay(members, batch, columns, pooled, None)
    columns, pooled = _to_host(columns), None if pooled is None else _to_host(pooled)
    ready = torch.cuda.Event()
    ready.record()
    return _UnderWay(members, batch, columns, pooled, ready)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _pool(hidden_Td: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(D, d) float16 unit vectors: the mean of each document's hidden states, the i-th token weighing i."""
    lengths = torch.from_numpy(batch.lengths).to(hidden_Td.device)
    weighted = hidden_Td.float() * (batch.position_ids + 1)[:, None]
    sums = torch.segment_reduce(weighted, "sum", lengths=lengths, axis=0, unsafe=True)
    return torch.nn.functional.normalize(sums, dim=-1).half()


@dataclass
class _Sums:
    """Sums per example in float64, by name; those that end in no_end exclude end-of-turn tokens."""

    n: int
    wanted: Wanted
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    turns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    pooled: np.ndarray | None = None

    def add(self, done: _UnderWay) -> int:
        """Add a batch, waiting for it if necessary; returns its number of examples."""
        if done.ready is not None:
            done.ready.synchronize()
        nll, entropy, top, margin, correct = done.found.double().numpy()
        batch, members = done.batch, done.members
        response = (batch.label_kinds != NO_TARGET).astype(np.float64)
        body = response * (batch.label_kinds != END_OF_TURN)
        columns = {
            "nll": nll * response,
            "entropy": entropy * response,
            "top": top * response,
            "margin": margin * response,
            "right": correct * response,
            "targets": response,
            "nll_no_end": nll * body,
            "wrong_no_end": (1 - correct) * body,
            "targets_no_end": body,
        }
        if self.wanted.conversation:
            columns |= {"conversation_nll": nll, "conversation_tokens": np.ones_like(nll)}
        for name, values in columns.items():
            per_document = np.bincount(batch.label_documents, weights=values, minlength=len(members))
            self.sums.setdefault(name, np.zeros(self.n))[members] = per_document
        if self.wanted.turns:
            self._add_turns(batch, members, nll)
        if done.pooled is not None:
            if self.pooled is None:
                self.pooled = np.zeros((self.n, done.pooled.shape[1]), dtype=np.float16)
            self.pooled[members] = done.pooled.numpy()
        return len(members)

    def _add_turns(self, batch: Batch, members: np.ndarray, nll: np.ndarray) -> None:
        at = np.flatnonzero(batch.label_kinds != NO_TARGET)
        place, document, kind = batch.label_positions[at], batch.label_documents[at], batch.label_kinds[at]
        begins = np.ones(len(at), dtype=bool)
        begins[1:] = (np.diff(place) != 1) | (np.diff(document) != 0) | (kind[:-1] == END_OF_TURN)
        turn = np.cumsum(begins) - 1
        self.turns.append((members[document[begins]], np.bincount(turn, weights=nll[at]), np.bincount(turn)))

    def finish(self) -> Statistics:
        """The statistics computed from the sums."""
        zero = np.zeros(self.n)
        s = {name: self.sums.get(name, zero) for name in (*_MEANS, "nll_no_end", "wrong_no_end", "targets_no_end")}
        targets = self.sums.get("targets", zero)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {field: s[name] / targets for name, field in _MEANS.items()}
        turns = None
        if self.wanted.turns:
            nothing = (np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
            owner, nll, count = (np.concatenate(parts) for parts in zip(nothing, *self.turns, strict=True))
            order = np.argsort(owner, kind="stable")
            turns = Turns(np.bincount(owner, minlength=self.n), nll[order], count[order])
        whole = self.wanted.conversation
        return Statistics(
            nll_total=s["nll"],
            **means,
            targets=targets.astype(np.int64),
            nll_total_no_end=s["nll_no_end"],
            targets_no_end=s["targets_no_end"].astype(np.int64),
            correct=(s["right"] == targets) & (targets > 0),
            correct_no_end=(s["wrong_no_end"] == 0) & (s["targets_no_end"] > 0),
            conversation_nll=self.sums.get("conversation_nll", zero) if whole else None,
            conversation_tokens=self.sums.get("conversation_tokens", zero).astype(np.int64) if whole else None,
            turns=turns,
            pooled=self.pooled if self.n or not self.wanted.pooled else np.zeros((0, 0), np.float16),
        )


_MEANS = {"nll": "nll_mean", "entropy": "entropy_mean", "top": "top_mean", "margin": "margin_mean", "right": "accuracy"}
"""Sums, and the field of Statistics that takes their mean over targets."""
