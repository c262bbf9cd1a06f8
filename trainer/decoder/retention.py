"""How much each decoder layer keeps between its forward and its backward pass, under a memory budget.

    keep       everything: the backward pass recomputes nothing
    products   all but cheap inputs of matrix products (norms, the gate), which are recomputed
    input      only the layer's input: all but its last matrix product is recomputed
    offload    as input, but the input is kept in host memory

The bytes of each are arithmetic over the model's widths, so `plan` can compute them without a GPU. A layer that keeps
more uses memory and saves time. All layers are equal, so only the number of layers of each kind matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

ALIGN = 8
"""LoRA's rank is padded to a multiple of this: 16 bytes in bfloat16, for fast matrix products."""
LOGITS_CHUNK = 2**26
"""Number of logits held at once on a GPU."""
RESERVE = 0.06
"""Share of a GPU's memory that the automatic budget leaves free, for libraries and fragmentation."""
HOST_SHARE = 0.25
"""Share of the free memory that the automatic budget uses on a CPU."""


class Retention(StrEnum):
    """What a layer keeps for its backward pass; see the module's docstring."""

    KEEP = "keep"
    PRODUCTS = "products"
    INPUT = "input"
    OFFLOAD = "offload"


@dataclass(frozen=True)
class Widths:
    """Widths of a decoder layer: model, q output, k (or v) output, MLP, and the rank of LoRA; bytes per value; whether q and k, and
    the outputs of attention and of the MLP, are normalized; whether these outputs are scaled before they are added (Granite)."""

    hidden: int
    query: int
    key_value: int
    intermediate: int
    heads: int
    rank: int
    itemsize: int
    qk_norm: bool = False
    after_norms: bool = False
    scaled: bool = False


def kept_values(widths: Widths, retention: Retention) -> int:
    """Values per token that a layer keeps."""
    d, q, kv, ff, r = widths.hidden, widths.query, widths.key_value, widths.intermediate, widths.rank
    if retention is Retention.OFFLOAD:
        return 0
    if retention is Retention.INPUT:
        return d
    attention = q + 2 * kv + (q + kv if widths.qk_norm else 0) + (q + r)
    kept = d + attention + d + 2 * ff + 2 * r + (2 * d if widths.after_norms else 0)
    if retention is Retention.KEEP:
        kept += (d + 3 * r) + (d + 2 * r) + (ff + r)
    return kept


def kept_bytes(widths: Widths, retention: Retention, tokens: int) -> int:
    """Bytes that a layer keeps of `tokens` tokens; the log-sum-exp of attention is float32 per head."""
    log_sums = 4 * widths.heads if retention in (Retention.KEEP, Retention.PRODUCTS) else 0
    return tokens * (kept_values(widths, retention) * widths.itemsize + log_sums)


def working_bytes(widths: Widths, retention: Retention, tokens: int) -> int:
    """Peak bytes in the backward pass of one layer beyond what it keeps: recomputed tensors, the gradient of the
    gated product, and three tensors of the model's width; two more where the layer is computed again: with offload one input arrives
    and one leaves, and without it an H200 was measured to use as much (1.23 GiB at 8,192 tokens of Mistral-7B)."""
    d, ff, r = widths.hidden, widths.intermediate, widths.rank
    values = 3 * (d + r) + (2 * d if retention in (Retention.INPUT, Retention.OFFLOAD) else 0)
    if widths.after_norms or widths.scaled:  # the gradient of the residual stream is a tensor of its own then
        values += d
    if retention is Retention.KEEP:
        return tokens * widths.itemsize * (values + ff)
    if retention is Retention.PRODUCTS:
        return tokens * widths.itemsize * (values + (d + 2 * r) + (ff + r))
    if widths.after_norms:  # the last product is made again too, so its input is there when its gradient comes
        values += ff
    everything = kept_bytes(widths, Retention.KEEP, tokens)
    values -= d + (d + 3 * r)  # what is kept, and the input of q, k and v, which is made when the MLP's pass is over
    return everything + tokens * widths.itemsize * values


def peak_bytes(widths: Widths, retentions: list[Retention], tokens: int, gradients: float = 0.0) -> float:
    """Peak bytes of activations in a forward and backward pass over `tokens` tokens.

    The backward pass runs from the last layer to the first; each frees what it kept and leaves `gradients`
    bytes of its LoRA, which count too.
    """
    kept: float = sum(kept_bytes(widths, retention, tokens) for retention in retentions)
    peak = kept + loss_bytes(widths, tokens)
    kept += tokens * widths.hidden * widths.itemsize  # the gradient from the loss
    for retention in reversed(retentions):
        peak = max(peak, kept + gradients + working_bytes(widths, retention, tokens))
        kept += gradients - kept_bytes(widths, retention, tokens)
    return peak


def loss_bytes(widths: Widths, tokens: int) -> int:
    """Bytes in use while the loss is computed: hidden states, those of the targets, their gradient, a chunk of logits."""
    return tokens * widths.hidden * widths.itemsize * 3 + LOGITS_CHUNK * widths.itemsize


def measuring_bytes(widths: Widths, tokens: int) -> int:
    """Peak bytes in a forward pass that keeps nothing: the residual stream, the gate and up outputs and their
    product with its border, then the hidden states (twice in float32 when they are pooled); and a chunk of logits."""
    values = (4 if widths.after_norms else 2) * widths.hidden + max(
        3 * widths.intermediate + widths.rank, 8 * widths.hidden // widths.itemsize
    )
    return tokens * values * widths.itemsize + 2 * LOGITS_CHUNK * widths.itemsize


def choose(
    widths: Widths, layers: int, tokens: int, budget: float, can_offload: bool, gradients: float = 0.0
) -> list[Retention]:
    """Retention of each layer: the one with the least recomputation whose peak fits `budget` bytes.

    The first layers keep least, because their backward pass comes last. If none fits, the smallest.
    """
    for retentions in _from_most_to_least(layers, can_offload):
        if peak_bytes(widths, retentions, tokens, gradients) <= budget:
            break
    return retentions


def _from_most_to_least(layers: int, can_offload: bool) -> Iterator[list[Retention]]:
    ladder = [Retention.KEEP, Retention.PRODUCTS, Retention.INPUT, *([Retention.OFFLOAD] if can_offload else [])]
    for more, less in pairwise(ladder):
        for count in range(layers):
            yield [less] * count + [more] * (layers - count)
    yield [ladder[-1]] * layers


@dataclass(frozen=True)
class Memory:
    """How training uses memory: what each layer keeps, and whether NF4 weights are held dequantized."""

    retentions: list[Retention]
    resident: bool


def divide(
    widths: Widths,
    layers: int,
    tokens: int,
    budget: float,
    matrices: float,
    can_offload: bool,
    gradients: float = 0.0,
) -> Memory:
    """Divide `budget` bytes among activations and dequantized weights (`matrices` bytes), as measured on an H100.

    Keeping the products saves most time per byte, dequantized weights come next, then the cheap inputs.
    """
    products = peak_bytes(widths, [Retention.PRODUCTS] * layers, tokens, gradients)
    resident = 0 < matrices <= budget - products
    rest = budget - matrices if resident else budget
    return Memory(choose(widths, layers, tokens, rest, can_offload, gradients), resident)
