"""Reads the settings of a component from its class: name, type and range in words, meaning."""

import collections.abc
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import DocInfo, Ge, Gt, Le, Lt, MinLen, MultipleOf

_ENTRY = re.compile(r"(\w+)(?: \([^)]*\))?: *(.*)")
"""The first line of an entry of ``Args:``; torch puts the type in brackets behind the name."""

_MARKUP = re.compile(r":\w+:|[`$]|\s*\(default: [^)]*\)")
"""Sphinx roles and the repeated default of torch's entries."""


@dataclass(frozen=True)
class Field:
    """One setting of a component.

    Args:
        name: its name, as a keyword of the class.
        kind: its type and range in words, such as "a whole number >= 1".
        meaning: its entry in the ``Args:`` of the class; empty if there is none.

    """

    name: str
    kind: str
    meaning: str


def fields(cls: Callable[..., Any]) -> list[Field]:
    """Return the settings of a class: the fields of a dataclass, else the keywords of its init."""
    meanings = entries(inspect.getdoc(cls) or "")
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        named = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    else:
        given = list(inspect.signature(cls).parameters.values())
        named = {p.name: p.annotation for p in given if p.name != "params"}
    return [Field(name, words(hint), meanings.get(name, "")) for name, hint in named.items()]


def entries(docstring: str) -> dict[str, str]:
    """Return the entries under ``Args:`` of a docstring: name -> text in one line."""
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(_section(docstring)).splitlines():
        entry = _ENTRY.match(line)
        if entry:
            name, text = entry.groups()
            found[name] = text
        elif name:
            found[name] += " " + line.strip()
    return {k: _MARKUP.sub("", " ".join(v.split())) for k, v in found.items()}


def prose(docstring: str) -> str:
    """Return a docstring without its ``Args:`` and without examples."""
    rest = docstring.replace(f"Args:\n{_section(docstring)}", "")
    return "\n\n".join(p for p in re.split(r"\n\s*\n", rest.strip()) if not p.startswith(">>>"))


def _section(docstring: str) -> str:
    """Return the lines below ``Args:``, up to the next line that is not indented."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.M)
    return found.group(1) if found else ""


def words(hint: Any) -> str:
    """Return a type annotation, with its range, in words.

    >>> from typing import Annotated
    >>> from annotated_types import Gt
    >>> [words(x) for x in (bool, Annotated[int, Gt(0)] | None, Literal["a", "b"])]
    ['true or false', 'a whole number >= 1, or null', 'a | b']
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _ranged(inside[0], list(_flat(inside[1:])))
    if origin is Literal:
        return " | ".join(map(str, inside))
    if origin in (typing.Union, types.UnionType):  # torch also takes a number as a tensor
        return ", or ".join(dict.fromkeys(words(x) for x in inside if not _is(x, "Tensor")))
    if origin in (tuple, list):
        return _listed(inside)
    if origin in (dict, collections.abc.Mapping):
        each = "" if inside[1] is Any else f", each value {words(inside[1])}"
        return f"a mapping{each}"
    if origin is collections.abc.Callable:
        return "a quantizer"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint in (None, types.NoneType):
        return "null"
    if hint is inspect.Parameter.empty or hint is Any:
        return "anything"
    if hint in plain:
        return plain[hint]
    return (
        "an estimator"
        if _is(hint, "Estimator")
        else "quantizers"
        if _is(hint, "Slots")
        else "a value"
    )


def _is(hint: Any, name: str) -> bool:
    """Return whether a type is the class of a name, without importing it."""
    return isinstance(hint, type) and hint.__name__ == name


def _listed(inside: tuple[Any, ...]) -> str:
    same = set(inside) - {Ellipsis}
    many = "" if Ellipsis in inside or len(inside) == 1 else f" of {len(inside)}"
    each = f", each {words(inside[0])}" if len(same) == 1 and inside[0] is not Any else ""
    return f"a list{many}{each}"


def _ranged(hint: Any, marks: list[Any]) -> str:
    """Return a type with its marks of annotated_types (and a ``doc``, which replaces them)."""
    limits = []
    for mark in marks:
        match mark:
            case DocInfo():
                return str(mark.documentation)
            case Gt():
                least: Any = mark.gt
                limits.append(f">= {least + 1}" if hint is int else f"greater than {least:g}")
            case Ge():
                limits.append(f">= {mark.ge:g}")
            case Lt():
                limits.append(f"< {mark.lt:g}")
            case Le():
                limits.append(f"<= {mark.le:g}")
            case MultipleOf():
                limits.append(f"a multiple of {mark.multiple_of}")
            case MinLen():
                return words(hint).replace("a list", f"a list of {mark.min_length} or more", 1)
    return f"{words(hint)} {' and '.join(limits)}".strip()


def _flat(marks: tuple[Any, ...]) -> Iterator[Any]:
    """Yield single marks: Interval and Len hold several."""
    for mark in marks:
        grouped = isinstance(mark, collections.abc.Iterable) and not isinstance(mark, str | Mapping)
        yield from mark if grouped else [mark]
