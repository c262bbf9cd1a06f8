"""The forward pass of training and measuring: a pack of documents in, final hidden states out.

Shapes: T tokens of the pack, D documents, P positions whose next token is a target, d width of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from trainer.attention import PACKED_ATTENTION, PackLayout
from trainer.decoder.decoder import Decoder, Unsupported, layers_signature
from trainer.errors import DataError
from trainer.gate import limits
from trainer.loss import Head

logger = logging.getLogger(__name__)


class Tokens(Protocol):
    """The part of a token table that the forward pass needs; `trainer.tokens.TokenTable` implements it."""

    def ids(self, row: int) -> np.ndarray:
        """(length,) token ids of one document."""
        ...

    def targets(self, row: int) -> np.ndarray:
        """(length,) 0 not trained on, 1 token of a response, 2 the end token of a response."""
        ...


@dataclass(frozen=True)
class Batch:
    """Concatenated documents without padding.

    input_ids (T,) int64, position_ids (T,) int64 restarting at 0 in each document, cu_seqlens (D+1,) int32, targets
    (T,) uint8 as in Tokens.targets, rows (D,) int64 rows of the token table. predictors (P,) int64: positions whose
    next token is a label; labels (P,) int64: those tokens, the targets (or all tokens); label_kinds (P,) uint8: 1 or 2
    (or 0, no target); label_documents (P,) int64: index into rows; label_positions (P,) int64: predictors + 1 on the
    host. borders are cu_seqlens as Python numbers.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    targets: torch.Tensor
    predictors: torch.Tensor
    labels: torch.Tensor
    label_kinds: np.ndarray
    label_documents: np.ndarray
    label_positions: np.ndarray
    rows: np.ndarray
    borders: tuple[int, ...]

    @property
    def lengths(self) -> np.ndarray:
        """(D,) int64 tokens of each document."""
        return np.diff(self.borders)

    @property
    def layout(self) -> PackLayout:
        """Borders of the documents, for attention."""
        return PackLayout(self.borders, self.cu_seqlens, int(self.lengths.max()))

    def to(self, device: torch.device) -> Batch:
        """A copy with its tensors on `device`; copies to a GPU are asynchronous, through pinned memory."""
        names = ("input_ids", "position_ids", "cu_seqlens", "targets", "predictors", "labels")
        here = {name: getattr(self, name) for name in names}
        if device.type == "cuda":
            here = {name: tensor if tensor.is_cuda else tensor.pin_memory() for name, tensor in here.items()}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in here.items()})


def collate(
    tokens: Tokens,
    rows: Sequence[int] | np.ndarray,
    device: torch.device | str = "cpu",
    every_token: bool = False,
) -> Batch:
    """Concatenate documents `rows` of `tokens` in that order; with `every_token` all tokens are labels, not only targets.

    The first token of a document is never a label, whatever its target, because nothing in the document predicts it.
    Raises DataError if there is no document or an empty one.
    """
    ids = [np.asarray(tokens.ids(int(row))) for row in rows]
    lengths = np.array([len(x) for x in ids], dtype=np.int64)
    if len(ids) == 0 or lengths.min() == 0:
        found = f"an empty one at row {rows[int(lengths.argmin())]}" if ids else "none"
        raise DataError(f"expected documents of at least one token, found {found}")
    borders = np.concatenate([[0], np.cumsum(lengths)])
    targets = np.concatenate([np.asarray(tokens.targets(int(row))) for row in rows]).astype(np.uint8)
    is_label = np.ones(len(targets), dtype=bool) if every_token else targets > 0
    is_label[borders[:-1]] = False
    labels = np.flatnonzero(is_label)
    flat = np.concatenate(ids).astype(np.int64)
    batch = Batch(
        input_ids=torch.from_numpy(flat),
        position_ids=torch.from_numpy(np.arange(len(flat)) - np.repeat(borders[:-1], lengths)),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
        targets=torch.from_numpy(targets),
        predictors=torch.from_numpy(labels - 1),
        labels=torch.from_numpy(flat[labels]),
        label_kinds=targets[labels],
        label_documents=np.searchsorted(borders, labels, side="right") - 1,
        label_positions=labels,
        rows=np.asarray(rows, dtype=np.int64),
        borders=tuple(borders.tolist()),
    )
    return batch.to(torch.device(device))


def causal_lm(model: torch.nn.Module) -> torch.nn.Module:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body(causal: torch.nn.Module) -> torch.nn.Module:
    """The layers of a transformers model, without its output head."""
    return causal.model if causal.base_model is causal else causal.base_model


def compute_dtype(model: torch.nn.Module) -> torch.dtype:
    """The dtype in which a model computes: that of its embeddings (LoRA's own weights are float32 regardless)."""
    return causal_lm(model).get_input_embeddings().weight.dtype


def hidden_states(
    model: torch.nn.Module,
    batch: Batch,
    inputs_embeds: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    dropout_packs: Sequence[tuple[int, int]] | None = None,
) -> torch.Tensor:
    """Final hidden states (T, d), after the last norm, of every token of the batch, with isolated documents. With `rows`
    (P,) int64 only those of these tokens, (P, d), which is slightly faster without gradients.

    `model` comes from trainer.model, which binds our own decoder if possible and otherwise sets up transformers'
    attention. LoRA's float32 weights are used in the model's compute dtype. `inputs_embeds` (T, d), if given, replace
    the embeddings of input_ids (NEFTune). `dropout_packs`: (tokens, seed) of each pack, for LoRA's dropout in training mode by our own
    decoder; transformers draws its masks from torch's global generator. Raises DataError for a document beyond the model's context.
    """
    causal = causal_lm(model)
    limits.check(causal.config, max(batch.lengths))
    decoder = bound_decoder(causal)
    if decoder is not None:
        embeddings_Td = causal.get_input_embeddings()(batch.input_ids) if inputs_embeds is None else inputs_embeds
        return decoder.hidden_states(
            embeddings_Td, batch.position_ids, batch.layout, model.training, rows, dropout_packs
        )
    packed = causal.config._attn_implementation == PACKED_ATTENTION
    given = {"pack": batch.layout} if packed else {}
    autocast = torch.autocast(
        batch.input_ids.device.type, dtype=torch.bfloat16, enabled=compute_dtype(model) == torch.bfloat16
    )
    with autocast, _replaced_embeddings(causal, inputs_embeds):
        output = body(causal)(
            input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False, **given
        )
    hidden_Td = output.last_hidden_state[0]
    return hidden_Td if rows is None else hidden_Td[rows]


@contextmanager
def _replaced_embeddings(causal: torch.nn.Module, inputs_embeds: torch.Tensor | None) -> Iterator[None]:
    """Inside the block the embedding layer returns `inputs_embeds` (T, d).

    The model still receives input_ids: Gemma 3n and others read them in every layer, and compute something else without them.
    """
    if inputs_embeds is None:
        yield
        return
    layer = causal.get_input_embeddings()
    hook = layer.register_forward_hook(lambda module, inputs, output: inputs_embeds.view_as(output))
    try:
        yield
    finally:
        hook.remove()


def bind_decoder(causal: torch.nn.Module) -> Decoder | None:
    """Make `hidden_states` of this model use our own decoder from now on, with any adapter.

    Returns None, with a warning, if only transformers' forward supports the model.
    """
    signature = layers_signature(causal)
    causal.winnow_decoder = (None, None)  # free the old decoder's matrices before making new ones
    try:
        decoder = Decoder.bind(causal, compute_dtype(causal))
    except Unsupported as reason:
        name = type(causal).__name__
        logger.info("%s runs through transformers' own forward, which is slower, because it has %s", name, reason)
        decoder = None
    causal.winnow_decoder = (signature, decoder)
    return decoder


def bound_decoder(model: torch.nn.Module) -> Decoder | None:
    """The model's decoder from `bind_decoder`, or None; it is bound again after an adapter was loaded or removed."""
    causal = causal_lm(model)
    bound = getattr(causal, "winnow_decoder", None)
    if bound is None:
        return None
    if bound[0] != layers_signature(causal):
        del bound
        return bind_decoder(causal)
    return bound[1]


def output_head(model: torch.nn.Module) -> Head:
    """The output head, with the scale and the cap of logits that `trainer.gate.architecture` found in the model."""
    causal = causal_lm(model)
    head = causal.get_output_embeddings()
    return Head(head.weight, getattr(head, "bias", None), *getattr(causal, "winnow_logits", ()))
