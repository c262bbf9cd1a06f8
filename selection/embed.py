"""Embed texts as unit vectors with sentence-transformers: transformer models, and static ones, which need no forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from selection.config import EmbedConfig
from selection.distill import distill
from selection.errors import MachineError, SelectionError
from selection.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CHUNK = 4096
"""Texts tokenized at a time to get their lengths."""


def load_embedder(config: EmbedConfig) -> SentenceTransformer:
    """The embedder that `config` names, on its device and in its dtype.

    Raises:
        SelectionError: the model does not exist or cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if _wants_bfloat16(config, device) else torch.float32
    try:
        model = SentenceTransformer(
            config.model,
            device=device,
            revision=config.revision,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    except (OSError, ValueError, ImportError, LookupError, AttributeError, TypeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SelectionError(
            f"embed.model: {config.model} cannot be loaded as a sentence-transformers model with weights in safetensors ({reason})"
        ) from error
    _check_complete(model, config)
    if config.distill:
        return distill(model)
    return model.float() if _is_static(model) else model


def _is_static(model: SentenceTransformer) -> bool:
    """Whether a text's vector is a mean of its tokens' vectors: then no text is padded, and lengths do not matter."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def _check_complete(model: SentenceTransformer, config: EmbedConfig) -> None:
    """Raises SelectionError if the checkpoint lacks weights: transformers draws them at random, others in each process.

    The checkpoint is compared on the meta device, without reading its weights. The weights of BERT's pooler may be absent: sentence
    embeddings do not use them.
    """
    from transformers import AutoModel

    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:  # no transformers checkpoint, as in static embeddings
        return
    source = {"revision": config.revision, "trust_remote_code": False}
    _, info = AutoModel.from_pretrained(
        transformer.name_or_path, device_map={"": "meta"}, output_loading_info=True, **source
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise SelectionError(
            f"embed.model: expected every weight of the model in the checkpoint {config.model}, found {len(missing)} missing: "
            f"{', '.join(missing[:5])}; download it again"
        )


def _wants_bfloat16(config: EmbedConfig, device: str) -> bool:
    import torch

    if config.dtype != "auto":
        return config.dtype == "bfloat16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def embed_texts(
    texts: Sequence[str],
    config: EmbedConfig,
    out: np.ndarray,
    progress: Callable[[int], None] = lambda n: None,
    embedder: SentenceTransformer | None = None,
    attempt: Callable[[Callable[[], np.ndarray]], np.ndarray | None] = lambda encode: encode(),
) -> None:
    """Embed `texts` into `out`, longest first.

    So a batch holds texts of similar length, and memory peaks in the first batch. When memory runs out, this batch and the
    later ones are halved.

    Args:
        texts: n texts; the embedder truncates them to its maximum length.
        out: (n, d) float16 array to fill with unit vectors.
        progress: called with the number of texts just embedded.
        embedder: a loaded model; None loads the one of `config`.
        attempt: calls a function and returns its result, or None if memory ran out in it.

    Raises:
        MachineError: a text alone does not fit the memory.
    """
    embedder = embedder or load_embedder(config)
    order = np.argsort(-_character_lengths(texts), kind="stable")
    most = config.batch_tokens
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        chunk = [texts[int(row)] for row in rows]
        lengths = _token_lengths(embedder, chunk)
        waiting = list(_batches(lengths, most))
        while waiting:
            batch = waiting.pop(0)
            vectors = attempt(partial(_encode, embedder, [chunk[i] for i in batch]))
            if vectors is None:
                most = _half(lengths[batch])
                left = np.concatenate([batch, *waiting])
                waiting = [left[members] for members in _batches(lengths[left], most)]
                continue
            out[rows[batch]] = unit(vectors)
            progress(len(batch))


def _encode(embedder: SentenceTransformer, texts: list[str]) -> np.ndarray:
    return embedder.encode(texts, batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False)


def _half(lengths: np.ndarray) -> int:
    """Tokens, including padding, of half a batch of texts of these lengths. Raises MachineError if it has one text."""
    if len(lengths) == 1:
        raise MachineError(
            f"out of memory while embedding one text of {lengths[0]:,} tokens. Free memory that other programs use and run the same "
            f"command again, or set embed.device to cpu, or name a smaller embed.model."
        )
    return max(1, int(lengths.max())) * (len(lengths) // 2)


def _character_lengths(texts: Sequence[str]) -> np.ndarray:
    if hasattr(texts, "lengths"):
        return texts.lengths()
    return np.array([len(text) for text in texts], dtype=np.int64)


def _token_lengths(embedder: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """(n,) tokens of each text that count for the size of a batch."""
    if _is_static(embedder):
        return np.ones(len(texts), dtype=np.int64)
    encoded = embedder.tokenizer(
        texts, truncation=True, max_length=embedder.max_seq_length, padding=False, return_attention_mask=False
    )
    return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)


def _batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Indices of texts in batches of at most `batch_tokens` tokens, including padding; a longer text is a batch of its own."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(int(lengths[order[start]]), 1))
        yield order[start : start + count]
        start += count
