"""Plays a work folder's plans on one machine: player processes for each model, each with a share of its runs, until the time is up.

What picks still need (embeddings, kinds, clusters, hidden states, gradients) is made at the start, next to the players, and runs are
given to them as their picks come. When players die, what they left is dealt again, twice at most; rows are appended as they come, so
nothing that was played is played again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.common import child, ending_with_this
from benchmarks.proving_ground.player import Run, groups, identity, name_of
from benchmarks.proving_ground.work import Work, whole

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "benchmarks.proving_ground"
LEAST_MINUTES, PAUSE = 0.5, 1.0
"""With fewer minutes left no player is started, because loading a model takes as long; seconds between looks at the players."""
TRIES = 3
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""Players and pickers share processors and card: threads that spin, and memory held in pieces, cost the others most of their time."""


def shares(
    runs: list[Run], picks: Mapping[str, np.ndarray], lengths: np.ndarray, count: int, tokens: int
) -> list[list[Run]]:
    """`runs` in `count` shares of whole groups, dealt in the order of their priority."""
    dealt = list(groups(runs, picks, lengths, tokens))
    return [[run for group in dealt[number::count] for run in group] for number in range(count)]


def open_runs(work: Work, model: str) -> list[Run]:
    """Runs of the plan that neither the record had when it was planned nor results/ has."""
    done = {identity(row) for row in work.results()}
    return [run for run in work.plan(model) if not run["recorded"] and identity(run) not in done]


def counts(work: Work) -> Iterator[tuple[str, str, int, int]]:
    """(model, stage, runs done, runs planned) of every stage, those in the record counting as done."""
    done = {identity(row) for row in work.results()}
    for model in work.models:
        planned, played = Counter(), Counter()
        for run in work.plan(model):
            planned[run["stage"]] += 1
            played[run["stage"]] += run["recorded"] or identity(run) in done
        yield from ((model, stage, played[stage], planned[stage]) for stage in planned)


@dataclass
class Session:
    """Players of a work folder, `processes` of each model, for so many minutes."""

    work: Work
    processes: dict[str, int]
    minutes: float
    device: str = "auto"
    tokens: int = 60_000
    cards: Sequence[str] = ()
    """CUDA's names of the GPUs that players take in turn; empty: what the process sees."""
    log: Callable[[str], None] = print
    began: float = field(default_factory=time.monotonic)
    dealt: dict[str, list[subprocess.Popen]] = field(default_factory=dict)
    plans: dict[str, list[Path]] = field(default_factory=dict)
    """The file of runs of each player, in the order of `dealt`."""
    given: dict[str, set[tuple]] = field(default_factory=dict)
    """Runs of each model's last deal and what was added to it."""
    seen: dict[str, list[int]] = field(default_factory=dict)
    """When the files of picks were written that the last deal, or addition to it, knew."""
    fruitless: Counter[str] = field(default_factory=Counter)
    """Deals of each model that a player died of."""

    def left(self) -> float:
        """Minutes until the end."""
        return self.minutes - (time.monotonic() - self.began) / 60

    def play(self) -> None:
        """Play until nothing is left or the time is up."""
        preparing = self._prepare()
        while self.left() > LEAST_MINUTES:
            busy = False
            for model in self.processes:
                busy |= self._players(model)
            if not busy and (preparing is None or preparing.poll() is not None):
                break
            time.sleep(PAUSE)
        for model, players in self.dealt.items():
            ended = [
                player.wait() for player in players
            ]  # they start no group after their minutes, and finish the last
            if any(ended):
                self._died(model, ended)

    def _players(self, model: str) -> bool:
        """Whether players of the model are at work, after dealing again if all of the last deal have ended."""
        ended = [player.poll() for player in self.dealt.get(model, [])]
        if None in ended:
            self._add(model)
            return True
        if any(ended):
            self.fruitless[model] += 1
            self._died(model, ended)
        self.dealt[model] = self._deal(model) if self.fruitless[model] < TRIES else []
        return bool(self.dealt[model])

    def _died(self, model: str, ended: Sequence[int | None]) -> None:
        self.log(f"{model}: players ended with {', '.join(map(str, ended))}; see {self.work / 'logs'}")

    def _prepare(self) -> subprocess.Popen | None:
        """What picks of open runs still need, made next to the players: embeddings and clusters, hidden states, then the picks."""
        picks = self.work.picks()
        models = [m for m in self.processes if any(name_of(run) not in picks for run in open_runs(self.work, m))]
        if not models:
            return None
        most = f"--processes {max(1, (os.cpu_count() or 1) - sum(self.processes.values()))}"

        def command(step: str) -> str:
            """A subcommand on this work folder."""
            program = shlex.join(ending_with_this([sys.executable, "-m", PACKAGE]))
            return f"{program} {step} --work {shlex.quote(str(self.work.root))}"

        # Kinds and clusters keep the processors busy, the models the GPU. What waits for nothing else goes its own way; answers need
        # clusters, which may be there. Picks are written, and answers measured, by one process at a time.
        left = f"$(( ({time.time() + 60 * self.left():.0f} - $(date +%s)) / 60 ))"  # minutes when the turn comes
        prepared, steps = [command(f"prepare {most}")], []
        for model in models:
            on, picks_of = f"--models {model} --device {self.device}", command(f"picks --models {model} {most}")
            answers = [command(f"unsure {on}"), picks_of]
            prepared += [picks_of, *answers]
            own = [*answers, command(f"pooled {on}"), picks_of, command(f"gradients {on} --minutes {left}"), picks_of]
            steps.append(f"{shlex.join(ending_with_this(['sh', '-c', '; '.join(own)]))} &")
        steps += [*prepared, "wait", command(f"picks --models {' '.join(models)} {most}")]
        return self._start(["sh", "-c", "\n".join(steps)], "prepare", self._card(0))

    def _ready(self, model: str, count: int) -> list[list[Run]]:
        """Open runs whose picks are there and that no player of this deal has, in `count` shares."""
        self.seen[model] = self._written()
        picks = self.work.picks()
        runs = [
            run
            for run in open_runs(self.work, model)
            if name_of(run) in picks and identity(run) not in self.given[model]
        ]
        self.given[model] |= {identity(run) for run in runs}
        lengths = np.diff(np.load(self.work.inputs(model) / "tokens/offsets.npy"))
        if runs:
            self.log(f"{model}: {len(runs)} runs to {count} players, {self.left():.1f} minutes left")
        return shares(runs, picks, lengths, count, self.tokens)

    def _written(self) -> list[int]:
        return [file.stat().st_mtime_ns for file in self.work.picks_files()]

    def _deal(self, model: str) -> list[subprocess.Popen]:
        self.given[model], self.plans[model] = set(), []
        return [self._player(model, share) for share in self._ready(model, self.processes[model]) if share]

    def _add(self, model: str) -> None:
        """Give players at work the runs whose picks have been written since; they read their file before each group."""
        if self.seen[model] == self._written():
            return
        playing = [
            plan for plan, player in zip(self.plans[model], self.dealt[model], strict=True) if player.poll() is None
        ]
        if playing:
            for plan, share in zip(playing, self._ready(model, len(playing)), strict=True):
                with whole(plan) as file:
                    file.write_text(json.dumps(json.loads(plan.read_text()) + share))

    def _player(self, model: str, share: list[Run]) -> subprocess.Popen:
        (self.work / "shares").mkdir(exist_ok=True)
        (self.work / "results").mkdir(exist_ok=True)
        name = f"{model}-{len(list((self.work / 'shares').iterdir()))}"
        plan = self.work / "shares" / f"{name}.json"
        plan.write_text(json.dumps(share))
        self.plans[model].append(plan)
        given = {
            "--model": self.work.models[model], "--input": self.work.inputs(model), "--plan": plan, "--device": self.device,
            "--out": self.work / "results" / f"{name}.rows.jsonl", "--minutes": f"{self.left():.2f}",
            "--tokens-at-once": self.tokens,
        }  # fmt: skip
        words = [str(word) for pair in given.items() for word in pair]
        words += ["--picks", str(self.work.root), *([] if self.device == "cpu" else ["--compile"])]
        return self._start(
            [sys.executable, "-u", "-m", f"{PACKAGE}.player", *words], name, self._card(len(self.plans[model]))
        )

    def _card(self, number: int) -> dict[str, str]:
        """What makes a process see one of the cards."""
        return {"CUDA_VISIBLE_DEVICES": self.cards[number % len(self.cards)]} if self.cards else {}

    def _start(self, command: list[str], name: str, more: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen:
        (self.work / "logs").mkdir(exist_ok=True)
        with (self.work / "logs" / f"{name}.log").open("ab") as log:
            environment = {**os.environ, **ENVIRONMENT, **more}
            return child(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
