"""Parsing of budgets: `5000` (examples), `2Mtok` (tokens), `30min` (of training); and of times."""

from __future__ import annotations

import re
from dataclasses import dataclass

from al.errors import ConfigError

_SCALE = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class BudgetRequest:
    """A requested budget. `unit` is "examples", "tokens" or "seconds"; `amount` is in that unit; `text` is the user's text."""

    unit: str
    amount: float
    text: str


def parse_budget(text: str) -> BudgetRequest:
    """Parse a budget.

    Raises:
        ConfigError: `text` is not a budget, or not above zero.
    """
    match = re.fullmatch(
        r"\s*(-?[\d_]*\.?\d+)\s*([kmb]?)\s*(tok(?:ens?)?|s|sec|min|h|ex(?:amples?)?|)\s*", text, re.IGNORECASE
    )
    if match is None:
        raise ConfigError(f"--budget {text}: expected examples (5000), tokens (2Mtok) or training time (30min, 1.5h).")
    number, scale, word = float(match[1].replace("_", "")), match[2].lower(), match[3].lower()
    amount = number * _SCALE[scale]
    unit = "seconds" if word in _SECONDS else "tokens" if word.startswith("tok") else "examples"
    if unit == "seconds":
        amount *= _SECONDS[word]
    if amount <= 0:
        raise ConfigError(f"--budget {text}: a budget must be above zero; expected for example 5000, 2Mtok or 30min.")
    if unit != "seconds" and amount != int(amount):
        raise ConfigError(f"--budget {text}: a budget of {unit} must be a whole number.")
    return BudgetRequest(unit, amount, text.strip())


def parse_time(text: str, option: str) -> float:
    """Seconds of a time such as `22h` or `90min`. `option`: the flag that errors name.

    Raises:
        ConfigError: `text` is not a time, or not above zero.
    """
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*(s|sec|min|h)\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"{option} {text}: expected a time above zero, for example 22h, 90min or 30s.")
    return float(match[1]) * _SECONDS[match[2].lower()]
