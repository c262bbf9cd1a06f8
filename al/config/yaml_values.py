"""YAML that people and programs wrote, within bounds: no alias may unfold to millions of values, no nesting may exhaust the stack, and
no number may be too long for other programs."""

from __future__ import annotations

from typing import Any

import yaml

from al.errors import ConfigError
from al.excerpt import cut

MOST_VALUES, DEEPEST = 100_000, 50
"""Values of a document with its aliases unfolded, and levels of nesting. The largest config of this repository has 40 and 3."""
LONGEST_INTEGER = 64
"""Bits."""


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML document; `where` names it in errors.

    Raises:
        ConfigError: not YAML, deeper than DEEPEST, more than MOST_VALUES values, or an integer above LONGEST_INTEGER bits.
    """
    try:
        _check_depth(text, where)
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            return None
        _check_size(root, where)
        value = yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{line}: not valid YAML: {cut(said, 200)}") from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # a ValueError: a date that does not exist, an integer of thousands of digits
        said = " ".join(str(error).split())
        raise ConfigError(f"{where}: not valid YAML: {cut(said, 200)}") from None
    _check_integers(value, where)
    return value


def _check_depth(text: str, where: str) -> None:
    """Raises ConfigError at the first place that is too deep: composing a tree takes stack for every level."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{where}:{event.start_mark.line + 1}: nested deeper than {DEEPEST} levels.")


def _check_size(root: yaml.Node, where: str) -> None:
    """Raises ConfigError for a tree whose aliases unfold to too much, or for ever: nothing is unfolded to find out."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()

    def size(node: yaml.Node) -> int:
        """Number of values below and including `node`."""
        if id(node) in entered or len(entered) > DEEPEST:
            raise ConfigError(f"{where}: nested deeper than {DEEPEST} levels with its aliases unfolded.")
        if id(node) not in sizes:
            entered.add(id(node))
            children = node.value if isinstance(node, yaml.CollectionNode) else ()
            inner = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
            sizes[id(node)] = 1 + sum(size(part) for part in inner)
            entered.discard(id(node))
        return sizes[id(node)]

    found = size(root)
    if found > MOST_VALUES:
        raise ConfigError(
            f"{where}: expected at most {MOST_VALUES:,} values, found {found:,} with its aliases unfolded."
        )


def _check_integers(value: Any, where: str, key: str = "") -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _check_integers(name, where, key)
            _check_integers(item, where, f"{key}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _check_integers(item, where, key)
    elif isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        raise ConfigError(
            f"{where}: `{key}`: expected an integer of at most {LONGEST_INTEGER} bits, found one of {value.bit_length():,}."
        )
