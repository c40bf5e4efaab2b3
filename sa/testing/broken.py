"""The error for a law that does not hold, and functions that run the laws of a room."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from sa.network.hooks import trait

Got = TypeVar("Got")


class Broken(AssertionError):
    """A law does not hold; the message says by how much."""


def broken_by(make: Callable[[], Any], laws: Mapping[str, Callable[[Any], None]]) -> dict[str, str]:
    """Return the laws that a component breaks, law -> what is wrong, without those it excuses."""
    found = {}
    excused: Mapping[str, str] = trait(make(), "laws")
    for name, law in laws.items():
        if name in excused:
            continue
        try:
            law(make())
        except Broken as error:
            found[name] = str(error)
        except Exception as error:  # a user's class may raise any error
            found[name] = f"{type(error).__name__}: {error}"
    return found


def report(
    laws: Mapping[str, Any], broken: Mapping[str, str], excused: Mapping[str, str]
) -> Iterator[str]:
    """Yield a line for every law, which says that it holds, is excused, or is broken, and why."""
    for name in laws:
        if name in broken:
            yield f"BROKEN   {name}: {broken[name]}"
        elif name in excused:
            yield f"excused  {name}: {excused[name]}"
        else:
            yield f"holds    {name}"


def without_global_draws(call: Callable[[], Got], source: str = "its generator") -> Got:
    """Return what a function returns; raise Broken if it draws from torch's global generator."""
    before = torch.get_rng_state()
    got = call()
    if not torch.equal(before, torch.get_rng_state()):
        raise Broken(f"it draws from torch's global generator; draw from {source} alone")
    return got
