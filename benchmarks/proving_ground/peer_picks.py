"""Picks by other projects' rules, on the same pool, with what the run's own base model measures.

    ifd, wana             wana 0.5.1: highest ratio of the NLL with the prompt to that without, those above 1 left out (arXiv 2308.12032)
    loss, DataFlex        DataFlex 1.1.0's selectors without its trainer: by loss, nearest to dev, and TSDS
    near, DataFlex
    tsds, DataFlex
    less, DataFlex        its selectors by what gradients.py measured: highest mean cosine to dev, and where a warm-up lowers the loss most
    delta_loss, DataFlex
    rds to dev            RDS+ (arXiv 2503.01807) over the whole pool, the dev rows being the target
    deita, qdit           the rules of DEITA (arXiv 2312.15685) and QDIT (arXiv 2311.14736) over the whole pool, with NLL as their score
    less to dev           LESS, by gradients of Winnow and of dattri-llm 0.1.0 (by_gradient.py)
    less, dattri-llm

`rds to dev`, `deita`, `qdit` and `less to dev` are Winnow's own implementations. Rules of wana and DataFlex run in processes with their
packages alone in front: peers/wana and peers/dataflex, each what `pip install --no-deps --target` puts there. Rules that aim see the
pool's dev rows, which no other strategy does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ending_with_this
from benchmarks.proving_ground import aiming, by_gradient

RULES = Path(__file__).with_name("peer_rules")
OUTSIDE = {
    "ifd, wana": ("wana", "wana_ifd.py"),
    "loss, DataFlex": ("dataflex", "dataflex_rules.py"),
    "near, DataFlex": ("dataflex", "dataflex_rules.py"),
    "tsds, DataFlex": ("dataflex", "dataflex_rules.py"),
    "less, DataFlex": ("dataflex", "dataflex_rules.py"),
    "delta_loss, DataFlex": ("dataflex", "dataflex_rules.py"),
}
"""Of each: the folder of its packages, and the script that runs it."""
LATER = ("less, DataFlex", "delta_loss, DataFlex", *by_gradient.STRATEGIES)
"""Need what gradients.py measures; played after the others."""
STRATEGIES = (*(name for name in OUTSIDE if name not in LATER), "rds to dev", "deita", "qdit", *LATER)


@dataclass(frozen=True)
class Measured:
    """A pool as the base model sees it: `hidden` (n rows and the dev rows), `nll` and `unprompted` (n,) mean NLL of each response with
    and without its prompt in nats, `embedded` the same rows' sentence embeddings or None, `gradients` the file of gradients.py or None."""

    hidden: aiming.Aim
    nll: np.ndarray
    unprompted: np.ndarray
    embedded: aiming.Aim | None
    gradients: Path | None = None


def measured(folder: Path, splits: Any, pool: str, embeddings: Path | None, gradients: Path | None = None) -> Measured:
    """What pooled.py wrote of a pool."""
    rows, dev, keys = (splits[f"{pool}|{part}"] for part in ("pool", "dev", "pool|key"))
    places = np.searchsorted(np.load(folder / "rows.npy"), rows)
    hidden = aiming.pooled_of(folder, rows, dev, keys)
    embedded = None
    if embeddings is not None and embeddings.exists():
        vectors = np.load(embeddings, mmap_mode="r")
        embedded = aiming.Aim(vectors[rows].astype(np.float32), vectors[dev].astype(np.float32), keys)
    nll, unprompted = (np.load(folder / f"{name}.npy")[places] for name in ("nll", "unprompted"))
    return Measured(hidden, nll, unprompted, embedded, gradients)


def pick(strategy: str, of: Measured, budget: int, seed: int, peers: Path) -> np.ndarray:
    """Places of the picks in the pool.

    Raises:
        SystemExit: a peer's packages are not there, or it failed; with its last lines.
    """
    if strategy in OUTSIDE:
        return outside(strategy, of, budget, seed, peers)
    if strategy == "rds to dev":
        return of.hidden.nearest(budget, seed)
    return by_score(strategy, of, budget, seed)


def by_score(picker: str, of: Measured, budget: int, seed: int) -> np.ndarray:
    """The rule of DEITA or QDIT over the whole pool as one group; vectors are hidden states, centred."""
    from selection.candidates import Candidates, Vectors
    from selection.config import SelectConfig
    from selection.strategy import Budget, allocate, select

    n, centred = len(of.nll), of.hidden.centred()
    score = np.where(np.isfinite(of.nll), of.nll, np.nan)
    vectors = {"embedding": Vectors(centred.vectors, np.arange(n))}
    candidates = Candidates(centred.keys, np.zeros(n, int), np.ones(n, int), score, score, vectors=vectors)
    wanted, config = Budget("examples", min(budget, n)), SelectConfig(strategy="uniform", picker=picker)
    quotas = allocate(candidates, wanted, config, (seed, 1))
    return select(candidates, quotas, wanted, config, (seed, 1)).picked


def outside(strategy: str, of: Measured, budget: int, seed: int, peers: Path) -> np.ndarray:
    """Picks of another project's code, in a process whose first packages are its own."""
    package, script = OUTSIDE[strategy]
    if not (peers / package).is_dir():
        raise SystemExit(f"{peers / package}: not there; pip install --no-deps --target {peers / package} {package}")
    aim = of.embedded if "near" in strategy or "tsds" in strategy else of.hidden
    if aim is None:
        raise SystemExit(f"{strategy}: needs embeddings (see embeddings.py)")
    with tempfile.TemporaryDirectory() as folder:
        more = {}
        if strategy in LATER and of.gradients is not None:
            warmed = by_gradient.measured(of.gradients)
            more = {"cosines": warmed["cosines"].astype(np.float32), "after": warmed["nll"]}
        given, found = Path(folder) / "given.npz", Path(folder) / "picks.npy"
        np.savez(
            given, rule=strategy.split(",")[0], budget=budget, seed=seed, nll=of.nll, unprompted=of.unprompted,
            vectors=aim.vectors, targets=aim.targets, **more,
        )  # fmt: skip
        command = ending_with_this([sys.executable, str(RULES / script), str(given), str(found)])
        before = os.environ.get("PYTHONPATH", "")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(peers / package), before)))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{strategy}: ended with {done.returncode}\n{done.stderr[-2000:]}")
        picks = np.load(found)
    if len(np.unique(picks)) != min(budget, len(of.nll)):
        raise SystemExit(
            f"{strategy}: expected {min(budget, len(of.nll))} rows, each once, found {len(np.unique(picks))}"
        )
    return picks
