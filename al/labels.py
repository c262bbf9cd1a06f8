"""The words of reports for the codes of a summary, shared by the terminal and the page."""

from __future__ import annotations

from typing import Any, NamedTuple

from selection import scores

MODELS = {"base": "Base", "previous": "Previous round", "selected": "Selected", "control": "Random control"}

WORK = {
    "preparing": "Preparing the pool",
    "selecting": "Scoring and selecting",
    "training": "Training",
    "evaluation": "Evaluation and report",
    "control": "Random control, all its work",
    "total": "Total",
}
"""The kinds of work that time and cost are counted for."""

OUTCOMES = {
    "selected": "selected for training",
    "quota_full": "quota of its group was full",
    "no_quota": "its group got no quota",
    "tail_cut": "among its group's highest losses",
    "suspected_noise": "its prompt makes its response less likely: suspected noise",
    "held_out_dev": "held out as dev",
    "held_out_test": "held out as test",
    "near_duplicate": "near-duplicate of another example",
    "near_duplicate_of_holdout": "near-duplicate of a held-out example",
    "near_duplicate_of_target": "near-duplicate of a target example",
    "unlabelled": "has no response",
    "answered": "has no response; another example answers it",
    "over_length": "over the length limit",
    "no_target": "its template leaves no token to train on",
    "trained": "trained on in an earlier round",
    "other_language": "in a language that clean.languages leaves out",
    "refusal": "its response declines the request",
    "dropped_in_review": "dropped in review",
    "banned_in_review": "its group or source was banned in review",
}

ADJUSTED = {
    "repaired_encoding": "text decoded with the wrong character set was repaired",
    "masked_pii": "personal data was masked",
    "merged_turns": "neighbouring messages of one role became one",
    "system_as_user": "system message after the first message became a user's",
    "message_fields_left_out": "message fields other than role and text were left out",
    "renamed_fields": "field names were read in lower case with underscores",
    "rejected_set_aside": "a response that the row rejects or marks as bad was set aside",
    "task_examples_left_out": "worked example of a task file was left out",
    "replies_not_best": "reply outside the best-ranked thread of a message tree was left out",
    "replies_turned_down": "reply of a message tree that was deleted or rejected in review was left out",
    "unanswered_turn_cut": "last turn without an answer was cut off",
    "opening_as_context": "the assistant speaks first: that turn is context, not trained on",
    "tool_results_reordered": "results of tools were put in the order of their calls",
    "template_taken_apart": "text with the markers of a chat template was taken apart into messages",
}

LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "la": "Latin", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay",
    "nl": "Dutch", "no": "Norwegian", "nb": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
    "und": "unknown (too short or unsure)",
}  # fmt: skip

SCORES = {name: score.label or f"{name}: {score.about}" for name, score in scores.SCORES.items() if name != "length"}
"""The axis of each score's distribution. Length has a chart of its own, of picked against left."""

TARGET_NOT_HELD = (
    "the pool may hold nothing of the target's kind: most target examples are farther from the nearest pool example than from another "
    "target example. Selecting for it may then gain nothing; add similar examples"
)


class Metric(NamedTuple):
    """A metric of the evaluation: its key in the summary, its name, its style in `values.STYLES`, and whether lower is better."""

    key: str
    name: str
    style: str
    lower_is_better: bool


# Macro: mean of the sources' values. Micro: mean over all tokens (NLL) or examples (exact match). The page explains both.
METRICS = (
    Metric("macro_nll", "NLL, macro", "nll", True),
    Metric("micro_nll", "NLL, micro", "nll", True),
    Metric("macro_nll_no_end", "NLL, macro, no end token", "nll", True),
    Metric("micro_nll_no_end", "NLL, micro, no end token", "nll", True),
    Metric("macro_em", "Exact match, macro", "percent", False),
    Metric("micro_em", "Exact match, micro", "percent", False),
    Metric("macro_em_no_end", "Exact match, macro, no end token", "percent", False),
    Metric("micro_em_no_end", "Exact match, micro, no end token", "percent", False),
)

MEASURES = {
    "accuracy": "Written accuracy",
    "rouge_l": "Written ROUGE-L",
    "likelihood": "Likely choice",
    "likelihood_norm": "Choice per byte",
}
"""What is measured of written answers, and of which choice is most likely (al.evaluation.judged)."""
WRITTEN = tuple(
    Metric(f"{mean}_{measure}", f"{name}, {mean}", "percent", False)
    for measure, name in MEASURES.items()
    for mean in ("macro", "micro")
)


def outcome(code: str) -> str:
    """The meaning of an outcome or quarantine code; an unknown code is shown with spaces for underscores."""
    return OUTCOMES.get(code, code.replace("_", " "))


def adjusted(code: str) -> str:
    """What an import changed; an unknown code is shown with spaces for underscores."""
    return ADJUSTED.get(code, code.replace("_", " "))


def language(code: str) -> str:
    """A language's English name with its ISO 639-1 code; the code alone if it is unknown."""
    return f"{LANGUAGES[code]} ({code})" if code in LANGUAGES and code != "und" else LANGUAGES.get(code, code)


def comparison(key: str) -> str:
    """A difference's key, such as "selected - control", in words: "Selected minus random control"."""
    left, separator, right = key.partition(" - ")
    if not separator:
        return key
    return f"{MODELS.get(left, left)} minus {MODELS.get(right, right).lower()}"


def device_seconds(summary: dict[str, Any]) -> str:
    """What the seconds of a round's work are of: "GPU seconds" or "CPU seconds"."""
    return "CPU seconds" if str(summary.get("device") or "").startswith("cpu") else "GPU seconds"


def difference_style(metric: str) -> tuple[str, str]:
    """Style and unit of a difference in a metric: nats for NLL, percentage points for exact match."""
    return ("nll", "nats") if "nll" in metric else ("points", "points")


def models_of(evaluation: dict[str, Any] | None) -> list[str]:
    """The evaluated models in the order of MODELS; unknown ones come last."""
    models = (evaluation or {}).get("models") or {}
    known = [name for name in MODELS if models.get(name)]
    return known + [name for name in models if name not in MODELS]


def metric(key: str) -> Metric:
    """The metric with this key; an unknown one is named by its key."""
    return next((m for m in (*METRICS, *WRITTEN) if m.key == key), Metric(key, key, "nll", "nll" in key))


def place_of(key: str) -> tuple[str, ...]:
    """Where a summary holds a metric on test: with the written answers, or with what is measured on the true responses."""
    return ("answers", "test") if any(m.key == key for m in WRITTEN) else ("evaluation",)
