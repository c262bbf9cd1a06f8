"""The examples of a pool version that `clean.languages` and `clean.refusals` exclude. The pool itself does not change.

Two stages, which run only if a switch is on: `languages` (detection, once per pool version, independent of the languages
asked for) and `cleaned` (the examples excluded by the switches).
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np

from al.cleaning.language import UNKNOWN, example_languages, known_languages
from al.cleaning.refusals import is_refusal
from al.errors import ConfigError
from al.pool.store import Pool, locate
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.vectors import blocks

WANTED, OTHER_LANGUAGE, REFUSAL = 0, 1, 2
"""Codes of `unwanted.npy`. A refusal in another language counts by its language."""
REASONS = {"other_language": OTHER_LANGUAGE, "refusal": REFUSAL}


def leave_out(session: Session, pool: Artifact) -> Artifact | None:
    """Publish which examples of `pool` the config's switches exclude. None if all switches are off.

    Publishes `unwanted.npy` (n,) uint8 and `cleaned.json`, counts by reason and of languages.

    Raises:
        ConfigError: `clean.languages` names a language that cannot be detected.
    """
    config = session.config.clean
    languages = detect_languages(session, pool) if config.languages else None
    if languages is None and config.refusals == "keep":
        return None

    def build(out: Path, scratch: Path) -> None:
        """Write `unwanted.npy` and `cleaned.json`."""
        reader = Pool.open(pool.path)
        unwanted = np.full(len(reader), WANTED, dtype=np.uint8)
        if config.refusals == "drop":
            unwanted[find_refusals(session, reader)] = REFUSAL
        found = None if languages is None else np.load(languages.path / "languages.npy")
        if found is not None:
            unwanted[other_languages(found, config.languages)] = OTHER_LANGUAGE
        np.save(out / "unwanted.npy", unwanted)
        counts = {name: int((unwanted == code).sum()) for name, code in REASONS.items()}
        write_json(out / "cleaned.json", {**counts, "languages": _counted(found)})

    inputs = {"pool": pool} | ({"languages": languages} if languages is not None else {})
    params = {"refusals": config.refusals, "languages": sorted(set(config.languages))}
    cleaned = session.run.stage("cleaned", version=1, inputs=inputs, params=params, build=build, label="clean")
    counts = cleaned.json("cleaned.json")
    session.tell(
        f"note: clean: excluded {counts['other_language']:,} examples in other languages and {counts['refusal']:,} refusals"
    )
    return cleaned


def detect_languages(session: Session, pool: Artifact) -> Artifact:
    """The language of every example. Publishes `languages.npy` (n,) str, ISO 639-1 codes or "und". Those that were detected in an earlier
    pool version are copied. Raises ConfigError."""
    _check_known(session.config.clean.languages)

    def build(out: Path, scratch: Path) -> None:
        """Write `languages.npy`."""
        reader = Pool.open(pool.path)
        found, new = _detected_before(session, reader.keys)
        with session.progress("languages", len(new), "examples") as progress:
            for rows in blocks(new):
                found[rows] = example_languages(reader, progress, rows)
        np.save(out / "languages.npy", found)

    return session.run.stage("languages", version=1, inputs={"pool": pool}, params={}, build=build)


def _detected_before(session: Session, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) str languages of the examples with these `keys`, "und" where none is known yet, and the rows of those."""
    found, new = np.full(len(keys), UNKNOWN, dtype="<U3"), np.arange(len(keys))
    for artifact in session.run.published("languages"):
        version = session.run.find("pool", artifact.manifest["inputs"]["pool"])
        if version is not None:
            at, known = locate(Pool.open(version.path).keys, keys)
            found[known], new = np.load(artifact.path / "languages.npy")[at[known]], np.flatnonzero(~known)
            break
    return found, new


def find_refusals(session: Session, pool: Pool) -> np.ndarray:
    """(n,) bool: has a response that declines the request."""
    result = np.zeros(len(pool), dtype=bool)
    with session.progress("refusals", len(pool), "examples") as progress:
        for row, messages in enumerate(pool.iter_messages()):
            result[row] = messages[-1]["role"] == "assistant" and is_refusal(messages[-1]["content"])
            progress(1)
    return result


def other_languages(found: np.ndarray, asked: list[str]) -> np.ndarray:
    """(n,) bool: in none of the languages asked for. Undetermined languages are not marked."""
    return ~np.isin(found, [*asked, UNKNOWN])


def why_left_out(cleaned: Artifact | None, n: int) -> dict[str, np.ndarray]:
    """{reason: (n,) bool} of the pool's examples excluded for it; empty if nothing was cleaned."""
    unwanted = np.zeros(n, dtype=np.uint8) if cleaned is None else np.load(cleaned.path / "unwanted.npy")
    return {name: unwanted == code for name, code in REASONS.items()}


def wanted(cleaned: Artifact | None, n: int) -> np.ndarray:
    """(n,) bool: not excluded for any reason."""
    return ~np.logical_or.reduce(list(why_left_out(cleaned, n).values()))


def role(cleaned: Artifact | None) -> dict[str, Artifact]:
    """`cleaned` as an input of a stage. If nothing was cleaned there is no input, so fingerprints of runs made before
    cleaning existed do not change."""
    return {} if cleaned is None else {"cleaned": cleaned}


def _check_known(languages: list[str]) -> None:
    known = known_languages()
    for code in languages:
        if code not in known:
            near = difflib.get_close_matches(code, known, n=1)
            raise ConfigError(
                f"clean.languages: {code} cannot be detected"
                + (f"; did you mean {near[0]}?" if near else ".")
                + " Known: "
                f"{', '.join(known)}."
            )


def _counted(languages: np.ndarray | None) -> dict[str, int]:
    if languages is None:
        return {}
    codes, counts = np.unique(languages, return_counts=True)
    return {str(codes[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}
