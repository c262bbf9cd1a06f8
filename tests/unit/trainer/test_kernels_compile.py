"""Triton's compiler takes every GPU kernel. The interpreter, which the other tests run, accepts more than it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

COMPILE = """
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction

from trainer.decoder import attention_kernels, dropout_kernels, head_kernels, kernels, low_rank_kernels, packed_attention_kernels

SIZES = {"BLOCK": 1024, "HEADS": 32, "HALF": 64, "OUTER": 256, "WIDTH": 128, "HEAD": 128, "GROUPS": 4, "LANE": 32, "LANES": 4}
FLOATS = {
    "eps", "linear", "cubic", "scale", "share", "factor", "beta_1", "beta_2", "eps_inside", "eps_outside", "softcap", "slope",
}
POINTERS = {
    "labels": "i64", "parts": "i64", "best": "i32", "borders": "i32", "start": "i32", "tiles": "i32", "first": "i32", "begins": "i32",
    "places": "i32", "keys": "i32", "packed": "u8", "absmax": "u8",
} | dict.fromkeys(
    ("nll", "code", "absmax_code", "absmax_scale", "offset", "mean", "square", "row_sign", "column_sign", "log_sums", "deltas"), "fp32"
)

def compiled(kernel, switch):
    constants, kinds, backend = {}, {}, make_backend(GPUTarget("cuda", 80, 32))
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr:
            switched = name not in SIZES and name not in ("ROWS", "COLUMNS", "KEYS", "QUERIES", "TOKENS", "INNER", "BLOCKS")
            constants[name], kinds[name] = switch if switched else SIZES.get(name, 16), "constexpr"
        elif parameter.annotation == "Pointer":
            of_sketch = kernel.__name__ == "gradient_sketch_kernel" and name == "out"
            of_rows = kernel.__name__ == "statistics_kernel" and name == "out"
            kinds[name] = "*" + ("fp32" if of_sketch or of_rows else POINTERS.get(name, "bf16"))
        else:
            kinds[name] = "fp32" if name in FLOATS else "i32"
    names = kernel.arg_names
    source = ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()}, {})
    options, context, stages = backend.parse_options({"num_warps": 4}), ir.context(), {}
    ir.load_dialects(context)
    backend.load_dialects(context)
    code = backend.get_codegen_implementation(options)
    module = source.make_ir(backend.target, options, code, backend.get_module_map(), context)
    backend.add_stages(stages, options, source.language)
    found = {}
    for stage in ("ttir", "ttgir"):  # machine code is not needed
        module = stages[stage](module, found)

for module in (kernels, head_kernels, low_rank_kernels, dropout_kernels, attention_kernels, packed_attention_kernels):
    for name, kernel in vars(module).items():
        if isinstance(kernel, JITFunction) and name.endswith("_kernel") and kernel.__module__ == module.__name__:
            for switch in (True, False):
                compiled(kernel, switch)
            print(name)
"""
"""Triton's compiler needs no GPU; but a process whose kernels are interpreted cannot compile them."""


def test_every_kernel_compiles():
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]
    found = done.stdout.split()
    assert len(found) >= 20 and {"norm_rotate_kernel", "norm_rotate_backward_kernel", "rotate_kernel"} <= set(found)
