"""What can go wrong in the trainer through a user's input or machine, each with the exit code that the CLI returns."""

from __future__ import annotations


class TrainerError(ValueError):
    """A setting or input that cannot be used; the message says what was expected, found, where, and what to do."""

    exit_code: int = 2


class DataError(TrainerError):
    """The examples cannot be trained on or measured (nothing to train on, unknown template, document too long)."""

    exit_code: int = 3


class MachineError(TrainerError):
    """The machine lacks something: no GPU, out of memory, disk full, model files absent."""

    exit_code: int = 4


class CheckpointError(TrainerError):
    """A checkpoint or adapter on disk is damaged, or belongs to another training."""

    exit_code: int = 5


class Diverged(TrainerError):
    """Loss or gradient became infinite or not a number."""

    exit_code: int = 6


class Interrupted(TrainerError):
    """Asked to stop; the state was saved first and the same command continues from it."""

    exit_code: int = 130
