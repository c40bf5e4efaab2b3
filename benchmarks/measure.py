"""Comparison of two pieces of code: run in turn, in one process, by CPU time of the thread."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


def ratio(
    name: str,
    naive: Callable[[], object],
    ours: Callable[[], object],
    *,
    against: str,
    scale: float = 1.0,
    pairs: int = 5,
    settings: dict[str, Any],
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Any]:
    """Return the ratio of the time of ``naive`` to that of ``ours``: median and spread over pairs.

    The pairs run after a warm-up. The time of ``naive`` is multiplied by ``scale`` if it ran only a
    part of the work; ``settings`` then say which part.
    """

    def timed(act: Callable[[], object]) -> float:
        began = clock()
        act()
        return clock() - began

    timed(ours)
    slow, fast = [], []
    for _ in range(pairs):
        slow.append(timed(naive) * scale)
        fast.append(timed(ours))
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    seconds = {"naive": statistics.median(slow), "ours": statistics.median(fast)}
    return {
        "name": name,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "against": against,
        "spread": [min(ratios), max(ratios)],
        "n": pairs,
        "settings": settings | {"seconds": seconds},
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the results as aligned text."""
    lines = [f"{'name':<26}{'ratio':>9}  {'spread':<19}{'naive s':>10}{'ours s':>10}  against"]
    for r in rows:
        low, high = r["spread"]
        s = r["settings"]["seconds"]
        lines.append(
            f"{r['name']:<26}{r['value']:>9.4g}  {f'{low:.4g} ... {high:.4g}':<19}"
            f"{s['naive']:>10.3g}{s['ours']:>10.3g}  {r['against']}"
        )
    return "\n".join(lines)
