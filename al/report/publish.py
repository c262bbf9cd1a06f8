"""The last stage of a round: summary.json and report.html as an artifact, and the links under rounds/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al.budget import BudgetRequest
from al.preparation.stages import Prepared
from al.report.page.round import render_html
from al.report.summary.details import build_details
from al.report.summary.document import build_summary
from al.report.summary.facts import RoundFacts
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session


def publish_report(
    session: Session, prepared: Prepared, roles: Mapping[str, Artifact], budget: BudgetRequest, number: int
) -> dict[str, Any]:
    """Publish the report of round `number`, link the round's artifacts under `rounds/NNN/`, and return the summary."""
    inputs = {role: artifact for role, artifact in roles.items() if role != "report"}
    config = session.config.model_dump(mode="json")

    def build(out: Path, scratch: Path) -> None:
        """Write the documents and the page into `out`."""
        facts = RoundFacts.read(session, prepared, inputs, number)
        summary, details = build_summary(facts, budget), build_details(facts)
        write_json(out / "summary.json", summary)
        (out / "details.json").write_text(json.dumps(details, allow_nan=False), encoding="utf-8")
        (out / "report.html").write_text(render_html(summary, details), encoding="utf-8")
        write_json(out / "config.json", config)

    report = session.run.stage(
        "report",
        version=2,
        inputs=inputs,
        build=build,
        params={"round": number, "budget": budget.text, "evaluate": config["evaluate"], "report": config["report"]},
    )
    rounds.record(session.run, number, "report", report)
    link_round(session, {**inputs, "report": report}, number)
    return report.json("summary.json")


def link_round(session: Session, roles: Mapping[str, Artifact], number: int) -> None:
    """`rounds/NNN/`: a relative link per role, plus report.html, summary.json, details.json and config.json."""
    report = roles["report"].directory
    targets = {role: artifact.directory for role, artifact in roles.items()}
    targets |= {name: report / name for name in ("report.html", "summary.json", "details.json", "config.json")}
    for name, target in targets.items():
        rounds.link(session.run.path, number, name, target)
