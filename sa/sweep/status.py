"""The status of a sweep from its folders and SLURM's queue, and how to cancel it."""

import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.launch import slurm
from sa.launch.plan import LaunchError, rooted
from sa.launch.progress import CANCELLED
from sa.record import files, lock, sweep, telling
from sa.record import run as record

if TYPE_CHECKING:
    from rich.text import Text

ENDED = ("done", "diverged")
"""States of runs with a result."""

AGAIN = ("failed", "lost", "interrupted", "pending")
"""States of runs that `retry` repeats."""

PATIENCE = 10.0
"""Seconds that cancelled workers have to save and to record that they stopped."""

FAILED = ("failed", "lost", "interrupted", "skipped")
"""States that the bar shows as failures."""


def status(root: Path, name: str | None = None) -> None:
    """Print how far a sweep is, and every point that has not ended with its reason."""
    if name is None:
        _overview(root)
    else:
        found = _progress(root, name)
        rows = aligned(found.table) if len(found.table) > 1 else ""
        print("\n".join(filter(None, (found.head, rows, found.hint))))


def watch(root: Path, name: str) -> None:
    """Show the status, refreshed every two seconds, until no point is running or queued."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            found = _progress(root, name)
            live.update(_frame(found, console.width, console.height), refresh=True)
            if found.over or telling.LOST:  # the terminal is closed
                return
            time.sleep(2)


def _frame(found: "_Progress", width: int, height: int) -> "Text":
    """Return one screen: bar, counts, running and failed points before waiting ones, the hint."""
    from rich.text import Text

    colours = {"running": "green", "pending": "dim", "queued": "dim"}
    length, at, bar = min(width, 80) - 12, 0, [("[", "")]
    parts = [("#", ENDED, "green"), (">", ("running",), "cyan"), ("x", FAILED, "red")]
    for sign, states, colour in parts:
        share = sum(s in states for s in found.states) / max(1, len(found.states))
        upto = min(length, at + math.ceil(share * length))
        bar.append((sign * (upto - at), colour))
        at = upto
    done = sum(s in ENDED for s in found.states) / max(1, len(found.states))
    bar += [("." * (length - at), "dim"), (f"] {done:.0%} done", "")]
    lines = [Text.assemble(*bar, end=""), Text(found.head)]
    head, *rows = aligned(found.table).splitlines()
    shown = list(zip(rows, (row[2] for row in found.table[1:]), strict=True))
    room = max(1, height - 6)
    if len(shown) > room:  # waiting points matter least, so they are cut first
        shown.sort(key=lambda line: line[1] in ("pending", "queued"))
        left = Counter(state for _, state in shown[room:])
        more = ", ".join(f"{n} {state}" for state, n in left.most_common())
        shown = [*shown[:room], (f"... and {more}", "pending")]
    if shown:
        lines += [Text(head, "bold"), *(Text(x, colours.get(s, "red")) for x, s in shown)]
    lines += [Text(found.hint)] if found.hint else []
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


@dataclass(frozen=True)
class _Progress:
    """The status of a sweep, ready to be printed.

    Args:
        states: state of every point.
        head: counts and the time left.
        table: a heading, and a line for each point that has not ended.
        hint: the command that repeats what failed, or ''.
        over: True if no point is running or queued.

    """

    states: list[str]
    head: str
    table: list[list[str]]
    hint: str
    over: bool


def _progress(root: Path, name: str) -> _Progress:
    """Return the status of a sweep, from its folders and SLURM's queue."""
    _, points = sweep.read_manifest(root, name)
    states = states_of(root, points)
    folder = sweep.sweep_folder(root, name)
    job_of = {r: j["job"] for j in slurm.jobs(folder) for r in j["runs"]}
    open_ = [job_of.get(p["run_id"]) for p, s in zip(points, states, strict=True) if s not in ENDED]
    silent = ""
    try:
        known = slurm.queue([j for j in open_ if j])
    except (LaunchError, subprocess.SubprocessError) as error:
        known, silent = {}, f"\nSLURM does not answer; these states are from the files: {error}"
    for at, point in enumerate(points):
        in_queue, _ = known.get(job_of.get(point["run_id"], ""), ("", ""))
        asleep = states[at] == "running" and in_queue in ("PENDING", "REQUEUED", "REQUEUE_HOLD")
        if asleep or (states[at] in AGAIN and in_queue in slurm.LIVE):
            states[at] = "queued"
    queued = states.count("queued")
    head = f"{name}: {counted(states)}{_remaining(root, points, states)}{silent}"
    table = [["index", "run", "state", "step", "last sign", "host", "reason"]]
    for point, state in zip(points, states, strict=True):
        if state in ENDED:
            continue
        run = root / "runs" / point["run_id"]
        about = record.load_status(run)
        step = f"{_or(about.get('step'), 0)}/{_or(about.get('total'), '?')}" if about else "-"
        sign = f"{_time(_silence(run, about))} ago" if about else "-"
        reason = str(about.get("error") or "").strip().splitlines() if state != "running" else []
        # The run wrote meta.json when it began, on the same file server.
        if state == "lost" and _touched(folder / CANCELLED) > _touched(run / "meta.json"):
            reason = [record.CANCELLED]  # the run was killed before it could record this
        text = reason[-1] if reason else " ".join(map(str, point["overrides"]))
        host = str(about.get("host") or "-")
        job = job_of.get(point["run_id"], "")
        if state == "queued":
            text = "SLURM: {} ({}), job {}".format(*known[job], job)
        table.append([str(point["index"]), point["run_id"], state, step, sign, host, text])
    again = not queued and set(states) & set(AGAIN) - {"pending"}
    hint = f"to run these again: python -m sa.sweep retry {name}{rooted(root)}" if again else ""
    return _Progress(states, head, table, hint, not queued and "running" not in states)


def _silence(run: Path, status: dict[str, Any]) -> float:
    """Return the seconds since the last sign of a run, by this machine's clock if it ran here."""
    beat = status.get("heartbeat")
    if lock.here(status) and isinstance(beat, int | float):
        return time.time() - beat
    return lock.age(*record.signs(run))


def _touched(path: Path) -> float:
    """Return when a file was last changed; 0 if it does not exist."""
    return path.stat().st_mtime if path.exists() else 0.0


def cancel(root: Path, name: str) -> None:
    """Stop the jobs of a sweep, and its processes on this and other machines."""
    _, points = sweep.read_manifest(root, name)
    jobs = slurm.jobs(sweep.sweep_folder(root, name))
    known = slurm.queue([j["job"] for j in jobs])
    alive = {j["job"]: j["runs"] for j in jobs if _live(known, j["job"])}
    mark = sweep.sweep_folder(root, name) / CANCELLED
    files.write_text(mark, os.urandom(8).hex())  # drivers that see it start no more runs
    jobs_of = {run: job for job, runs in alive.items() for run in runs}
    slurm.ask(sorted(alive))
    processes = [p["run_id"] for p in points if p["run_id"] not in jobs_of]
    hosts = [record.ask_to_end(root / "runs" / run) for run in processes if _runs(root, run)]
    _wait_until(lambda: not any(_runs(root, run) for run in jobs_of))
    slurm.cancel(sorted(alive))
    if alive:
        _wait_until(lambda: not any(_live(slurm.queue([*alive]), job) for job in alive))
    for run, job in jobs_of.items():
        reason = slurm.reason_of(root / "runs" / run, job)
        if reason is None and record.read_result(root, run) is None:
            record.mark(root, run, record.CANCELLED, state="interrupted", array=job)
    here = hosts.count(os.uname().nodename)
    far = sorted({h for h in hosts if h} - {os.uname().nodename})
    more = f"; those on {', '.join(far)} stop within seconds" if far else ""
    print(f"{name}: {len(alive)} jobs cancelled, {here} processes told to stop here{more}")


def _live(known: dict[str, tuple[str, str]], job: str) -> bool:
    """Return whether a job is in SLURM's queue."""
    return known.get(job, ("", ""))[0] in slurm.LIVE


def _runs(root: Path, run: str) -> bool:
    """Return whether a run is running."""
    return record.state(root / "runs" / run) == "running"


def _wait_until(over: Callable[[], bool]) -> None:
    """Wait until ``over()``, at most `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not over():
        time.sleep(0.1)


def _overview(root: Path) -> None:
    """Print a line for each sweep."""
    lines = []
    for name in sweep.sweeps(root):
        try:
            points = sweep.read_manifest(root, name)[1]
            lines.append([name, counted(states_of(root, points))])
        except files.RecordError as error:
            lines.append([name, f"unreadable: {error}"])
    print(aligned(lines) if lines else f"no sweeps in {root / 'sweeps'}; {sweep.near(root, '')}")


def states_of(root: Path, points: list[dict[str, Any]]) -> list[str]:
    """Return the state of every point, in order."""
    return [record.state(root / "runs" / p["run_id"]) for p in points]


def counted(states: list[str]) -> str:
    """Return how many points there are and how many are in each state, as a text."""
    counts = ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())
    return f"{len(states)} point{'' if len(states) == 1 else 's'}: {counts or 'none'}"


def _remaining(root: Path, points: list[dict[str, Any]], states: list[str]) -> str:
    """Return the expected time left, from the mean time of ended runs; '' if it is unknown."""
    running, left = states.count("running"), len(states) - sum(s in ENDED for s in states)
    done = [p["run_id"] for p, s in zip(points, states, strict=True) if s in ENDED]
    results = [record.read_result(root, run) or {} for run in done] if running else []
    spent = [r["seconds"] for r in results if isinstance(r.get("seconds"), int | float)]
    if not spent:
        return ""
    return f"; about {_time(sum(spent) / len(spent) * left / running)} left"


def _time(seconds: float) -> str:
    """Return a duration in the largest unit in which it is 2 or more."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


def aligned(lines: list[list[str]]) -> str:
    """Return lines of cells as columns of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def runs_there(root: Path) -> str:
    """Return the ids of up to eight runs, for a message."""
    found = sorted(p.name for p in root.glob("runs/*") if p.is_dir())
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (", ".join(found[:8]) or "none") + more
