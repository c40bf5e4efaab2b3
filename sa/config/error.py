"""Errors of the command line: what was wrong, what was expected, what to type instead."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sa.record.identity import RENAMED

HELP = "settings and groups: python -m sa.run --help"


_TEMPERATURE = (
    "a temperature cannot change hard states, P(y > 1/2) = p for every one: it acts in a relaxed "
    "backward only (gumbel, st_gumbel, rebar, sr_ste_relaxed)"
)


class UsageError(Exception):
    """A command that cannot run. The message says what is wrong and what to type instead."""


class NoData(UsageError):
    """The files of the dataset are not on this machine."""


def typed(value: Any) -> str:
    """Return the text to type for a value on the command line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(typed, value)) + "]"
    return str(value)


def renamed(word: str) -> str:
    """Return the message for a word that names a setting as it was called before; '' for others."""
    key, given, value = word.lstrip("+~").partition("=")
    if key not in RENAMED:
        return ""
    new, value = RENAMED[key], value if given else "null" if word.startswith("~") else "VALUE"
    return f"{word}: this setting is called {new} now; type {new}={value}"


def invalid(key: str, node: Mapping[str, Any], error: BaseException) -> str:
    """Return a message that a person can act on, made from an error of pydantic or torch."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        if key != "optimizer":
            return f"{key}: {error}"
        mine = ", ".join(f"{k}={typed(v)}" for k, v in node.items() if not k.startswith("_"))
        if "unexpected keyword" in str(error):
            return f"{key}: {error}; take away what it does not know, e.g. ~optimizer.momentum"
        return f"{key}: {error} (given: {mine})"
    lines: list[str] = []
    # of a setting of several kinds there is an error a kind, with the kind, dict[...], in its place
    told_of = [[str(x) for x in one["loc"] if "[" not in str(x)] for one in error.errors()]
    for one, names in zip(error.errors(), told_of, strict=True):
        if any(names == more[: len(names)] and len(more) > len(names) for more in told_of):
            continue  # it is of the kind that goes deeper
        path = ".".join([key, *names]).strip(".")
        given, told = one["input"], one["msg"].removeprefix("Value error, ")
        told = told.replace("a valid tuple", "a list, [A,B]")
        if one["type"] == "unexpected_keyword_argument":
            known = [k for k in node if k != "_target_" and k not in names]
            lines.append(f"{path}: no such setting; there are: {', '.join(known) or 'none'}")
            if path == "estimator.temperature":
                lines.append(_TEMPERATURE)
        elif names:
            through = " (dim sets it)" if names[-1] == "dim" else ""
            words = f"{path}={typed(given)}: {told[0].lower()}{told[1:]}{through}"
            if lines and lines[-1].startswith(f"{path}="):
                lines[-1] += f", or {told.removeprefix('Input should be ')}"
            else:
                lines.append(words)
        else:
            lines.append(f"{path}: {told}")
    return "\n".join(lines)


def nearest(name: str, there: Iterable[str]) -> str | None:
    """The one of several names that was probably meant; swapped letters come first."""
    swapped = [x for x in there if sorted(x) == sorted(name)]
    return next(iter(swapped or difflib.get_close_matches(name, list(there), 1)), None)
