"""Errors of the command line: what was wrong, what was expected, what to type instead."""

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sa.record.identity import RENAMED

HELP = "settings and groups: python -m sa.run --help"

TEMPERATURE = (
    "a temperature does not change hard states: P(y > 1/2) = p at every temperature. It acts in a "
    "relaxed backward pass only; type estimator=gumbel, st_gumbel, rebar or sr_ste_relaxed"
)
"""The message if a temperature is set for an estimator that has none."""


class UsageError(ValueError):
    """A command that cannot run. The message says why, and what to type instead.

    Code that catches ValueErrors to add words of its own lets a UsageError pass: see `of_setting`.

    >>> import sa
    >>> try:
    ...     sa.multirun(["dim=four"])
    ... except sa.UsageError as error:
    ...     print(error)
    point 0 (the defaults): dim=four: expected a whole number >= 1
    """


class NoData(UsageError):
    """The files of the dataset are not on this machine.

    >>> issubclass(NoData, UsageError)
    True
    """


@contextlib.contextmanager
def of_setting(key: str) -> Iterator[None]:
    """Turn a ValueError inside a ``with`` into a UsageError that names the setting.

    A UsageError passes unchanged: its message is whole.

    >>> with of_setting("estimator"):
    ...     raise ValueError("it needs a chain")
    Traceback (most recent call last):
    sa.config.error.UsageError: estimator: it needs a chain
    """
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from error


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
    """Return the message for settings that pydantic or torch refused.

    Args:
        key: the setting or component, such as estimator; '' for settings of the top level.
        node: its settings, by their names.
        error: the error of pydantic or torch.

    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        if key != "optimizer":
            return f"{key}: {error}"
        given = ", ".join(f"{k}={typed(v)}" for k, v in node.items() if not k.startswith("_"))
        if "unexpected keyword" in str(error):
            return f"{key}: {error}; take that setting away, e.g. ~optimizer.momentum"
        return f"{key}: {error} (given: {given})"
    lines: list[str] = []
    # A setting of several types has one error for each type; "loc" then names the type, dict[...].
    paths = [[str(x) for x in one["loc"] if "[" not in str(x)] for one in error.errors()]
    for one, names in zip(error.errors(), paths, strict=True):
        if any(names == more[: len(names)] and len(more) > len(names) for more in paths):
            continue  # another type has an error at a deeper key, which says more
        path = ".".join([key, *names]).strip(".")
        reason = one["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, [A,B]")
        if one["type"] == "unexpected_keyword_argument":
            known = [k for k in node if k != "_target_" and k not in names]
            lines.append(f"{path}: no such setting; there are: {', '.join(known) or 'none'}")
            if path == "estimator.temperature":
                lines.append(TEMPERATURE)
        elif one["type"] == "missing" and names and names[-1].isdigit():  # an item of a list
            path = path.rpartition(".")[0]
            few = f"{path}={typed(one['input'])}: too few numbers"
            few += "; model=mlp takes rows of any shape" if path == "model.shape" else ""
            lines += [few] if few not in lines else []
        elif names:
            through = " (dim sets it)" if names[-1] == "dim" else ""
            if lines and lines[-1].startswith(f"{path}="):
                lines[-1] += f", or {reason.removeprefix('Input should be ')}"
            else:
                value = typed(one["input"])
                lines.append(f"{path}={value}: {reason[0].lower()}{reason[1:]}{through}")
        else:
            lines.append(f"{path}: {reason}")
    return "\n".join(lines)


def nearest(name: str, there: Iterable[str]) -> str | None:
    """Return the name that was probably meant; swapped letters come before other near misses."""
    swapped = [x for x in there if sorted(x) == sorted(name)]
    return next(iter(swapped or difflib.get_close_matches(name, list(there), 1)), None)
