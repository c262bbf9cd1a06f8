"""Errors a user can cause. The command line prints the message without a traceback and exits with `exit_code`.

| class              | code | meaning                                                            |
|--------------------|------|--------------------------------------------------------------------|
| ConfigError        | 2    | a key, value or flag that cannot be used                           |
| DataError          | 3    | a file that is missing, unreadable or without usable rows          |
| EnvironmentProblem | 4    | the machine: no GPU, disk full, out of memory, no network          |
| RunStateError      | 5    | the run directory: locked, made for other inputs, damaged artifact |
| Interrupted        | 130  | stopped by Ctrl-C or a signal; finished work is kept               |

A message states what was expected, what was found, where (file:line, key, flag) and what to do.
"""

from __future__ import annotations


class UserError(Exception):
    """Base class of errors that are printed as a message instead of a traceback."""

    exit_code: int = 1


class ConfigError(UserError):
    """A configuration key, value or command-line flag that cannot be used."""

    exit_code = 2


class DataError(UserError):
    """Input data that is missing, unreadable or unusable."""

    exit_code = 3


class EnvironmentProblem(UserError):
    """A missing resource of the machine: memory, disk, network, a GPU, a package."""

    exit_code = 4


class RunStateError(UserError):
    """A run directory that is locked, was made for other inputs, or is damaged."""

    exit_code = 5


class Unpublished(RunStateError):
    """An artifact that would have to be made, in a run that is open to read only."""


class Interrupted(UserError):
    """The user stopped the command; finished work is kept."""

    exit_code = 130
