"""What a round publishes, by role, as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session


@dataclass
class RoundArtifacts:
    """What a round has published so far, by role; every entry is recorded in the run as it appears."""

    session: Session
    number: int
    roles: dict[str, Artifact] = field(default_factory=dict)

    def keep(self, role: str, artifact: Artifact) -> Artifact:
        """Record `artifact` under `role` and return it."""
        self.roles[role] = artifact
        rounds.record(self.session.run, self.number, role, artifact)
        return artifact


Keep = Callable[[str, Artifact], Artifact]
"""Records an artifact under a role and returns it."""
