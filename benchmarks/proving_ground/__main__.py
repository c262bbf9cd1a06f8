"""The study in one go.

    python -m benchmarks.proving_ground prepare --work WORK --data DIR --models DIR... [--embedder DIR]   pools, tokens, kinds, clusters
    python -m benchmarks.proving_ground plan --work WORK [--stages NAME...]      runs wanted, which the record has, and their picks
    python -m benchmarks.proving_ground pack --work WORK --out DIR --part 55MB   parts to carry to the GPU machine
        there: sh start.sh PARTS STUDY, then sh play.sh STUDY MINUTES MODEL=PROCESSES..., and sh play.sh STUDY poll
    python -m benchmarks.proving_ground record --work WORK --results DIR         rows into the record, the summary and docs/selection.md

Every step goes on where it was interrupted. docs/selection.md says what the study asks and how.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import proving_ground
from benchmarks.proving_ground.work import Work, whole

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "bitsandbytes.functional", "peft", "transformers", "sklearn.cluster", "pydantic", "trainer.model", "trainer.measure",
    "trainer.generate", "trainer.gradients", "trainer.tokens", "trainer.train", "trainer.attention", "selection.strategy",
    "al.preparation.target", "al.scoring.amount", "al.commands.label",
)  # fmt: skip
"""What players and pickers import when they need it."""


def prepare(given: argparse.Namespace) -> None:
    """Fill the work folder."""
    from benchmarks.proving_ground import prepare

    given.work.root.mkdir(parents=True, exist_ok=True)
    if given.cut:
        if given.pools is None:
            raise SystemExit("--cut: needs --pools DIR, prepared pools to cut from")
        prepare.cut(given.work, given.pools, given.only, given.cut)
    prepare.prepare(given.work, given.models, given.data, given.embedder, given.processes, given.later, given.search)


def plan(given: argparse.Namespace) -> None:
    """Plans, counts and picks."""
    from benchmarks.proving_ground import stages

    models = given.models or list(given.work.models)
    found = stages.write_plans(given.work, models, given.stages or stages.DEFAULT, given.record)
    for model, runs in found.items():
        names = list(dict.fromkeys(run["stage"] for run in runs))
        for name in names:
            of_stage = [run for run in runs if run["stage"] == name]
            print(f"{model}, {name}: {sum(run['recorded'] for run in of_stage)} of {len(of_stage)} runs done")
    runs = [run for of_model in found.values() for run in of_model]
    stages.write_picks(given.work, runs, given.work / "picks.npz", given.processes)


def picks(given: argparse.Namespace) -> None:
    """Picks that the models' hidden states decide."""
    from benchmarks.proving_ground import stages

    for model in given.models or list(given.work.models):
        file = given.work / f"picks-{model}.npz"
        stages.write_picks(given.work, given.work.plan(model), file, given.processes)


def pooled(given: argparse.Namespace) -> None:
    """Hidden states and losses of the rows that picks of open runs need."""
    import numpy as np

    from benchmarks.proving_ground import stages
    from benchmarks.proving_ground.pooled import measure_rows, wanted_rows

    for model in given.models or list(given.work.models):
        out, inputs = given.work / "pooled" / model, given.work.inputs(model)
        own = [run for run in given.work.plan(model) if "picks" in run and not run["recorded"]]
        places = {run["pool"] for run in own if stages.needs_measuring(given.work, run)}
        if places and not out.exists():
            rows = wanted_rows(np.load(inputs / "splits.npz"), places)
            measure_rows(given.work.models[model], inputs, rows, out, given.device, given.batch_tokens)


def gradients(given: argparse.Namespace) -> None:
    """Cosines of the gradients of pool rows and dev rows, for rules that pick by gradient."""
    from benchmarks.proving_ground import by_gradient
    from benchmarks.proving_ground.gradients import Gradients, planned
    from trainer.config import ModelConfig
    from trainer.model import Base
    from trainer.tokens import TokenTable

    began = time.perf_counter()
    for model in given.models or list(given.work.models):
        pools, out = planned(given.work, model), given.work / "gradients" / model
        if not pools:
            continue
        base = Base.load(ModelConfig(name=str(given.work.models[model]), device=given.device))
        measuring = Gradients(
            base, TokenTable.open(given.work.inputs(model) / "tokens"), out, given.minutes, began=began
        )
        done = [pool.name for pool in pools if measuring.measure(pool)]
        for pool in pools:
            if pool.name in done and pool.name in by_gradient.DATTRI_POOLS:
                measuring.measure_by_dattri(pool, given.work.peers / "dattri")
        seconds = time.perf_counter() - began
        print(f"{model}: gradients of {len(done)} of {len(pools)} pools, {seconds:.1f} s since the start")


def unsure(given: argparse.Namespace) -> None:
    """What the models answer to prompts that `label` would measure, where their clusters are there."""
    from collections import defaultdict

    import numpy as np

    from benchmarks.proving_ground import labelling, stages
    from benchmarks.proving_ground.picking import Picker

    picker = Picker.of(given.work)
    with given.work.locked("unsure"):
        for model in given.models or list(given.work.models):
            lacks = defaultdict(set)  # of every open run of a pool, because they are measured together
            open_ = [r for r in given.work.plan(model) if r["strategy"] in labelling.STRATEGIES and not r["recorded"]]
            for run in open_:
                lacks[run["pool"]].add(stages.lacking(given.work, run))
            for pool in [pool for pool, missing in lacks.items() if missing == {f"answers of {model}"}]:
                out, inputs = given.work / "unsure" / f"{model}_{pool}.npz", given.work.inputs(model)
                rows, keys = (picker.splits[f"{pool}|pool{part}"] for part in ("", "|key"))
                of_seeds = sorted({(run["seed"], run["budget"]) for run in open_ if run["pool"] == pool})
                places = [labelling.candidates(keys, picker.clusters(pool, seed)[0], seed, n) for seed, n in of_seeds]
                wanted = np.unique(rows[np.concatenate(places)])
                labelling.measure(given.work.models[model], inputs, wanted, out, given.device)


def pack(given: argparse.Namespace) -> None:
    """Parts for the GPU machine."""
    from benchmarks.proving_ground.packing import pack

    models = list(given.work.models) if given.models is None else given.models
    pack(given.work, given.out, given.part, models, given.site, given.also)


def check(given: argparse.Namespace) -> None:
    """Import everything that playing needs, and note the machine for the record."""
    names = [f"{proving_ground.__name__}.{module.name}" for module in pkgutil.iter_modules(proving_ground.__path__)]
    failed = []
    for name in (*NEEDED, *(name for name in names if not name.endswith("__main__"))):
        try:
            importlib.import_module(name)
        except Exception as error:  # every failure is listed, whatever it is
            failed.append(f"{name}: {type(error).__name__}: {error}")
    if failed:
        raise SystemExit("cannot be imported:\n" + "\n".join(failed))
    import torch

    from benchmarks.common import versions

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    (given.work / "results").mkdir(exist_ok=True)
    with whole(given.work / "results/machine.json") as file:
        named = ", ".join(f"{name} {found}" for name, found in versions().items())
        file.write_text(json.dumps({"device": device, "versions": named}))
    print(f"all modules imported; {device}")


def play(given: argparse.Namespace) -> None:
    """Play until the minutes are over."""
    from benchmarks.proving_ground.playing import Session

    Session(given.work, dict(given.processes), given.minutes, given.device, given.tokens_at_once, given.cards).play()


def poll(given: argparse.Namespace) -> None:
    """Runs done of runs planned."""
    from benchmarks.proving_ground.playing import counts

    for model, stage, done, planned in counts(given.work):
        print(f"{model}, {stage}: {done} of {planned} runs done")


def record(given: argparse.Namespace) -> None:
    """Rows into the record; of the repository's own record also the summary and the page."""
    import numpy as np

    from benchmarks.proving_ground import judging, near, record, summary, wrong_answers
    from trainer.tokens import TokenTable

    rows = [row for file in sorted(given.results.glob("*.rows.jsonl")) for row in record.lines(file)]
    written = [run for file in sorted(given.results.glob("*.rows.written.jsonl")) for run in record.lines(file)]
    before = record.read(given.record)
    learned = before.setdefault("learned", {})
    judged = judging.judged(written, given.work / "pools", learned)
    print(f"{len(judged)} of {len(written)} runs' answers judged")
    machine = json.loads((given.results / "machine.json").read_text())
    inputs = given.work.inputs()
    splits = np.load(inputs / "splits.npz")
    deciding = record.decides(TokenTable.open(inputs / "tokens"), splits)
    document = record.merge(before, rows, judged, machine, deciding, record.pool_mixes(splits))
    document["kinds"] = document.get("kinds", {}) | record.kinds(given.work / "kinds", splits)
    measured = record.base_losses(given.work / "pooled", splits)
    document["base_nll"] = {
        model: document.get("base_nll", {}).get(model, {}) | measured.get(model, {})
        for model in sorted(document.get("base_nll", {}).keys() | measured.keys())
    }
    counted = [folder / "near.json" for folder in (given.work / "results", given.results)]
    if searched := near.recorded(document.get("near_duplicates", {}), counted):
        document["near_duplicates"] = searched
    compared = sorted(given.results.glob("*.rows.compared"))
    if compared:
        document["wrong_answers"] = document.get("wrong_answers", {}) | wrong_answers.find(
            given.work.inputs(), compared
        )
    record.write(document, given.record)
    print(f"{len(rows)} rows merged, {len(document['rows'])} in {given.record}")
    summarized = given.record.with_name(f"{given.record.stem}_summary.json")
    summarized.write_text(json.dumps(summary.summarize(document), indent=1) + "\n")
    if given.record == summary.ROWS:
        subprocess.run([sys.executable, ROOT / "benchmarks/render.py"], check=True)


def size(text: str) -> int:
    """Bytes of "55MB"."""
    return int(float(text.removesuffix("MB")) * 1e6)


def processes(text: str) -> tuple[str, int]:
    """Model and number of "qwen-0.5b=4"."""
    model, _, number = text.partition("=")
    return model, int(number)


def _of_prepare(add: Callable[..., object]) -> None:
    """Arguments of `prepare`."""
    add("--models", type=Path, nargs="+", default=[], help="directories; their names are the models' in the record")
    add("--data", type=Path, help="the published files and the evals wheel; only where pools are not there yet")
    add("--embedder", type=Path, help="a sentence-transformers model; without it no clusters and no target's default")
    add("--later", action="store_true", help="leave embeddings, kinds and clusters to the GPU machine")
    add(
        "--search",
        nargs="+",
        default=[],
        help="pools to search for near-duplicates here, also with --later (stage near)",
    )
    add("--cut", type=int, help="to try things out: about so many rows of each of the pools --only, out of --pools")
    add("--pools", type=Path, help="folder of whole pools")
    add("--only", nargs="+", default=["sums", "few-large"], help="pools to cut")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from benchmarks.proving_ground.ground import ROWS
    from benchmarks.proving_ground.planning import STAGES

    whole = argparse.ArgumentParser(
        prog="python -m benchmarks.proving_ground",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(required=True)
    found = {}
    for function in (prepare, plan, picks, pooled, gradients, unsure, pack, check, play, poll, record):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("--work", type=lambda text: Work(Path(text)), required=True, help="work folder")
        command.set_defaults(function=function)
        found[function.__name__] = command
    for name in ("prepare", "plan", "picks"):
        found[name].add_argument("--processes", type=int, default=1, help="processes at once, one thread each")
    for name in ("play", "pooled", "gradients", "unsure"):
        found[name].add_argument("--device", default="auto")
    for name in ("plan", "record"):
        found[name].add_argument("--record", type=Path, default=ROWS, help="the record of rows")
    for name in ("plan", "picks", "pooled", "gradients", "unsure", "pack"):
        found[name].add_argument(
            "--models", nargs="*", default=None, help="names of models; all of the work folder if left out"
        )
    _of_prepare(found["prepare"].add_argument)
    found["plan"].add_argument("--stages", nargs="+", choices=sorted(STAGES))
    found["pooled"].add_argument("--batch-tokens", type=int, default=65_536)
    found["gradients"].add_argument("--minutes", type=float, default=60, help="start nothing after so many minutes")
    add = found["pack"].add_argument
    add("--out", type=Path, required=True)
    add("--part", type=size, default=size("55MB"), help="size of a part, for example 55MB")
    add("--site", type=Path, help="directory of Python packages that the GPU machine lacks")
    add("--also", type=Path, nargs="*", default=[], help="files and directories that come to STUDY/also")
    add = found["play"].add_argument
    add("--minutes", type=float, required=True, help="start nothing after so many minutes")
    add("--processes", type=processes, nargs="+", required=True, help="MODEL=NUMBER")
    add("--cards", nargs="+", default=[], help="GPUs by CUDA's numbers, which players take in turn")
    add("--tokens-at-once", type=int, default=60_000, help="tokens of a step of a group of runs")
    found["record"].add_argument("--results", type=Path, required=True)
    return whole


def main() -> None:
    """Run one subcommand."""
    given = parser().parse_args()
    given.function(given)


if __name__ == "__main__":
    main()
