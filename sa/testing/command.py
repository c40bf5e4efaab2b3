"""The command ``sa check MODULE:CLASS``, and what it shares with the fixture of pytest."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sa.network.hooks import trait
from sa.testing.broken import Broken, broken_by, report

ROOMS = ("estimator", "quantizer", "model", "dataset", "analysis")


def laws_of(room: str) -> dict[str, Callable[[Any], None]]:
    """Return the laws of a room: name -> function that raises if a component breaks it."""
    module = importlib.import_module(f"sa.testing.{room}")
    laws: dict[str, Callable[[Any], None]] = module.LAWS
    return laws


def room_of(made: Any) -> str:
    """Return the room of a component, by the attributes that it has; '' for another object."""
    has = set(dir(made))
    for room, needs in (
        ("estimator", {"target", "init", "__call__"}),
        ("dataset", {"shape", "classes", "rows", "load"}),
        ("model", {"shape", "outputs", "build"}),
    ):
        if needs <= has:
            return room
    if "__call__" in has and not isinstance(made, type):
        return "analysis" if len(inspect.signature(made).parameters) >= 4 else "quantizer"
    return "quantizer" if "build" in has else ""


def factory(cls: type, settings: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a function that makes a component; a model that needs quantizers gets sign units."""
    given = dict(settings)
    named = inspect.signature(cls).parameters.get("quantizer")
    if named and named.default is inspect.Parameter.empty and "quantizer" not in given:
        from sa import surrogate
        from sa.types import Slots

        given["quantizer"] = Slots(lambda x: x, surrogate.sign)
    return partial(cls, **given)


def keeps_laws(cls: type, **settings: Any) -> None:
    """Raise `Broken` with a report if a class breaks a law of its room.

    Args:
        cls: the class.
        settings: settings that differ from its defaults.

    """
    make = factory(cls, settings)
    laws = laws_of(room_of(make()))
    if broken := broken_by(make, laws):
        lines = "\n".join(report(laws, broken, trait(make(), "laws")))
        raise Broken(f"{cls.__name__} breaks {', '.join(broken)}\n{lines}")


def check(words: Sequence[str]) -> int:
    """Print the laws of a class; return 1 if it breaks one, 2 if there is no such class.

    Args:
        words: MODULE:CLASS, and settings as NAME=VALUE.

    """
    import yaml

    module, _, name = words[0].partition(":") if words else ("", "", "")
    if not name or not all("=" in w for w in words[1:]):
        print(
            "sa: check: expected a class; type sa check MODULE:CLASS [NAME=VALUE ...], e.g. "
            "sa check sa.estimator.nes:NES sigma=0.1",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, "")
    try:
        cls = vars(importlib.import_module(module))[name]
    except (ImportError, KeyError) as error:
        print(f"sa: check {words[0]}: there is no such class ({error})", file=sys.stderr)
        return 2
    try:
        pairs = (w.partition("=") for w in words[1:])
        make = factory(cls, {k: yaml.safe_load(v) for k, _, v in pairs})
        made = make()
    except Exception as error:  # a user's class may raise any error
        print(f"sa: check {words[0]}: it cannot be made: {error}; type its settings, NAME=VALUE",
              file=sys.stderr)  # fmt: skip
        return 2
    room = room_of(made)
    if not isinstance(cls, type) or not room:
        rooms = ", ".join(ROOMS)
        print(f"sa: check {words[0]}: expected a class of a room: {rooms}", file=sys.stderr)
        return 2
    laws = laws_of(room)
    broken = broken_by(make, laws)
    print(f"{name}, {room}:")
    print("\n".join(report(laws, broken, trait(made, "laws"))))
    return 1 if broken else 0
