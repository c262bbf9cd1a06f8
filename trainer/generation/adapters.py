"""Several LoRA adapters of one base at once: their answers share every product with the base's weights.

    x (T, in), rows of adapters 0 0 1 2 2        x·Wᵀ for all rows
                                                 + x·A_kᵀ·B_kᵀ for the rows of adapter k, as one batched product over k

Shapes: K adapters, T rows of a pass, M most rows of one adapter, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from trainer.adapters import CONFIG_FILE, WEIGHTS_FILE, read_config
from trainer.decoder.decoder import Decoder
from trainer.decoder.inference import Plain
from trainer.decoder.projections import Joined
from trainer.errors import CheckpointError


@dataclass(frozen=True)
class LowRank:
    """LoRA of K adapters on the linear layers of one joined projection: `a` (K, in, r) and `b` (K, r, out) of each layer, scaled."""

    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]


@dataclass
class AdapterSet:
    """K adapters of one base. `layers`: of each decoder layer, its four joined projections. Rows of a pass are assigned by `place`."""

    count: int
    layers: list[tuple[LowRank, ...]]
    rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def load(cls, paths: Sequence[Path | None], decoder: Decoder) -> AdapterSet:
        """The adapters saved in PEFT's format at `paths` (None: the base alone), for the base that `decoder` runs without an adapter.

        Ranks, scales and target layers may differ. Raises CheckpointError for a folder that is no plain LoRA or fits another model.
        """
        loaded = [{} if path is None else _read(Path(path)) for path in paths]
        layers = []
        for layer in decoder.layers:
            layers.append(
                tuple(
                    _stack(loaded, f"layers.{layer.index}.", names, joined)
                    for names, joined in zip(decoder.family.projections, layer.joined, strict=True)
                )
            )
        for path, tensors in zip(paths, loaded, strict=True):
            if tensors:
                raise CheckpointError(f"{path}: this adapter does not fit the model: it has {sorted(tensors)[0]}")
        return cls(len(loaded), layers)

    def place(self, *owners: np.ndarray) -> None:
        """Assign rows: each of `owners` (T,) gives the adapter of every row of passes over T rows."""
        device = self.layers[0][0].a[0].device
        self.rows = {len(owner): tuple(x.to(device) for x in _groups(owner, self.count)) for owner in owners}

    @contextmanager
    def attached(self, decoder: Decoder) -> Iterator[None]:
        """Inside the block passes of `decoder` without gradients use these adapters."""
        try:
            for layer, of_layer in zip(decoder.layers, self.layers, strict=True):
                layer.measuring = [ManyLora(*pair, self) for pair in zip(layer.joined, of_layer, strict=True)]
            yield
        finally:
            decoder.measure_in_fp8(False)


class ManyLora(Plain):
    """A joined projection of the base with the adapters of an AdapterSet."""

    def __init__(self, joined: Joined, low: LowRank, adapters: AdapterSet):
        super().__init__(joined)
        self.low, self.adapters = low, adapters

    def product(self, inputs: torch.Tensor, out: torch.Tensor) -> None:
        """See trainer.decoder.inference.Projection."""
        super().product(inputs, out)
        self._add(inputs, out)

    def add_to(self, inputs: torch.Tensor, x_Td: torch.Tensor) -> None:
        """See trainer.decoder.inference.Projection."""
        super().add_to(inputs, x_Td)
        self._add(inputs, x_Td)

    def _add(self, inputs: torch.Tensor, out: torch.Tensor) -> None:
        at_KM, real_KM = self.adapters.rows[len(inputs)]
        flat = at_KM.flatten()
        x_KMi = inputs[:, self.joined.x].index_select(0, flat).unflatten(0, at_KM.shape)
        for i, (a, b) in enumerate(zip(self.low.a, self.low.b, strict=True)):
            up_KMo = torch.bmm(torch.bmm(x_KMi, a) * real_KM[..., None], b)
            out[:, self.joined.output(i)].index_add_(0, flat, up_KMo.flatten(0, 1))


def _groups(owner: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, M) rows of each adapter, padded with row 0, and which of them are real."""
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=count)
    at = np.zeros((count, max(1, sizes.max())), dtype=np.int64)
    real = np.arange(at.shape[1])[None] < sizes[:, None]
    at[real] = order
    return torch.from_numpy(at), torch.from_numpy(real)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Its tensors by name, `b` scaled."""
    config = read_config(path)
    odd = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        raise CheckpointError(
            f"{path / CONFIG_FILE}: expected a plain LoRA, found {', '.join(odd) or config.get('peft_type')}"
        )
    r = config["r"]
    scale = config["lora_alpha"] / (r**0.5 if config.get("use_rslora") else r)
    tensors = load_file(path / WEIGHTS_FILE)
    return {
        name.removeprefix("base_model.model.model."): tensor * scale if "lora_B" in name else tensor
        for name, tensor in tensors.items()
    }


def _stack(loaded: Sequence[dict[str, torch.Tensor]], prefix: str, names: Sequence[str], joined: Joined) -> LowRank:
    """Take the tensors of these linear layers out of every adapter; one that lacks them gets zeros."""
    dtype, device = joined.scratch.dtype, joined.scratch.device
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, out in zip(names, joined.outputs, strict=True):
        found = [tuple(tensors.pop(f"{prefix}{name}.lora_{part}.weight", None) for part in "AB") for tensors in loaded]
        rank = max((a.shape[0] for a, _ in found if a is not None), default=0)
        a = torch.zeros(len(loaded), joined.inputs, rank, dtype=dtype, device=device)
        b = torch.zeros(len(loaded), rank, out, dtype=dtype, device=device)
        for k, (down, up) in enumerate(found):
            if down is not None:
                if down.shape[1] != joined.inputs or up is None or up.shape[0] != out:
                    raise CheckpointError(f"adapter {k + 1}: {prefix}{name} does not fit the model")
                a[k, :, : down.shape[0]], b[k, : up.shape[1]] = down.T, up.T
        pairs.append((a, b))
    return LowRank(*(tuple(part) for part in zip(*pairs, strict=True)))
