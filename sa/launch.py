"""Where the points of a sweep run: frozen, deduplicated, and only those that are missing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa import record


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its place, content id, the overrides that make it, its configuration."""

    index: int
    run_id: str
    overrides: list[str]
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """What distinguishes it, for a line on the terminal."""
        return " ".join(self.overrides) or "the defaults"


def points(configs: Sequence[dict[str, Any]], overrides: Sequence[list[str]]) -> list[Point]:
    """One point an identity: configurations that differ in bookkeeping only are one run."""
    found: dict[str, Point] = {}
    for config, words in zip(configs, overrides, strict=True):
        key = record.run_id(config)
        found.setdefault(key, Point(len(found), key, words, config))
    return list(found.values())


def sweep_name(plan: Sequence[Point]) -> str:
    """The name the configuration gives, or one made of the points: same points, same name."""
    named = plan[0].config["sweep"]["name"]
    return named or "sweep-" + record.run_id({"points": sorted(p.run_id for p in plan)})


def todo(root: Path, plan: Sequence[Point]) -> list[Point]:
    """The points without a result."""
    return [p for p in plan if record.read_result(root, p.run_id) is None]


def dropped(root: Path, name: str, plan: Sequence[Point]) -> int:
    """How many points a sweep of that name has that the plan has not; 0 where there is none."""
    if not (record.sweep_folder(root, name) / "manifest.jsonl").exists():
        return 0
    _, there = record.read_manifest(root, name)
    return len({p["run_id"] for p in there} - {p.run_id for p in plan})


def freeze(root: Path, name: str, plan: Sequence[Point]) -> None:
    """Write the manifest, and the configuration of every point that is still to run."""
    for point in todo(root, plan):
        record.freeze(root, point.config)
    entries = [{"index": p.index, "run_id": p.run_id, "overrides": p.overrides} for p in plan]
    first = plan[0].config
    about = {
        "name": name,
        "argv": sys.argv[1:],
        "description": first.get("description"),
        "figure": first.get("figure") or [],
        "objective": first.get("objective"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    record.write_manifest(root, name, entries, about)


def inline(
    root: Path, plan: Sequence[Point], execute: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, str]:
    """Run the missing points one after another; run id -> what failed. Never raises for a point.

    A point that another process is computing is left to it and waited for at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(soft_wrap=True)
    failed: dict[str, str] = {}
    queue, missing = todo(root, plan), len(todo(root, plan))
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("runs", total=missing)
        done = 0
        while queue:
            point = queue.pop(0)
            began = time.perf_counter()
            try:
                result = execute(point.config)
                told = _told(point.config, result)
            except record.Busy:
                queue.append(point)
                time.sleep(1.0)
                continue
            except Exception as error:  # a point's failure is recorded and the sweep goes on
                failed[point.run_id] = str(error)
                told = f"FAILED: {str(error).splitlines()[-1] if str(error) else error!r}"
            done += 1
            bar.advance(task)
            seconds = time.perf_counter() - began
            console.print(
                f"{done:>4}/{missing}  {point.label:<48} {told}  ({seconds:.1f} s)",
                highlight=False, markup=False,
            )  # fmt: skip
    return failed


def _told(config: dict[str, Any], result: dict[str, Any]) -> str:
    key = config.get("objective") or "value"
    value = result.get(key)
    return f"{key} {value:.4g}" if isinstance(value, int | float) else str(result.get("status"))


def report(root: Path, name: str) -> int:
    """Collect, draw and write the page, in a process of its own: reading needs no torch."""
    command = [sys.executable, "-m", "sa.sweep", "report", name, "--root", str(root)]
    return subprocess.run(command, env=os.environ | {"MPLBACKEND": "Agg"}).returncode
