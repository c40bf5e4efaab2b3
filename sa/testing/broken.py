"""The error for a law that does not hold, and functions that run the laws of a room."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from sa.network.hooks import trait

Got = TypeVar("Got")


class Broken(AssertionError):
    """A law does not hold; the message says by how much."""


def broken_by(make: Callable[[], Any], laws: Mapping[str, Callable[[Any], None]]) -> dict[str, str]:
    """Return the laws that a component breaks without an excuse: law -> what is wrong.

    An excuse for a law that holds, or that does not exist, is reported like a broken law.
    """
    excused: Mapping[str, str] = trait(make(), "laws")
    found = {
        name: f"there is no such law to excuse; there are: {', '.join(laws)}"
        for name in excused
        if name not in laws
    }
    for name, law in laws.items():
        why = _why_broken(make, law)
        if name not in excused and why is not None:
            found[name] = why
        if name in excused and why is None:
            found[name] = f"it is excused ({excused[name]}), but holds; take it out of `laws`"
    return found


def _why_broken(make: Callable[[], Any], law: Callable[[Any], None]) -> str | None:
    """Return what is wrong if a component breaks a law; None if it keeps it."""
    try:
        law(make())
    except Broken as error:
        return str(error)
    except Exception as error:  # a user's class may raise any error
        return f"{type(error).__name__}: {error}"
    return None


def report(
    laws: Mapping[str, Any], broken: Mapping[str, str], excused: Mapping[str, str]
) -> Iterator[str]:
    """Yield a line for every law, which says that it holds, is excused, or is broken, and why."""
    for name in {**laws, **broken}:
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
