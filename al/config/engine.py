"""Where the work of a run is done: in this process, on the GPUs of this machine, or on a Ray cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator


class EngineConfig(BaseModel, extra="forbid", frozen=True):
    """Who does the work that goes in shards. No result depends on it."""

    kind: Literal["local", "processes", "ray"] = Field(
        "local",
        description="local: this process, on one GPU. processes: one worker process for each GPU of this machine. ray: one worker for each "
        "GPU of a Ray cluster (the extra `winnow[ray]`). `engine: ray` is short for `engine.kind: ray`. Changes speed, not the result.",
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Workers, each with a GPU of its own. auto: one for each GPU. Where model.device is cpu: worker processes, auto: one.",
    )
    address: str | None = Field(
        None,
        description="Ray cluster to join: `auto`, host:port or ray://host:port. null: the cluster of `ray job submit`, else a Ray of its "
        "own on this machine.",
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value
