"""Texts that a pool, a config or a cluster's terms may hold: attacks on a page or terminal that trusts them."""

from __future__ import annotations

from typing import Any

from report_summaries import later_round

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "javascript:alert(5)",
    '<a href="javascript:alert(6)">click</a>',
    "line\u2028separator\u2029here",
    "{{ 7 * 7 }} {% raw %} {# no #} ${1+1} %{x}",
    "<!-- <script> --><![CDATA[",
    "</textarea></style></title></data><svg onload=alert(7)>",
    "&lt;script&gt; &amp; &#x3c;b&#x3e;",
    "\x1b[31mred\x07\x9b2J and \x00 nul",
    "\u202eevil\u2066 bidi",
    "lone \ud800 surrogate",
    "W" * 500,
    "<svg/onload=alert(8)>",
    "<iframe srcdoc='<script>alert(9)</script>'></iframe>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(10)>",
    "<style>@import 'https://evil.example/a.css'; body { background: url(https://evil.example/b) }</style>",
    "<link rel=stylesheet href=https://evil.example/c.css>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/d'>",
    "<object data=https://evil.example/e></object><embed src=https://evil.example/f>",
    "<img src=https://evil.example/g.png srcset='https://evil.example/h.png 2x'>",
    "`+alert(11)+`",
    "';alert(12);//",
    "\\u003cscript\\u003ealert(13)\\u003c/script\\u003e",
    "__proto__",
    "</bdi></pre></details></summary><details open ontoggle=alert(14)>",
    "<b><i><sub>plotly reads these</sub></i></b><br>",
]


def hostile() -> dict[str, Any]:
    """A later round in which every text that a pool or a user can write is an attack."""
    summary = later_round()
    attack = " ".join(HOSTILE)
    summary.update(run=attack, command=attack, device=attack, created=attack, config_diff={attack: [attack, attack]})
    summary["versions"] = {attack: attack}
    summary["artifacts"] = summary["hashes"] = {attack: attack}
    summary.update(config=attack, platform=attack)
    summary["cost"]["currency"] = attack
    summary["model"].update(name=attack, quantization=attack)
    summary["budget"].update(asked=attack, unit=attack)
    summary["pool"]["sources"] = {text: 10 + i for i, text in enumerate(HOSTILE)}
    summary["pool"]["quarantined"] = {text: 10 + i for i, text in enumerate(HOSTILE)}
    summary["selection"].update(strategy=attack, allocation=attack, picker=attack, score=attack)
    summary["selection"]["outcomes"][attack] = 0
    summary["scoring"].update(adapter=attack, length_correlation={attack: 0.5})
    summary["evaluation"]["split"] = attack
    summary["timings"] = {attack: 1.5, "total": 2.5}
    summary["review"].update(note=attack, banned_sources=list(HOSTILE))
    for rows, keys in (
        (summary["clusters"], ("name", "reason")),
        (summary["evaluation"]["by_source"], ("source",)),
        (summary["evaluation"]["by_group"], ("group",)),
        (summary["drift"]["clusters"], ("name",)),
        (summary["drift"]["sources"], ("name",)),
        (summary["generations"]["rows"], ("id", "source", "group", "prompt", "reference")),
        ([answer for row in summary["generations"]["rows"] for answer in row["answers"].values()], ("text",)),
        (summary["examples"]["picked"], ("id", "source", "why", "prompt", "response")),
        (summary["examples"]["left_out"], ("id", "source", "why", "prompt", "response", "outcome")),
        (summary["review"]["taken_out"], ("id", "source", "outcome")),
        (summary["review"]["brought_in"], ("id", "source")),
        (summary["review"]["banned_clusters"], ("name",)),
        (summary["review"]["quotas"], ("name",)),
        (summary["examples"]["quarantined"], ("file", "reason", "message", "snippet")),
    ):
        for index, row in enumerate(rows):
            row.update({key: HOSTILE[(index + shift) % len(HOSTILE)] for shift, key in enumerate(keys)})
    summary["examples"]["picked"][0].update(prompt=attack * 20, response=attack)
    return summary
