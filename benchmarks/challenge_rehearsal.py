"""The efficiency challenge in minutes: pool → rounds until the time is spent → exports → server → held-out questions answered and judged.

Everything runs as a user runs it, in child processes of cli.py; questions go through the challenge's /process.

On a GPU, with a small model in DIR:
    python benchmarks/challenge_rehearsal.py --model DIR --minutes 20 --work DIR --out benchmarks/results/challenge_rehearsal_h200.json
On two CPU cores with the demo's model, in 20 minutes, to see that all parts fit together:
    python benchmarks/challenge_rehearsal.py --config configs/demo.yaml --minutes 30 --budget 40 --questions 30 --tokens 16 --work DIR \
      --out benchmarks/results/challenge_rehearsal_cpu.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import device_name, now, versions

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FOR_ROUNDS = 0.7
"""Share of the time that rounds may spend. The challenge's is 22 of 24 hours, but loading and starting take minutes in a rehearsal too."""
ROUNDS = 3
"""The budget of a round is this part of their time, so that there are several."""
STARTING_SECONDS = 600
SMALL = (
    "model.chat_template=auto",
    "embed.model={cache}/minilm",
    "holdout.dev=60",
    "holdout.test=200",
    "lora.r=32",
    "lora.alpha=64",
)
"""What of the challenge's config a rehearsal changes: a small model with its own template, the embedder and pool of the demo."""


def cli(*arguments: object) -> Any:
    """Run a command of cli.py; the document that it prints."""
    done = subprocess.run(
        [sys.executable, "cli.py", *map(str, arguments), "--json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"cli.py {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def post(address: str, page: str, body: dict[str, Any]) -> Any:
    """The answer of the server to one request."""
    request = urllib.request.Request(
        f"{address}/{page}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


@contextmanager
def served(run: Path, model: str) -> Iterator[str]:
    """The address of a server of one model of the run, as a submission's container starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "cli.py",
        "serve",
        "--run",
        str(run),
        "--models",
        model,
        "--port",
        str(port),
        "--no-token",
    ]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    address, started = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                post(address, "tokenize", {"text": "ready?"})
                break
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None or time.monotonic() - started > STARTING_SECONDS:
                    raise SystemExit(f"{' '.join(command)}: did not start") from None
                time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=60)


def ask(address: str, questions: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Answers to all questions, one at a time at temperature 0: their mean score (1 right, 0 wrong; ROUGE-L of long ones), and time."""
    from al.evaluation.answers import judge

    started, written, scores = time.monotonic(), 0, []
    for question in questions:
        answer = post(
            address, "process", {"prompt": question["prompt"], "temperature": 0, "max_new_tokens": tokens, "seed": 0}
        )
        written += len(answer["tokens"])
        scores.append(judge(answer["text"], question["accepted"]).score)
    seconds = time.monotonic() - started
    return {
        "questions": len(questions),
        "mean_score": round(sum(scores) / len(questions), 4),
        "seconds": round(seconds, 1),
        "answer_tokens": written,
    }


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


def rehearse(arguments: argparse.Namespace) -> dict[str, Any]:
    """All phases in order; the record without its provenance."""
    run, out = arguments.work / "run", arguments.work
    until = FOR_ROUNDS * 60 * arguments.minutes
    sets = [f"model.name={arguments.model}", *SMALL] if arguments.model else []
    options = [word for setting in (*sets, *arguments.set) for word in ("--set", setting)]
    options += ["--pool", str(arguments.pool)] if arguments.pool else []
    seconds, started = {}, time.monotonic()

    def phase(name: str) -> None:
        """End a phase."""
        seconds[name] = round(time.monotonic() - started - sum(seconds.values()), 1)

    budget = arguments.budget or f"{until / ROUNDS / 2:.0f}s"
    cli(
        "run",
        "--config",
        arguments.config,
        "--run",
        run,
        "--budget",
        budget,
        "--until",
        f"{until:.0f}s",
        "--all-rounds",
        *options,
    )
    phase("rounds")
    exports = {kind: cli("export", "--run", run, "--as", kind, "--to", out / kind) for kind in ("adapter", "merged")}
    cli("pool", "export", out / "test.jsonl", "--split", "test", "--run", run, "--force")
    phase("export")
    questions, answered = questions_of(out / "test.jsonl", out / "adapter", arguments.questions), {}
    for model in ("base", "selected"):
        with served(run, model) as address:
            answered[model] = ask(address, questions, arguments.tokens)
    phase("serve and ask")
    rounds = cli("status", "--run", run)["rounds"]
    keys = ("round", "state", "budget", "test_macro_nll")
    return {
        "minutes": arguments.minutes,
        "until_seconds": until,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "within_time": sum(seconds.values()) <= 60 * arguments.minutes,
        "rounds": [{key: entry.get(key) for key in keys} for entry in rounds],
        "merged": exports["merged"]["difference"],
        "vllm": {key: exports["adapter"]["vllm"][key] for key in ("max_lora_rank", "problems")},
        "answered": answered,
    }


def command_of(arguments: argparse.Namespace) -> str:
    """What repeats this rehearsal, without the places of files."""
    words = ["--config", Path(arguments.config).name, "--minutes", f"{arguments.minutes:g}"]
    words += ["--budget", arguments.budget] if arguments.budget else []
    words += ["--questions", str(arguments.questions), "--tokens", str(arguments.tokens)]
    words += [word for setting in arguments.set for word in ("--set", setting)]
    return shlex.join(["python", "benchmarks/challenge_rehearsal.py", *words])


def main() -> None:
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
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = rehearse(arguments)
    record = {
        "command": command_of(arguments),
        "model": arguments.model.name if arguments.model else None,
        "device": device_name(),
        "date": now(),
        "versions": versions(),
        **found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["answered"], indent=1))


if __name__ == "__main__":
    main()
