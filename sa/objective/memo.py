"""A cache of values computed at a point; they are valid as long as the point does not change."""

from typing import Any

from sa.types import Params


class Memo:
    """A cache of values, found by a key and the point that they were computed at.

    A point is the same if it is the same dict, and no tensor in it was changed in place since then.

    Args:
        last: True to keep only the value that was stored last.

    """

    def __init__(self, last: bool = False):
        self._last = last
        self._items: list[tuple[Any, Params, list[int], Any]] = []

    def get(self, params: Params, key: object = None) -> Any:
        """Return the stored value of a key at a point; None if there is none."""
        versions = _versions(params)
        for known, point, then, value in self._items:
            if point is params and then == versions and known == key:
                return value
        return None

    def put(self, params: Params, value: Any, key: object = None) -> None:
        """Store the value of a key at a point."""
        if self._last:
            self.clear()
        self._items.append((key, params, _versions(params), value))

    def clear(self) -> None:
        """Drop all values."""
        self._items.clear()


def _versions(params: Params) -> list[int]:
    """Return, for every tensor, how often it was changed in place, as torch counts it."""
    return [p._version for p in params.values()]
