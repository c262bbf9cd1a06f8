"""The demo assets: fetched and checked once, whole or absent, the same on every machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from al import assets
from al.assets import MARKER, Asset, demo_pool, make_assets, wheels
from al.assets.wheels import EVALS, Wheel, fetch
from al.cache import cache_dir
from al.config.pool import PoolConfig
from al.errors import EnvironmentProblem
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.run.integrity import sha256_file

EVALS_WHEEL = cache_dir() / "wheels" / EVALS.file


def needs(path: Path) -> Path:
    """`path` in the cache; the test is skipped where `make assets` never ran."""
    if not path.exists():
        pytest.skip(f"{path.name} is not in the cache; run `make assets`")
    return path


@pytest.fixture
def wheel(tmp_path) -> Wheel:
    """A small file at the path of a downloaded wheel in the cache `tmp_path`."""
    file = tmp_path / "wheels" / "toy-1.whl"
    file.parent.mkdir()
    file.write_bytes(b"content")
    return Wheel("toy==1", file.name, sha256_file(file))


@pytest.fixture
def builds() -> list[Path]:
    """The directories that `toy` was built in."""
    return []


@pytest.fixture
def toy(wheel, builds) -> Asset:
    def build(file: Path, directory: Path) -> None:
        builds.append(directory)
        (directory / "copy").write_bytes(file.read_bytes())

    return Asset("toy", 1, wheel, build)


def make(cache: Path, *wanted: Asset) -> list[str]:
    said: list[str] = []
    make_assets(cache, wanted, said.append)
    return said


def visible(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {".assets.lock"}


class TestMaking:
    def test_an_asset_is_built_once(self, tmp_path, toy, builds):
        make(tmp_path, toy)
        assert make(tmp_path, toy) == ["toy … present"]
        assert len(builds) == 1
        assert (tmp_path / "toy" / "copy").read_bytes() == b"content"

    def test_a_present_asset_needs_no_wheel(self, tmp_path, toy):
        make(tmp_path, toy)
        (tmp_path / "wheels" / toy.wheel.file).unlink()
        assert make(tmp_path, toy) == ["toy … present"]

    def test_another_recipe_builds_it_again(self, tmp_path, toy, builds):
        make(tmp_path, toy)
        (tmp_path / "toy" / "left over").touch()
        make(tmp_path, dataclasses.replace(toy, recipe=2))
        assert len(builds) == 2
        assert {path.name for path in (tmp_path / "toy").iterdir()} == {"copy", MARKER}

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_interrupted_build_leaves_nothing(self, tmp_path, toy, error):
        def interrupted(file: Path, directory: Path) -> None:
            toy.build(file, directory)
            raise error

        with pytest.raises(error):
            make(tmp_path, dataclasses.replace(toy, build=interrupted))
        assert visible(tmp_path) == {"wheels"}

    def test_an_interrupted_rebuild_keeps_the_old_asset(self, tmp_path, toy):
        def interrupted(file: Path, directory: Path) -> None:
            raise KeyboardInterrupt

        make(tmp_path, toy)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, dataclasses.replace(toy, recipe=2, build=interrupted))
        assert make(tmp_path, toy) == ["toy … present"]

    def test_what_a_killed_build_left_is_cleared_away(self, tmp_path, toy):
        (tmp_path / ".building-toy").mkdir()
        (tmp_path / ".building-toy" / "half").touch()
        make(tmp_path, toy)
        assert visible(tmp_path) == {"toy", "wheels"}
        assert not (tmp_path / "toy" / "half").exists()

    def test_a_directory_without_the_marker_is_not_taken_for_the_asset(self, tmp_path, toy, builds):
        (tmp_path / "toy").mkdir()
        make(tmp_path, toy)
        assert len(builds) == 1


class TestFetching:
    def test_a_wheel_with_another_hash_is_refused_and_left_where_it_is(self, tmp_path, wheel):
        file = tmp_path / "wheels" / wheel.file
        file.write_bytes(b"another content")
        with pytest.raises(EnvironmentProblem) as refused:
            fetch(wheel, file.parent)
        assert all(part in str(refused.value) for part in (str(file), wheel.sha256, sha256_file(file)))
        assert file.read_bytes() == b"another content"

    def test_a_refused_wheel_builds_nothing(self, tmp_path, toy, builds):
        (tmp_path / "wheels" / toy.wheel.file).write_bytes(b"another content")
        with pytest.raises(EnvironmentProblem):
            make(tmp_path, toy)
        assert (builds, visible(tmp_path)) == ([], {"wheels"})

    def test_without_network_the_error_says_which_file_to_put_where(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip then looks nowhere
        with pytest.raises(EnvironmentProblem) as refused:
            fetch(EVALS, tmp_path)
        assert all(part in str(refused.value) for part in (EVALS.requirement, EVALS.file, EVALS.sha256, str(tmp_path)))
        assert list(tmp_path.iterdir()) == []

    def test_pip_brings_the_wheel_without_its_dependencies(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(needs(EVALS_WHEEL).parent))
        assert fetch(EVALS, tmp_path).read_bytes() == EVALS_WHEEL.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == [EVALS.file]

    def test_every_wheel_is_pinned(self):
        pinned = [wheels.SMOLLM2, wheels.MINILM, wheels.EVALS]
        assert [asset.wheel for asset in assets.ASSETS] == pinned
        assert all("==" in wheel.requirement and len(wheel.sha256) == 64 for wheel in pinned)


class TestCommand:
    def run(self, cache: Path, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "al.assets"]
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "WINNOW_CACHE": str(cache), **environment}
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)

    def test_it_answers_in_a_second_when_everything_is_there(self):
        needs(cache_dir() / "demo-pool")
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            done = self.run(cache_dir())
            seconds.append(time.perf_counter() - started)
        assert done.stdout.splitlines() == [f"{asset.name} … present" for asset in assets.ASSETS]
        assert min(seconds) < 1

    def test_an_error_is_a_message_and_an_exit_code(self, tmp_path):
        done = self.run(tmp_path, PIP_NO_INDEX="1")
        assert done.returncode == EnvironmentProblem.exit_code
        assert done.stderr.startswith("error: pip could not download") and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("demo") / "demo-pool"
    directory.mkdir()
    demo_pool.build_demo_pool(needs(EVALS_WHEEL), directory)
    return directory


@pytest.fixture(scope="module")
def rows(pool) -> list[dict]:
    """Every line that is a JSON object with input and ideal."""
    found = []
    for path in sorted(pool.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line not in demo_pool.BROKEN.values():
                found.append({"file": path.stem, **json.loads(line)})
    return found


class TestDemoPool:
    def test_the_recipe_gives_the_same_bytes_as_in_the_cache(self, pool):
        cached = needs(cache_dir() / "demo-pool")
        for path in pool.iterdir():
            assert path.read_bytes() == (cached / path.name).read_bytes()
        assert {path.name for path in cached.iterdir()} - {MARKER} == {path.name for path in pool.iterdir()}

    def test_it_imports_with_the_faults_it_was_given_and_no_others(self, pool, tmp_path):
        stats = import_pool(find_sources(PoolConfig(files=[str(pool)])), tmp_path)
        assert (stats.examples, stats.labelled, stats.unlabelled) == (1050, 1040, 10)
        assert (stats.duplicates, stats.merged_after_conversion) == (0, 5)  # the field `made` differs
        assert len(stats.files) == len(demo_pool.TASKS) >= 40
        assert sum(stats.quarantined.values()) == len(demo_pool.BROKEN) == 8
        assert len(stats.quarantined) >= 6
        assert stats.formats == {"evals": 1055}

    def test_every_task_gives_the_rows_it_was_asked_for(self, rows):
        plain = Counter(row["file"] for row in rows if "made" not in row)
        assert plain == {demo_pool.file_stem(task): count for task, count in demo_pool.TASKS.items()}
        assert (min(plain.values()), max(plain.values())) == (8, 60)

    def test_faults_are_marked(self, rows):
        made = Counter(row["made"] for row in rows if "made" in row)
        assert made == {"near_duplicate": 20, "unanswered": 10, "over_long": 6, "exact_duplicate": 5}

    def test_near_duplicates_differ_a_little_from_a_row_of_their_file(self, rows):
        from difflib import SequenceMatcher

        for row in rows:
            if row.get("made") == "near_duplicate":
                text = row["input"][-1]["content"]
                others = [
                    o["input"][-1]["content"]
                    for o in rows
                    if o["file"] == row["file"] and o.get("made") != "near_duplicate"
                ]
                closest = max(
                    SequenceMatcher(None, text.lower(), other.lower(), autojunk=False).ratio() for other in others
                )
                assert text not in others and closest > 0.9

    def test_only_the_over_long_rows_exceed_what_the_demo_trains_on(self, rows):
        """Counted with the tokenizer and chat template of the demo's model."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(needs(cache_dir() / "smollm2-135m"))
        for row in rows:
            answer = row["ideal"][0] if isinstance(row["ideal"], list) else row["ideal"]
            messages = [*row["input"], {"role": "assistant", "content": answer or ""}]
            tokens = len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
            assert (tokens > 160) == (row.get("made") == "over_long")

    def test_no_row_comes_from_a_folder_under_another_licence(self):
        assert not {demo_pool.file_stem(task) for task in demo_pool.TASKS} & set(demo_pool.NOT_MIT)

    def test_the_licence_goes_with_the_rows(self, pool):
        text = (pool / "LICENSE.md").read_text()
        assert text.startswith("MIT License")
        named = {line.rsplit("/", 1)[-1] for line in text.splitlines() if line.startswith("- **Location**")}
        assert named == set(demo_pool.NOT_MIT)


class TestModels:
    def test_the_tokenizer_writes_the_template_the_model_was_trained_on(self):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(needs(cache_dir() / "smollm2-135m"))
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        assert tokenizer.convert_ids_to_tokens(tokenizer("<|im_start|>a<|im_end|>")["input_ids"]) == [
            "<|im_start|>",
            "a",
            "<|im_end|>",
        ]

    def test_every_digit_is_a_token_and_no_text_is_lost(self):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(needs(cache_dir() / "smollm2-135m"))
        text = "  Zwölf\tgroße 日本語 🎉 in 1999\n\n    return x  "
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert tokenizer.tokenize("a 12") == ["a", "Ġ", "1", "2"]

    def test_the_language_model_answers(self):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        directory = needs(cache_dir() / "smollm2-135m")
        tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
        assert model.dtype == torch.bfloat16
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert "Paris" in tokenizer.decode(answer)
        assert answer[-1] == tokenizer.eos_token_id

    def test_the_embedder_separates_near_from_far(self):
        from sentence_transformers import SentenceTransformer

        embedder = SentenceTransformer(str(needs(cache_dir() / "minilm")), device="cpu")
        cat, kitten, tax = embedder.encode(
            ["A cat sleeps.", "a kitten is sleeping", "Taxes are due in April."], normalize_embeddings=True
        )
        assert cat.shape == (384,)
        assert cat @ kitten > 0.6 > 0.3 > cat @ tax
