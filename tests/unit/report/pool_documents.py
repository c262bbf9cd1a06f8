"""Documents of `pool inspect`, made by hand, for the page and the terminal."""

from __future__ import annotations

import copy
from typing import Any

from report_attacks import HOSTILE

MORE_ATTACKS = [
    "\x1b]0;title\x07\x1b[2J\x1b[H",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m\x85\x90",
    "\rovertyped",
    "back\b\b\b\bspaced",
    "[bold red]markup[/] [link=https://evil.example]x[/link] :bomb:",
    "</pre></mark><mark class=end>forged</mark>",
    "</option></select><script>alert(8)</script>",
    "<iframe srcdoc='<script>alert(9)</script>'>",
    "<svg><script>alert(10)</script></svg>",
    "<math><mi xlink:href='data:x,<script>alert(11)</script>'>",
    "<style>@import 'https://evil.example/a.css'</style>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href='https://evil.example/'>",
    "<form action=https://evil.example><input name=x autofocus onfocus=alert(12)>",
    "constructor __proto__ toString",
]
ATTACKS = [*HOSTILE, *MORE_ATTACKS]


def pool_document() -> dict[str, Any]:
    """A run's pool with something of everything."""
    segments = [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", 0),
        ("Good day", 1),
        ("<|im_end|>", 2),
        ("\n", 0),
    ]
    files = [{"file": "a.jsonl", "sha256": "0" * 64, "format": "auto", "rows": 1_300, "quarantined": 3}]
    return {
        "schema": 1,
        "run": "runs/pool",
        "version": 2,
        "near_duplicates": {"count": 41, "threshold": 0.95},
        "examples": 1_234,
        "labelled": 1_200,
        "unlabelled": 30,
        "answered": 4,
        "duplicates": 63,
        "merged_after_conversion": 7,
        "skipped": [{"file": "card.json", "reason": "contains no rows."}],
        "quarantined": {"invalid_json": 2, "bad_utf8": 1},
        "sources": {"dolly": 1_000, "oasst1": 234},
        "formats": {"dolly": 1_050, "messages": 247},
        "adjusted": {"merged_turns": 17},
        "files": files,
        "recognised": [
            {"file": "a.jsonl", "format": "dolly", "rows": 1_050, "fields": "instruction, context, response"},
            {"file": "a.jsonl", "format": "messages", "rows": 247, "fields": "messages: [{role, content}, …]"},
        ],
        "leftovers": [
            {
                "file": "a.jsonl",
                "format": "dolly",
                "field": "hint",
                "rows": 800,
                "share": 0.76,
                "example": "Count the legs.",
                "content": True,
            },
            {
                "file": "a.jsonl",
                "format": "dolly",
                "field": "asked",
                "rows": 90,
                "share": 0.09,
                "example": "",
                "content": False,
            },
        ],
        "languages": {"of": 1_000, "counts": {"en": 900, "de": 88, "und": 12}},
        "turns": {"of": 1_234, "user_turns": {"1": 1_100, "2": 100, "3-4": 34}, "system": 12, "tool": 3},
        "lengths": {
            "unit": "tokens",
            "of": 1_100,
            "percentiles": {"50": 61, "90": 222, "99": 700},
            "mean": 88.5,
            "longest": 5_000,
            "total": 97_350,
            "bins": [
                {"low": 32, "high": 64, "count": 600},
                {"low": 64, "high": 128, "count": 497},
                {"low": 4_096, "high": 8_192, "count": 3},
            ],
            "tokenizer": "/somewhere/private/smol",
            "template": "tokenizer",
            "trained_share": 0.412,
            "max_length": 2_048,
            "overlength": "skip",
            "over": 3,
            "over_status": {"skipped": 3},
            "refused": 2,
            "refused_why": "turn 2: knows no tool",
        },
        "refusals": {"of": 1_200, "count": 9},
        "most_repeated": [{"id": "00", "rows": 12, "origin": "a.jsonl:7", "text": "say hello"}],
        "quarantine": [
            {
                "file": "a.jsonl",
                "line": 9,
                "reason": "invalid_json",
                "message": "character 3: no",
                "snippet": "{x",
                "rows": 2,
            },
            {
                "file": "a.jsonl",
                "line": 5,
                "reason": "bad_utf8",
                "message": "byte 8: not UTF-8",
                "snippet": "\\xff",
                "rows": 1,
            },
        ],
        "template_note": "",
        "shown": [
            {
                "id": "00ff",
                "source": "dolly",
                "origin": "a.jsonl:1",
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}],
                "segments": [{"text": text, "target": target} for text, target in segments],
            }
        ],
        "samples": [
            {"id": "00ff", "source": "dolly", "origin": "a.jsonl:1", "prompt": "user: Hi", "response": "Good day"},
            {"id": "01ff", "source": "oasst1", "origin": "a.jsonl:2", "prompt": "user: Why?", "response": ""},
        ],
    }


def files_document() -> dict[str, Any]:
    """Files looked at without a tokenizer, all of them well."""
    document = pool_document()
    lengths = {key: document["lengths"][key] for key in ("of", "percentiles", "mean", "longest", "total", "bins")}
    document.update(run=None, version=None, near_duplicates=None, quarantined={}, quarantine=[], adjusted={})
    document.update(most_repeated=[], duplicates=0, lengths={**lengths, "unit": "characters", "why": "no such model"})
    document["shown"][0]["segments"] = []
    document["template_note"] = "The tokenizer is away"
    return document


def attacked_document() -> dict[str, Any]:
    """A document in which every text that a pool can write is an attack."""
    document = pool_document()
    attack = " ".join(ATTACKS)
    document.update(run=attack)
    document["sources"] = {text: 30 + i for i, text in enumerate(ATTACKS)}
    document["adjusted"] = {attack: 3}
    document["languages"]["counts"] = {"en": 900, attack: 1}
    document["lengths"].update(tokenizer=attack, template=attack, refused_why=attack)
    document["files"][0]["file"] = attack
    document["quarantined"] = {attack: 3}
    for entry in document["recognised"]:
        entry.update(file=attack, fields=attack)
    document["most_repeated"][0].update(origin=attack, text=attack)
    document["quarantine"] = [
        {"file": text, "line": 1, "reason": text, "message": text, "snippet": text, "rows": 1} for text in ATTACKS
    ]
    shown = document["shown"][0]
    document["shown"] = [
        {**copy.deepcopy(shown), "id": text, "source": text, "origin": text, "refused": text} for text in ATTACKS
    ]
    for example, text in zip(document["shown"], ATTACKS, strict=True):
        example["segments"] = [{"text": text, "target": target} for target in (0, 1, 2)]
    document["samples"] = [{key: text for key in ("id", "source", "origin", "prompt", "response")} for text in ATTACKS]
    return document
