"""The example notebook runs from its first to its last cell, with the small world in place of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command_line import ROOT

nbclient = pytest.importorskip("nbclient", reason="requirements-dev.lock has it")
nbformat = pytest.importorskip("nbformat")
NOTEBOOK = ROOT / "docs" / "examples" / "first_round.ipynb"


@pytest.fixture
def notebook():
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def test_it_holds_no_output_of_earlier_runs(notebook):
    assert [
        cell.id for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)
    ] == []


def printed(notebook):
    """What the cells print and show, in order."""
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.get("text", "") or output["data"]["text/plain"] for output in outputs)


def test_every_cell_runs(notebook, world, tmp_path, monkeypatch):
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    values = {
        "CONFIG": repr(str(world)),
        "SOURCES": repr(yaml.safe_load(Path(world).read_text())["pool"]["files"]),
        "RUN": f"Path({str(tmp_path / 'run')!r})",
        "BUDGET": "16",
    }
    parameters.source = "\n".join(f"{name} = {values[name]}" for name in names)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = printed(notebook)
    assert "16 examples, " in shown and "macro_nll" in shown and "1000000 examples asked for" in shown
    assert (tmp_path / "run/rounds/001/report.html").is_file() and (tmp_path / "run-compared/comparison.html").is_file()
    errors = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]
    assert errors == [], "nothing is printed but what the cells print"
