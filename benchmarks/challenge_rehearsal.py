"""The efficiency challenge in minutes: pool → rounds until the time is spent → adapter → server → answers to held-out questions,
judged → merged model.

Everything runs as a user runs it, in child processes of cli.py; questions go through the challenge's /process. What the children print
goes to WORK/log.txt. The record is written after each phase. The same command goes on after a kill: a finished phase is not done again, and
the minutes count over all calls (of a killed one to its last BEAT_SECONDS). When they are spent the rehearsal ends, with the record.
Exit code: 0, everything was done within the time; 3, the time was up or a signal came; 1, a command failed, which the record names.

On a GPU, with a small model in DIR:
    python benchmarks/challenge_rehearsal.py --model DIR --pool rows.jsonl --minutes 20 --budget 2000 --questions 250 --work DIR \
      --out benchmarks/results/challenge_rehearsal_h200.json
On two CPU cores with the demo's model, in 20 minutes, to see that all parts fit together:
    python benchmarks/challenge_rehearsal.py --config configs/demo.yaml --minutes 30 --budget 40 --questions 30 --tokens 16 --work DIR \
      --out benchmarks/results/challenge_rehearsal_cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from common import child, device_name, now, versions

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FOR_ROUNDS = 0.6
"""Share of the time that rounds may spend. The challenge's is 22 of 24 hours, but loading and starting take minutes in a rehearsal too."""
ROUNDS = 3
"""The budget of a round is this part of their time, so that there are several."""
STARTING_SECONDS = 600
LAST_SECONDS = 30
"""Of the time, kept for ending what still runs and for writing the record."""
ENDING_SECONDS = 15
"""How long a command has to end by itself when the time is up: a training saves a checkpoint."""
BEAT_SECONDS = 5.0
"""How often the time of the phase under way is saved."""
TIME_UP = 3
SMALL = (
    "model.chat_template=auto",
    'embed.model="{cache}/minilm"',
    "holdout.dev=60",
    "holdout.test=300",
    "lora.r=32",
    "lora.alpha=64",
    "train.learning_rate=2.0e-4",
)
"""What of the challenge's config a rehearsal changes: a small model with its own template, the embedder of the demo, and a rate for few
steps."""


class TimeUp(Exception):
    """The minutes are spent."""


class Stopped(Exception):
    """The process was asked to stop."""


class Failed(Exception):
    """A command failed; the message has the end of what it printed."""


class Rehearsal:
    """What was done so far, over all calls: `state.json` in the work folder has the seconds and the result of each phase."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.run = arguments, arguments.work / "run"
        self._file, self.log = arguments.work / "state.json", arguments.work / "log.txt"
        state = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.seconds: dict[str, float] = state.get("seconds", {})
        self.found: dict[str, Any] = state.get("found", {})
        self.stopped: str | None = None
        self._ends = time.monotonic() + 60 * arguments.minutes - LAST_SECONDS - sum(self.seconds.values())

    @property
    def left(self) -> float:
        """Seconds for phases. Raises TimeUp if there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeUp("the time is up")
        return left

    def phase(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of `work()`, or of an earlier call's."""
        if name in self.found:
            return self.found[name]
        started = time.monotonic() - self.seconds.get(name, 0.0)
        print(f"{name}: begun, {self.left:.0f} s left", flush=True)

        def count() -> None:
            """Save the time so far: nothing else can when the process is killed."""
            self.seconds[name] = round(time.monotonic() - started, 1)
            self._save()

        try:
            with repeated(count, BEAT_SECONDS):
                found = work()
            self.found[name] = found
            return found
        finally:
            count()
            self.write()

    def write(self) -> None:
        """Save the state and the record, each whole or not at all."""
        self._save()
        _replace(self.arguments.out, record_of(self))

    def _save(self) -> None:
        _replace(self._file, {"seconds": self.seconds, "found": self.found})

    def cli(self, *arguments: object, seconds: float | None = None) -> Any:
        """The document that a command of cli.py prints. `seconds`: at most, instead of what is left. Raises TimeUp and Failed."""
        command = [sys.executable, "cli.py", *map(str, arguments), "--json"]
        limit = self.left if seconds is None else seconds
        with self.log.open("ab") as log:
            log.write(f"\n$ {shlex.join(command[1:])}\n".encode())
            log.flush()
            began = log.tell()
            process = child(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
            try:
                printed, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                raise TimeUp(f"cli.py {arguments[0]} was still at work") from None
            finally:
                end(process)
        if process.returncode:
            said = self.log.read_bytes()[began:].decode(errors="replace").strip()
            raise Failed(f"cli.py {' '.join(map(str, arguments))}: exit code {process.returncode}: {said[-1500:]}")
        return json.loads(printed)

    @contextmanager
    def served(self, model: str) -> Iterator[str]:
        """The address of a server of one model of the run, as a submission's container starts it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "cli.py", "serve", "--run", str(self.run), "--models", model]
        command += ["--port", str(port), "--no-token"]
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + min(self.left, STARTING_SECONDS)
        with self.log.open("ab") as log:
            server = child(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            while not _answers(address):
                if server.poll() is not None:
                    raise Failed(f"{shlex.join(command[1:])}: ended with code {server.returncode}")
                if time.monotonic() > until:
                    raise TimeUp(f"{shlex.join(command[1:])}: not up")
                time.sleep(1)
            yield address
        finally:
            end(server)


@contextmanager
def repeated(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Inside the block, call `work` every so many seconds in a thread of its own."""
    ended = threading.Event()

    def run() -> None:
        """Until the block has ended."""
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _replace(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: asked first, then killed."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=ENDING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def post(address: str, page: str, body: dict[str, Any], seconds: float = 120) -> Any:
    """The answer of the server to one request."""
    request = urllib.request.Request(
        f"{address}/{page}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return json.load(answer)


def _answers(address: str) -> bool:
    try:
        post(address, "tokenize", {"text": "ready?"}, 30)
    except (OSError, HTTPException):  # URLError is an OSError
        return False
    return True


def ask(rehearsal: Rehearsal, model: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers to the questions, one at a time at temperature 0: their mean score (1 right, 0 wrong; ROUGE-L of long ones), and time.

    Each answer is kept in a file as it comes. A later call asks the rest. Raises TimeUp, and Failed if the server ends or refuses.
    """
    from al.evaluation.answers import judge

    kept = rehearsal.arguments.work / f"answers-{model}.jsonl"
    with rehearsal.served(model) as address, kept.open("a") as file:
        for question in questions[len(_lines(kept)) :]:
            body = {"temperature": 0, "max_new_tokens": rehearsal.arguments.tokens, "seed": 0}
            began, limit = time.monotonic(), rehearsal.left
            try:
                answer = post(address, "process", {"prompt": question["prompt"], **body}, limit)
            except urllib.error.HTTPError as error:
                raise Failed(f"/process: {error}: {error.read()[:500]!r}") from error
            except TimeoutError as error:
                raise TimeUp("an answer was still being written") from error
            except (OSError, HTTPException) as error:
                raise Failed(
                    f"/process: the server of {model} ended ({error!r}); log.txt has what it printed"
                ) from error
            score = judge(answer["text"], question["accepted"]).score
            line = {"score": score, "tokens": len(answer["tokens"]), "seconds": time.monotonic() - began}
            file.write(json.dumps({**line, "text": answer["text"], "accepted": question["accepted"]}) + "\n")
            file.flush()
    return answered(kept)


def answered(kept: Path) -> dict[str, Any]:
    """Number, mean score (None without answers), tokens and seconds of the answers in a file."""
    lines = _lines(kept)
    return {
        "questions": len(lines),
        "mean_score": round(sum(line["score"] for line in lines) / len(lines), 4) if lines else None,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "answer_tokens": sum(line["tokens"] for line in lines),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def questions_of(exported: Path, adapter: Path, most: int) -> list[dict[str, Any]]:
    """{"prompt": as the adapter's chat template writes it, "accepted": answers} of held-out examples."""
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(adapter), []
    for line in exported.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        *asked, last = row["messages"]
        if last["role"] != "assistant" or len(found) == most:
            continue
        messages = [{"role": message["role"], "content": message["content"]} for message in asked]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        found.append({"prompt": prompt, "accepted": [last["content"], *row["alternatives"]]})
    return found


def rehearse(rehearsal: Rehearsal) -> None:
    """All phases in order. Raises TimeUp, Stopped and Failed."""
    arguments, run, out = rehearsal.arguments, rehearsal.run, rehearsal.arguments.work
    sets = [f"model.name={arguments.model}", *SMALL] if arguments.model else []
    options = [word for setting in (*sets, *arguments.set) for word in ("--set", setting)]
    options += ["--pool", str(arguments.pool)] if arguments.pool else []
    until = until_seconds(arguments)
    budget = arguments.budget or f"{until / ROUNDS / 2:.0f}s"
    limits = ["--budget", budget, "--until", f"{until:.0f}s", "--all-rounds"]
    try:
        rehearsal.phase(
            "rounds", lambda: bool(rehearsal.cli("run", "--config", arguments.config, "--run", run, *limits, *options))
        )
    finally:
        with suppress(TimeUp, Failed):  # there is none before the first round begins
            status = rehearsal.cli("status", "--run", run, seconds=LAST_SECONDS - ENDING_SECONDS)
            rehearsal.found["status"] = status["rounds"]
    test = out / "test.jsonl"

    def export(kind: str) -> None:
        """Export the last round in one form."""
        command = ["export", "--run", run, "--as", kind, "--to", out / kind, "--force"]
        rehearsal.phase(f"export {kind}", lambda: rehearsal.cli(*command))

    export("adapter")
    rehearsal.phase(
        "questions", lambda: bool(rehearsal.cli("pool", "export", test, "--split", "test", "--run", run, "--force"))
    )
    questions = questions_of(test, out / "adapter", arguments.questions)
    for model in ("selected", "base"):
        rehearsal.phase(f"answers {model}", lambda model=model: ask(rehearsal, model, questions))
    export("merged")


def until_seconds(arguments: argparse.Namespace) -> float:
    """The time for rounds."""
    return FOR_ROUNDS * 60 * arguments.minutes


def record_of(rehearsal: Rehearsal) -> dict[str, Any]:
    """The record of what has been done."""
    arguments, found, seconds = rehearsal.arguments, rehearsal.found, rehearsal.seconds
    kept = {model: arguments.work / f"answers-{model}.jsonl" for model in ("base", "selected")}
    complete = {"export merged", *(f"answers {model}" for model in kept)} <= found.keys()
    keys = ("round", "state", "budget", "test_macro_nll")
    record = {
        "command": command_of(arguments),
        "model": arguments.model.name if arguments.model else None,
        "device": rehearsal.arguments.device,
        "card_shared": arguments.card_shared,
        "date": now(),
        "versions": versions(),
        "minutes": arguments.minutes,
        "until_seconds": until_seconds(arguments),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "complete": complete,
        "within_time": complete and sum(seconds.values()) <= 60 * arguments.minutes,
        "stopped": rehearsal.stopped,
        "rounds": [{key: entry.get(key) for key in keys} for entry in found.get("status", ())],
        "answered": {model: answered(path) for model, path in kept.items() if path.exists()},
    }
    if "export merged" in found:
        record["merged"] = found["export merged"]["difference"]
    if "export adapter" in found:
        record["vllm"] = {key: found["export adapter"]["vllm"][key] for key in ("max_lora_rank", "problems")}
    return record


def command_of(arguments: argparse.Namespace) -> str:
    """What repeats this rehearsal, without the places of files."""
    words = ["--config", Path(arguments.config).name, "--minutes", f"{arguments.minutes:g}"]
    words += ["--budget", arguments.budget] if arguments.budget else []
    words += ["--questions", str(arguments.questions), "--tokens", str(arguments.tokens)]
    words += [word for setting in arguments.set for word in ("--set", setting)]
    return shlex.join(["python", "benchmarks/challenge_rehearsal.py", *words])


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(f"stopped by {signal.Signals(number).name}")


def main() -> int:
    """Parse arguments, rehearse, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/efficiency-challenge.yaml")
    parser.add_argument("--model", type=Path, help="folder of a small base model")
    parser.add_argument("--pool", type=Path, help="files to select from, instead of the config's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more of the config")
    parser.add_argument("--minutes", type=float, default=20.0, help="for everything")
    parser.add_argument("--budget", help="of a round, instead of a sixth of their time")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=50, help="most of an answer; 50 is the challenge's default")
    parser.add_argument("--card-shared", action="store_true", help="record that others used the GPU meanwhile")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.device = device_name()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    rehearsal, code = Rehearsal(arguments), 0
    try:
        rehearse(rehearsal)
    except (TimeUp, Stopped, Failed) as reason:
        rehearsal.stopped, code = str(reason), 1 if isinstance(reason, Failed) else TIME_UP
    rehearsal.write()
    record = record_of(rehearsal)
    print(json.dumps({key: record[key] for key in ("complete", "within_time", "stopped", "answered")}, indent=1))
    return code or (0 if record["within_time"] else TIME_UP)


if __name__ == "__main__":
    sys.exit(main())
