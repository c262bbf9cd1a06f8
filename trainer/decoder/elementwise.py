"""Norms, rotary embeddings and gates, each in one pass over memory, written directly into the next product's input.

On a GPU these are the Triton kernels of kernels.py; elsewhere plain torch with the same rounding. Tensors are
(rows, width) with contiguous rows, which may be part of a wider buffer.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F

WARPS = 8
COLUMNS = 1024
Angles = tuple[torch.Tensor, torch.Tensor]
"""cos and sin (T, R) of a rotary embedding of the first R columns of a head; usually all of them, R = D."""
Activation = Literal["silu", "gelu_tanh"]
"""Of the gate. Both are x · sigmoid(k(x)): SiLU with k(x) = x, GELU's tanh form (arXiv 1606.08415) with k(x) = LINEAR · x + CUBIC · x³."""
LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
CUBIC = 0.044715 * LINEAR
FP8_MAX = 448.0
"""Largest number of torch.float8_e4m3fn."""


def _kernels(tensor: torch.Tensor) -> ModuleType | None:
    if not tensor.is_cuda:
        return None
    from trainer.decoder import kernels

    return kernels


def add_rms_norm(
    x: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, eps: float, normed: torch.Tensor
) -> torch.Tensor:
    """Write rms_norm(x + y) · weight into `normed` and return x + y (x itself if y is None).

    The normal is rounded to the weight's dtype before it is multiplied: as in Llama if that is the dtype of x, and not at all if the
    weight is float32, as in Gemma and OLMo 2.
    """
    kernels = _kernels(x)
    if kernels is None:
        total = x if y is None else x + y
        value = total.float()
        value = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
        torch.mul(value.to(weight.dtype), weight, out=normed)
        return total
    rows, width = x.shape
    total = x if y is None else torch.empty(rows, width, dtype=x.dtype, device=x.device)
    other = x if y is None else y
    kernels.add_rms_norm_kernel[(rows,)](
        x, other, weight, total, normed, x.stride(0), other.stride(0), total.stride(0), normed.stride(0), width, eps,
        ADD=y is not None, BLOCK=_power_of_2(width), num_warps=WARPS,
    )  # fmt: skip
    return total


def rms_norm_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    copy: torch.Tensor | None = None,
) -> None:
    """Write into `out` the gradient of rms_norm(x) · weight with respect to x, plus `residual`; out may be either input. Without a
    residual, `copy` (rows, width) receives `gradient` as it was."""
    kernels = _kernels(x)
    if kernels is None:
        if copy is not None:
            copy.copy_(gradient)
        value = x.float()
        scale = torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
        normal = value * scale
        upstream = gradient.float() * weight.float()
        result = scale * (upstream - normal * (upstream * normal).mean(-1, keepdim=True))
        out.copy_(result if residual is None else result + residual.float())
        return
    rows, width = x.shape
    other = next(tensor for tensor in (residual, copy, gradient) if tensor is not None)
    kernels.rms_norm_backward_kernel[(rows,)](
        gradient, x, weight, other, out, gradient.stride(0), x.stride(0), other.stride(0), out.stride(0), width, eps,
        ADD=residual is not None, COPY=copy is not None, BLOCK=_power_of_2(width), num_warps=WARPS,
    )  # fmt: skip


def rotate(
    source: torch.Tensor,
    target: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    inverse: bool = False,
    head_width: int | None = None,
) -> None:
    """Rotary embedding of heads side by side, (T, heads · D) into `target` (which may be `source`).

    Rotates one half of a head against the other, as in transformers. `inverse` gives the gradient. `head_width` D is needed if angles
    are of the first R < D columns of each head only; the others are copied.
    """
    tokens, rotated = cos_TR.shape
    width = head_width or rotated
    heads, half = source.shape[1] // width, rotated // 2
    if rotated < width and source.data_ptr() != target.data_ptr():
        move(source, target)
        source = target
    if _kernels(source) is None:
        first, second = source.reshape(tokens, heads, width)[..., :rotated].split(half, dim=-1)
        (cos_1, cos_2), (sin_1, sin_2) = cos_TR[:, None].split(half, dim=-1), sin_TR[:, None].split(half, dim=-1)
        if inverse:
            turned = torch.cat([first * cos_1 + second * sin_2, second * cos_2 - first * sin_1], dim=-1)
        else:
            turned = torch.cat([first * cos_1 - second * sin_1, second * cos_2 + first * sin_2], dim=-1)
        target.unflatten(1, (heads, width))[..., :rotated].copy_(turned)
        return
    from trainer.decoder.head_kernels import rotate_kernel

    rotate_kernel[(tokens,)](
        source, target, cos_TR, sin_TR, source.stride(0), target.stride(0), heads, half, width,
        INVERSE=inverse, HEADS=_power_of_2(heads), HALF=_power_of_2(half), num_warps=WARPS,
    )  # fmt: skip


def norm_heads(
    heads: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    head_width: int,
    raw: torch.Tensor | None = None,
    angles: Angles | None = None,
) -> None:
    """In place: RMSNorm of heads side by side, (T, heads · D), over as many columns at a time as `weight` has (D or all), then, with
    `angles` (cos, sin), their rotary embedding; see `rotate`. `raw` (T, heads · D) receives the heads as they were."""
    width = heads.shape[1]
    if _kernels(heads) is None:
        if raw is not None:
            raw.copy_(heads)
        groups = heads.reshape(-1, len(weight))
        normed = torch.empty_like(groups)
        add_rms_norm(groups, None, weight, eps, normed)
        heads.copy_(normed.view(heads.shape))
    else:
        from trainer.decoder.head_kernels import norm_rotate_kernel

        turned = angles is not None and angles[0].shape[1] == head_width
        cos, sin = angles if turned else (heads, heads)
        kept = heads if raw is None else raw
        count, half = width // head_width, head_width // 2
        norm_rotate_kernel[(len(heads),)](
            heads, kept, weight, cos, sin, heads.stride(0), kept.stride(0), count, half, eps,
            WHOLE=len(weight) != head_width, RAW=raw is not None, ROTATE=turned,
            HEADS=_power_of_2(count), HALF=_power_of_2(half), num_warps=_warps(count, half),
        )  # fmt: skip
        angles = None if turned else angles
    if angles is not None:
        rotate(heads, heads, *angles, head_width=head_width)


def norm_heads_backward(
    gradient: torch.Tensor,
    raw: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    head_width: int,
    angles: Angles,
    out: torch.Tensor,
) -> None:
    """Write into `out` (T, heads · D) the gradient of norm_heads with respect to `raw`; out may be `gradient`."""
    turned = angles[0].shape[1] == head_width
    if not turned or _kernels(raw) is None:
        rotate(gradient, out, *angles, inverse=True, head_width=head_width)
        gradient = out
    if _kernels(raw) is None:
        groups = out.reshape(-1, len(weight))
        rms_norm_backward(groups, raw.reshape(groups.shape), weight, eps, None, groups)
        out.copy_(groups.view(out.shape))
        return
    from trainer.decoder.head_kernels import norm_rotate_backward_kernel

    cos, sin = angles if turned else (raw, raw)
    count, half = raw.shape[1] // head_width, head_width // 2
    norm_rotate_backward_kernel[(len(raw),)](
        gradient, raw, weight, cos, sin, out, gradient.stride(0), raw.stride(0), out.stride(0), count, half, eps,
        WHOLE=len(weight) != head_width, ROTATE=turned, HEADS=_power_of_2(count), HALF=_power_of_2(half),
        num_warps=_warps(count, half),
    )  # fmt: skip


def move(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy (rows, width) into `target`. torch's copy between different strides reaches only 60% of the bandwidth."""
    rows, width = source.shape
    kernels = _kernels(source)
    if kernels is None:
        target.copy_(source)
        return
    block = min(_power_of_2(width), COLUMNS)
    tile = 4096 // block
    kernels.move_kernel[(-(-rows // tile), -(-width // block))](
        source, target, source.stride(0), target.stride(0), rows, width, ROWS=tile, BLOCK=block, num_warps=4
    )


def gated_product(gate_up: torch.Tensor, out: torch.Tensor, activation: Activation = "silu") -> None:
    """Write activation(gate) · up into `out` (T, F); gate and up are the halves of `gate_up` (T, 2F)."""
    rows, width = out.shape
    kernels = _kernels(gate_up)
    if kernels is None:
        torch.mul(_activate(gate_up[:, :width], activation), gate_up[:, width:], out=out)
        return
    kernels.gated_product_kernel[(rows, _parts(width))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, LINEAR, CUBIC,
        GELU=activation == "gelu_tanh", BLOCK=COLUMNS, num_warps=4,
    )  # fmt: skip


def gated_product_backward_(
    gate_up: torch.Tensor, product: torch.Tensor, recompute: bool, activation: Activation = "silu"
) -> None:
    """In place: replace `gate_up` (T, 2F) by its gradient, given that of the product in `product` (T, F).

    With `recompute`, `product` is replaced by the product itself.
    """
    rows, width = product.shape
    gelu = activation == "gelu_tanh"
    kernels = _kernels(gate_up)
    if kernels is None:
        gate, up = gate_up[:, :width].float(), gate_up[:, width:].float()
        upstream = product.float()
        sigmoid = torch.sigmoid(gate * (LINEAR + CUBIC * gate * gate) if gelu else gate)
        active = gate * sigmoid
        steepness = active * (1.0 - sigmoid)
        if gelu:
            steepness *= LINEAR + 3.0 * CUBIC * gate * gate
        of_gate, of_up = upstream * up * (sigmoid + steepness), upstream * active
        if recompute:
            gated_product(gate_up, product, activation)  # bit for bit the forward pass's, whatever is kept
        gate_up[:, :width], gate_up[:, width:] = of_gate, of_up
        return
    kernels.gated_product_backward_kernel[(rows, _parts(width))](
        gate_up, product, gate_up.stride(0), product.stride(0), width, LINEAR, CUBIC,
        PRODUCT=recompute, GELU=gelu, BLOCK=COLUMNS, num_warps=4,
    )  # fmt: skip


def fp8_rows(
    source: torch.Tensor,
    out: torch.Tensor,
    norm: tuple[torch.Tensor, float] | None = None,
    gate: Activation | None = None,
) -> torch.Tensor:
    """Write rows of `source` into `out` (T, width) of 8-bit floats and return their scales (T, 1) float32.

    out · scale is the row itself; with `norm` (weight, eps) rms_norm(row) · weight; with `gate` gate(gate half) · up of a
    source (T, 2 · width).
    """
    rows, width = out.shape
    kernels = _kernels(source)
    if kernels is None:
        value = source.float()
        if norm is not None:
            value = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + norm[1])
            value = (value.to(norm[0].dtype) * norm[0]).to(source.dtype).float()
        if gate:
            value = _activate(value[:, :width], gate) * value[:, width:]
        unit = value.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
        out.copy_((value / unit).to(out.dtype))
        return unit
    unit = torch.empty(rows, 1, dtype=torch.float32, device=source.device)
    weight, eps = (source, 0.0) if norm is None else norm
    block = _power_of_2(width)
    kernels.fp8_rows_kernel[(rows,)](
        source, weight, out, unit, source.stride(0), out.stride(0), width, eps, LINEAR, CUBIC,
        NORM=norm is not None, GATE=gate is not None, GELU=gate == "gelu_tanh", BLOCK=block, num_warps=16 if block > 8192 else WARPS,
    )  # fmt: skip
    return unit


def fp8_border(source: torch.Tensor, unit: torch.Tensor, out: torch.Tensor, share: float) -> None:
    """Write `source` (T, w) · share / unit, clipped to the range of 8-bit floats, into the first w columns of `out`, and
    zeros into the others."""
    rows, width = source.shape
    kernels = _kernels(source)
    if kernels is None:
        out.zero_()
        out[:, :width] = (source.float() * share / unit).clamp(-FP8_MAX, FP8_MAX).to(out.dtype)
        return
    block = _power_of_2(out.shape[1])
    tile = max(1, 4096 // block)
    kernels.fp8_border_kernel[(-(-rows // tile),)](
        source, unit, out, source.stride(0), out.stride(0), width, out.shape[1], share, rows,
        ROWS=tile, BLOCK=block, num_warps=4,
    )  # fmt: skip


def _activate(gate: torch.Tensor, activation: Activation) -> torch.Tensor:
    return F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _parts(width: int) -> int:
    return -(-width // COLUMNS)


def _warps(heads: int, half: int) -> int:
    """As many that each thread reads 16 bytes of each half of its head."""
    return max(1, min(WARPS, _power_of_2(heads) * _power_of_2(half) // 256))
