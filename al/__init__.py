"""Winnow: active-learning data selection around a QLoRA trainer.

In Python and notebooks, `al` offers what the commands do as functions that return typed results (`al.library`):

    import al

    al.import_pool("questions.jsonl", run="runs/demo", config="demo")
    result = al.run_round(100, run="runs/demo")
    print(result.verdict)

They raise the errors of `al.errors`, and print nothing. Importing `al` loads none of the libraries that they use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from al.library.calls import compare, import_pool, load_round, plan, run_round
    from al.library.results import Comparison, ImportedPool, Plan, Round

__version__ = "0.1.0"
__all__ = ["Comparison", "ImportedPool", "Plan", "Round", "compare", "import_pool", "load_round", "plan", "run_round"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'al' has no attribute {name!r}")
    return getattr(import_module("al.library.results" if name[0].isupper() else "al.library.calls"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
