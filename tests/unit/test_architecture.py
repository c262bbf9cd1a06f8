"""The floor plan: imports point one way, nothing is imported late without a reason, names are said once, nothing is pickled."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    [ROOT / "cli.py", *(p for room in ("al", "selection", "trainer") for p in (ROOT / room).rglob("*.py"))]
)
ORDER = (
    ("selection", "trainer", "al.errors", "al.cache", "al.excerpt", "al.program", "al.terminal", "al"),
    ("al.labels", "al.budget", "al.config", "al.web"),
    ("al.engine",),
    ("al.run",),
    ("al.assets", "al.pool"),
    ("al.cleaning",),
    ("al.preparation",),
    ("al.lineage",),
    ("al.scoring",),
    ("al.choosing",),
    ("al.evaluation",),
    ("al.planning",),
    ("al.report",),
    ("al.tracking", "al.review", "al.release"),
    ("al.round", "al.prompting"),
    ("al.exporting",),
    ("al.comparison", "al.serving"),
    ("al.commands",),
    ("al.library",),
    ("cli",),
)
"""Rooms from the ground up. A module imports modules of its own room and of rooms further down, late imports included."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
HEAVY = {
    *("torch", "transformers", "sentence_transformers", "faiss", "umap", "plotly", "fastapi", "uvicorn", "sklearn", "scipy"),
    *("peft", "bitsandbytes", "triton", "wandb", "trackio", "mlflow", "tensorboard", "presidio_analyzer", "py3langid"),
    *("datasets", "safetensors", "huggingface_hub", "ray", "fsspec"),
}  # fmt: skip
"""What a late import may wait for: each takes from a tenth of a second to several seconds."""
COMMAND_LINE = ("cli", "al.commands.command_line", "al.commands.groups.care", "al.commands.groups.models")
LIBRARY = ("al.library.calls", "al.library.results")
"""Modules that import late whatever they can, because `--help` and `import al` answer at once."""
LARGEST_FOLDER, LARGEST_FLAT_ROOM = 21, 36
"""al/commands has a module for each command and three that they share."""
LATE_IMPORTS, MODULES_IN_AL, LINES_OF_REPORT = 60, 8, 6_000


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "al" and len(parts) > 1 else parts[0]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


@cache
def imports_of(module: str, types: bool = False) -> tuple[tuple[str, bool], ...]:
    """What a module imports, and whether late, inside a function; imports for types alone count with `types`."""
    found = []

    def visit(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child) and not types:
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                names = {f"{child.module}.{alias.name}" for alias in child.names}
                found.extend((name if name in MODULES else child.module, late) for name in sorted(names))
            visit(child, late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(tree_of(module), False)
    return tuple(dict.fromkeys(found))


def project_imports(module: str, types: bool = False) -> list[tuple[str, bool]]:
    return [(target, late) for target, late in imports_of(module, types) if target in MODULES and target != module]


@cache
def loads_something_heavy(module: str) -> bool:
    """Whether importing a module loads one of HEAVY."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in MODULES:
            if name.split(".")[0] in HEAVY:
                return True
            continue
        waiting += [target for target, late in imports_of(name) if not late]
        waiting += [parent for parent in (name.rpartition(".")[0],) if parent in MODULES]
    return False


def test_every_room_has_a_place():
    assert {room_of(module) for module in MODULES} == set(LEVEL)


def imports_upwards(module: str) -> list[str]:
    room = room_of(module)
    return [
        target
        for target, _ in project_imports(module)
        if room_of(target) != room and LEVEL[room_of(target)] >= LEVEL[room]
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert imports_upwards(module) == [], "not below it"


def test_selection_and_trainer_know_nobody():
    for module in MODULES:
        if room_of(module) in ("selection", "trainer"):
            assert {room_of(target) for target, _ in project_imports(module)} <= {room_of(module)}, module


def modules_in_circles() -> list[str]:
    """Modules are taken away that import none of those left, or that none of those left imports. Circles stay. Imports for types count,
    except those of `al` itself: it names the library's functions, and every room may ask it for the version."""
    left = {module: {target for target, _ in project_imports(module, module != "al")} for module in MODULES}
    while True:
        imported = set().union(*left.values()) if left else set()
        free = [module for module, targets in left.items() if not targets & left.keys() or module not in imported]
        if not free:
            return sorted(left)
        for module in free:
            del left[module]


def test_no_module_imports_itself_through_others():
    assert modules_in_circles() == []


def late_imports() -> list[tuple[str, str]]:
    return [
        (module, target)
        for module in MODULES
        for target, is_late in project_imports(module)
        if is_late and module not in COMMAND_LINE + LIBRARY
    ]


def test_late_imports_are_few_and_each_waits_for_a_heavy_library():
    light = [(module, target) for module, target in late_imports() if not loads_something_heavy(target)]
    assert not light, "these load nothing heavy and belong to the top of the file"
    assert len(late_imports()) <= LATE_IMPORTS


def test_no_folder_is_crowded():
    count = defaultdict(int)
    for path in SOURCES:
        count[path.parent] += path.name != "__init__.py"
    crowded = {
        str(folder.relative_to(ROOT)): number
        for folder, number in count.items()
        if number > (LARGEST_FLAT_ROOM if folder.name in ("selection", "trainer") else LARGEST_FOLDER)
    }
    assert not crowded
    assert count[ROOT / "al"] <= MODULES_IN_AL


def names_defined_twice() -> dict[str, list[str]]:
    places = defaultdict(list)
    for module in MODULES:
        if module.split(".")[0] != "al" or module in LIBRARY:  # a user's names are those of the parts below
            continue
        for node in tree_of(module).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places[node.name].append(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def test_a_public_name_is_defined_once_in_al():
    assert names_defined_twice() == {}


def without_docstring(module: str) -> list[str]:
    functions = [
        node
        for node in ast.walk(tree_of(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    ]
    return [node.name for node in functions if not ast.get_docstring(node)]


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_say_what_they_are_for(module):
    assert without_docstring(module) == []


PUBLISH_DIRECTORIES = {"al.run.artifacts", "al.run.archive", "al.assets", "trainer.checkpoint"}


def places_that_replace_a_file() -> list[str]:
    renames = re.compile(r"os\.replace\(|\btemporary\.(?:replace|rename)\(|\bpart\.(?:replace|rename)\(")
    return [m for m, path in MODULES.items() if m not in PUBLISH_DIRECTORIES and renames.search(path.read_text())]


def test_one_place_replaces_files():
    assert places_that_replace_a_file() == ["al.run.atomic"]


def test_one_place_prints():
    """What is printed comes from files, models and errors: `al.terminal` takes control characters and passwords out of it."""
    assert {m for m in MODULES if room_of(m) != "al.assets" and prints(m)} == {"al.terminal"}


def prints(module: str) -> bool:
    calls = (node.func for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call))
    return any(
        getattr(call, "id", None) == "print" or getattr(call, "attr", None) in ("echo", "secho") for call in calls
    )


def lines_of_report() -> int:
    files = (path for path in (ROOT / "al" / "report").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def test_the_floor_plan_in_numbers(capsys):
    """Printed with every test run: row, found, limit."""
    rows = {
        "modules directly in al/": (len(list((ROOT / "al").glob("*.py"))) - 1, MODULES_IN_AL),
        "modules in circles of imports": (len(modules_in_circles()), 0),
        "imports that point upwards": (sum(len(imports_upwards(module)) for module in MODULES), 0),
        "project imports inside functions": (len(late_imports()), LATE_IMPORTS),
        "public names defined twice in al/": (len(names_defined_twice()), 0),
        "places that replace a file": (len(places_that_replace_a_file()), 1),
        "lines of al/report": (lines_of_report(), LINES_OF_REPORT),
        "public functions without docstring": (sum(len(without_docstring(module)) for module in MODULES), 0),
    }
    with capsys.disabled():
        print("\n" + "\n".join(f"{name:<36} {found:>6,} (at most {limit:,})" for name, (found, limit) in rows.items()))
    assert [name for name, (found, limit) in rows.items() if found > limit] == []


def test_help_answers_in_half_a_second():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    assert best < 0.5


def test_configuration_imports_nothing_heavy():
    code = "import sys, al.config; print([m for m in ('torch', 'transformers', 'faiss', 'sklearn', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    "pattern",
    [r"\bpickle\.", r"yaml\.load\(", r"weights_only\s*=\s*False", r"trust_remote_code\s*=\s*True", r"\btorch\.load\("],
)
def test_nothing_unsafe_is_used(pattern):
    """Trap 30: no pickle, no torch.load, YAML by safe_load, remote code only as the user says."""
    assert [str(p.relative_to(ROOT)) for p in SOURCES if re.search(pattern, p.read_text())] == []


def test_nothing_writes_a_log_file():
    """A log grows until somebody rotates it. What a run needs later is in its artifacts and events; the rest goes to the terminal."""
    opens_one = re.compile(r"FileHandler|basicConfig\(|logging\.config|dictConfig")
    assert [str(p.relative_to(ROOT)) for p in SOURCES if opens_one.search(p.read_text())] == []
