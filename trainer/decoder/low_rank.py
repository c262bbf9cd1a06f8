"""LoRA's products with few columns: x·Aᵀ and g·B.

Each reads a whole activation for 16 to 64 columns, so its time is that of reading. cuBLAS has tiles for products that are wide on both
sides: for the input of q, k and v it takes four times as long. On a GPU a program of low_rank_kernels.py has all columns of its rows, and
one launch makes the products of all layers of an input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

MOST_COLUMNS, LEAST_ROWS = 64, 1024
"""More columns are worth cuBLAS' tiles; fewer rows leave processors without work."""
ALIGN = 16
"""Widths, strides and first columns are multiples of this many values. Rows of others begin inside a sector of memory, which is slower
than cuBLAS."""
ROWS, INNER, WARPS, STAGES = 64, 64, 4, 6
"""Of a program's tile; 96 KiB of shared memory at most, which every card since Ampere has."""


def parts(entries: list[tuple[int, int, int, int]], device: torch.device) -> torch.Tensor:
    """(n, 4) int64 of n products: where in their buffers the factors and the result begin, in values, and the inner width."""
    return torch.tensor(entries, dtype=torch.int64).to(device)


def suits(buffers: Sequence[torch.Tensor], columns: int) -> bool:
    """Whether the kernel takes products of `columns` from rows of the first of these buffers: 16-bit floats on a GPU, few columns, many
    rows, and all buffers aligned."""
    first = buffers[0]
    return (
        first.is_cuda
        and first.dtype in (torch.bfloat16, torch.float16)
        and columns <= MOST_COLUMNS
        and len(first) >= LEAST_ROWS
        and all(buffer.stride(0) % ALIGN == 0 and buffer.data_ptr() % ALIGN == 0 for buffer in buffers)
    )


def product(
    wide: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    which: torch.Tensor,
    columns: int,
    transposed: bool = False,
    left: int | None = None,
    jump: int = 0,
) -> None:
    """Write wide · weight into columns of `out`, for every part.

    Args:
        wide, out: (T, ...) buffers, which may be the same one. weight: (inner, ...) buffer, or (columns, inner) if `transposed`.
        which: of `parts`. columns: of each product. left, jump: from column `left` on the result lies `jump` columns further.
    """
    from trainer.decoder.low_rank_kernels import narrow_product_kernel

    inner, column = reversed(weight.stride()) if transposed else weight.stride()
    padded = max(16, 1 << (columns - 1).bit_length())  # what tensor cores take
    narrow_product_kernel[(-(-len(wide) // ROWS), len(which))](
        wide, weight, out, which, wide.stride(0), inner, column, out.stride(0), len(wide), columns, columns if left is None else left, jump,
        ROWS=ROWS, INNER=INNER, COLUMNS=padded, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
