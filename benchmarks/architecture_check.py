"""Compares a model in Winnow's hands with the same model in those of plain transformers and PEFT."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.activation import training_mode
from trainer.adapters import save_adapter, trainable_parameters
from trainer.config import LoraConfig, ModelConfig
from trainer.forward import Batch, body, collate, hidden_states, output_head
from trainer.loss import target_nll
from trainer.model import Base
from trainer.neftune import noisy_embeddings

LENGTHS = (20, 20, 33, 9)
PACK, OTHER = (0, 2, 3), (1, 2, 3)
ALPHA = 5.0
TOLERANCE = {"loss": 1e-5, "hidden": 1e-4, "gradient": 1e-3}
"""In float32: of the mean NLL, nats; of hidden states and gradients, relative to their norm."""
BFLOAT16 = 2.0
"""In bfloat16 Winnow may differ from float32 this many times as much as transformers does, plus FLOOR."""
FLOOR = {"loss": 2e-3, "hidden": 2e-3, "gradient": 2e-2}
SHARED_PRODUCTS = {"float32": 1e-6, "bfloat16": 2**-6}


@dataclass(frozen=True)
class Difference:
    """How Winnow differs from the reference. `values` by name; `excess`: the largest relative to what is allowed."""

    path: str
    values: dict[str, float]
    excess: float
    reason: str


@dataclass(frozen=True)
class Passed:
    """Of one pass: the NLL (P,) of every target, hidden states (T, d), gradients of LoRA by name."""

    nll: torch.Tensor
    hidden: torch.Tensor
    gradients: dict[str, torch.Tensor]


class Documents:
    """Random documents, all of whose tokens are targets."""

    def __init__(self, vocabulary: int) -> None:
        rng = np.random.default_rng(1)
        self.documents = [rng.integers(vocabulary // 4, vocabulary // 2, length) for length in LENGTHS]

    def ids(self, row: int) -> np.ndarray:
        """(length,) token ids of a document."""
        return self.documents[row]

    def targets(self, row: int) -> np.ndarray:
        """(length,) ones."""
        return np.ones(LENGTHS[row], dtype=np.uint8)


def compare(folder: Path, dtype: str) -> Difference:
    """The model saved in `folder`, loaded in `dtype` by Winnow and by transformers. Raises TrainerError if Winnow refuses it."""
    base = Base.load(ModelConfig(name=str(folder), quantization="none", compute_dtype=dtype, device="cpu"))
    path = "transformers" if base.decoder is None else "decoder"
    with base.new_adapter(LoraConfig(r=4, alpha=8), seed=0) as model, tempfile.TemporaryDirectory() as adapter:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in trainable_parameters(model).items():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05, generator=generator)
        save_adapter(model, Path(adapter))
        documents = Documents(model.get_input_embeddings().weight.shape[0])
        batch, other = (collate(documents, rows) for rows in (PACK, OTHER))
        with torch.no_grad():
            noise = noisy_embeddings(model, batch, ALPHA, [(len(batch.input_ids), 3)]) - model.get_input_embeddings()(
                batch.input_ids
            )
        values: dict[str, tuple[float, float]] = {}
        stored = getattr(torch, dtype)
        exact = _reference_model(folder, adapter, stored).float()
        rounded = None if stored == torch.float32 else _reference_model(folder, adapter, stored)
        for label, added in (("", None), (" with noise", noise)):
            wanted = _reference(exact, batch, added)
            allowed = TOLERANCE
            if rounded is not None:
                theirs = _differences(_reference(rounded, batch, added), wanted)
                allowed = {name: BFLOAT16 * value + FLOOR[name] for name, value in theirs.items()}
            for name, value in _differences(_ours(model, batch, added), wanted).items():
                values[name + label] = (value, allowed[name])
        values["isolation"] = (_isolation(model, batch, other), _isolation_allowed(model, dtype))
    excess = {
        name: value / limit if limit else (0.0 if value == 0 else float("inf"))
        for name, (value, limit) in values.items()
    }
    excess = {name: value if value == value else float("inf") for name, value in excess.items()}
    worst = max(excess, key=excess.__getitem__)
    reason = (
        ""
        if excess[worst] <= 1
        else f"{dtype}: {worst} differs by {values[worst][0]:.3g}, allowed {values[worst][1]:.3g}"
    )
    return Difference(path, {name: float(f"{value:.3g}") for name, (value, _) in values.items()}, excess[worst], reason)


def _isolation_allowed(model: torch.nn.Module, dtype: str) -> float:
    experts = any(name.endswith("experts") for name, _ in model.named_modules())
    return SHARED_PRODUCTS[dtype] if experts else 0.0


def _differences(found: Passed, wanted: Passed) -> dict[str, float]:
    names = wanted.gradients.keys()
    flat = [torch.cat([passed.gradients[name].flatten() for name in names]) for passed in (found, wanted)]
    return {
        "loss": (found.nll - wanted.nll).abs().mean().item(),
        "hidden": ((found.hidden - wanted.hidden).norm() / wanted.hidden.norm()).item(),
        "gradient": ((flat[0] - flat[1]).norm() / flat[1].norm()).item(),
    }


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in trainable_parameters(model).items()
    }


def _ours(model: torch.nn.Module, batch: Batch, noise: torch.Tensor | None) -> Passed:
    embeddings = None
    if noise is not None:
        embeddings = (model.get_input_embeddings()(batch.input_ids) + noise).detach()
    with training_mode(model, "auto", len(batch.input_ids)):
        hidden = hidden_states(model, batch, embeddings)
        nll = target_nll(hidden[batch.predictors], output_head(model), batch.labels)
        (nll.sum() / len(nll)).backward()
        return Passed(nll.detach().float(), hidden.detach().float(), _gradients(model))


def _reference_model(folder: Path, adapter: str, dtype: torch.dtype) -> torch.nn.Module:
    """The model as transformers and PEFT load it, in training mode."""
    import peft
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return peft.PeftModel.from_pretrained(causal, adapter, is_trainable=True).train()


def _reference(model: torch.nn.Module, batch: Batch, noise: torch.Tensor | None) -> Passed:
    """Each document alone, in the dtype of the model."""
    causal = model.get_base_model()
    layers = body(causal)
    layers = getattr(layers, "decoder", layers)
    computed = causal.get_input_embeddings().weight.dtype
    model.zero_grad()
    nll, hidden = [], []
    pieces = pairwise(batch.borders)
    with torch.autocast("cpu", torch.bfloat16, enabled=computed == torch.bfloat16):
        for begin, end in pieces:
            ids = batch.input_ids[None, begin:end]
            with (
                _added(causal, None if noise is None else noise[begin:end]),
                _watched(layers) as seen,
            ):
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            nll.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
            hidden.append(seen()[0].float())
    nll_P = torch.cat(nll)
    (nll_P.sum() / len(nll_P)).backward()
    return Passed(nll_P.detach(), torch.cat(hidden).detach(), _gradients(model))


@contextmanager
def _added(causal: torch.nn.Module, noise: torch.Tensor | None) -> Iterator[None]:
    """Inside the block `noise` (T, d) is added to what the embedding layer returns."""
    if noise is None:
        yield
        return
    hook = causal.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output + noise.to(output.dtype)
    )
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _watched(module: torch.nn.Module) -> Iterator[Callable[[], Any]]:
    """The first output of `module` in its last call inside the block."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    try:
        yield lambda: seen[-1]
    finally:
        hook.remove()


@torch.no_grad()
def _isolation(model: torch.nn.Module, batch: Batch, other: Batch) -> float:
    """By how much the second document's hidden states change with the first document, relative to their norm."""
    model.train()
    both = [
        hidden_states(model, b, model.get_input_embeddings()(b.input_ids))[slice(*b.borders[1:3])]
        for b in (batch, other)
    ]
    model.eval()
    return ((both[0] - both[1]).double().norm() / both[1].double().norm()).item()
