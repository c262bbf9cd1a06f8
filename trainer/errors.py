"""Errors of the trainer caused by input or machine, each with the exit code of the command line."""

from __future__ import annotations


class TrainerError(ValueError):
    """An unusable setting or input; the message states what was expected, found, where, and what to do."""

    exit_code: int = 2


class DataError(TrainerError):
    """The examples cannot be trained on or measured (nothing to train on, unknown template, document too long)."""

    exit_code: int = 3


class MachineError(TrainerError):
    """A missing resource: no GPU, out of memory, disk full, model files missing."""

    exit_code: int = 4


class CheckpointError(TrainerError):
    """A checkpoint or adapter on disk is damaged, or belongs to another training."""

    exit_code: int = 5


class Diverged(TrainerError):
    """Loss or gradient became infinite or not a number."""

    exit_code: int = 6


class Interrupted(TrainerError):
    """The user stopped training; the state is saved, and the same command continues from it."""

    exit_code: int = 130
