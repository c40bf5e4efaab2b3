"""How far a sweep is, and stopping it: one look at its folders, and at SLURM's queue."""

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

AGAIN = ("failed", "lost", "interrupted", "pending")

PATIENCE = 10.0  # seconds that cancelled workers have to save and say so

FAILED = ("failed", "lost", "interrupted", "skipped")


def status(root: Path, name: str | None = None) -> None:
    """Print how far a sweep is, and every point that is not done with its reason."""
    if name is None:
        _overview(root)
    else:
        told = _told(root, name)
        rows = aligned(told.table) if len(told.table) > 1 else ""
        print("\n".join(filter(None, (told.head, rows, told.hint))))


def watch(root: Path, name: str) -> None:
    """The status, written anew every two seconds until nothing is left to wait for."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            told = _told(root, name)
            live.update(_frame(told, console.width, console.height), refresh=True)
            if told.over or telling.LOST:  # nobody can see it any more
                return
            time.sleep(2)


def _frame(told: "_Told", width: int, height: int) -> "Text":
    """One screen: bar, counts, what runs or failed before what only waits, what to type."""
    from rich.text import Text

    colours = {"running": "green", "pending": "dim", "queued": "dim"}
    length, at, bar = min(width, 80) - 12, 0, [("[", "")]
    parts = [("#", ENDED, "green"), (">", ("running",), "cyan"), ("x", FAILED, "red")]
    for sign, states, colour in parts:
        share = sum(s in states for s in told.states) / max(1, len(told.states))
        upto = min(length, at + math.ceil(share * length))
        bar.append((sign * (upto - at), colour))
        at = upto
    done = sum(s in ENDED for s in told.states) / max(1, len(told.states))
    bar += [("." * (length - at), "dim"), (f"] {done:.0%} done", "")]
    lines = [Text.assemble(*bar, end=""), Text(told.head)]
    head, *rows = aligned(told.table).splitlines()
    shown = list(zip(rows, (row[2] for row in told.table[1:]), strict=True))
    room = max(1, height - 6)
    if len(shown) > room:  # those that wait go first, there is nothing to see in them
        shown.sort(key=lambda line: line[1] in ("pending", "queued"))
        left = Counter(state for _, state in shown[room:])
        more = ", ".join(f"{n} {state}" for state, n in left.most_common())
        shown = [*shown[:room], (f"... and {more}", "pending")]
    if shown:
        lines += [Text(head, "bold"), *(Text(x, colours.get(s, "red")) for x, s in shown)]
    lines += [Text(told.hint)] if told.hint else []
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


@dataclass(frozen=True)
class _Told:
    """The status of a sweep, ready to be printed; over: nothing of it changes by itself any more.

    states: of all points. table: a heading, and a line for each that has not ended.
    """

    states: list[str]
    head: str
    table: list[list[str]]
    hint: str
    over: bool


def _told(root: Path, name: str) -> _Told:
    _, points = sweep.read_manifest(root, name)
    states = states_of(root, points)
    folder = sweep.sweep_folder(root, name)
    job_of = {r: j["job"] for j in slurm.jobs(folder) for r in j["runs"]}
    open_ = [job_of.get(p["run_id"]) for p, s in zip(points, states, strict=True) if s not in ENDED]
    silent = ""
    try:
        known = slurm.queue([j for j in open_ if j])
    except (LaunchError, subprocess.SubprocessError) as error:
        known, silent = {}, f"\nSLURM does not answer, the states are those of the files: {error}"
    for at, point in enumerate(points):
        there, _ = known.get(job_of.get(point["run_id"], ""), ("", ""))
        asleep = states[at] == "running" and there in ("PENDING", "REQUEUED", "REQUEUE_HOLD")
        if asleep or (states[at] in AGAIN and there in slurm.LIVE):
            states[at] = "queued"
    queued = states.count("queued")
    head = f"{name}: {counted(states)}{_remaining(root, points, states)}{silent}"
    table = [["index", "run", "state", "step", "last sign", "host", "reason"]]
    for point, state in zip(points, states, strict=True):
        if state in ENDED:
            continue
        told = record.load_status(root / "runs" / point["run_id"])
        step = f"{_or(told.get('step'), 0)}/{_or(told.get('total'), '?')}" if told else "-"
        run = root / "runs" / point["run_id"]
        seen = f"{_time(_silence(run, told))} ago" if told else "-"
        reason = str(told.get("error") or "").strip().splitlines() if state != "running" else []
        # The run wrote meta.json when it began, on the same file server.
        if state == "lost" and _touched(folder / CANCELLED) > _touched(run / "meta.json"):
            reason = [record.CANCELLED]  # it was killed before it could say so
        words = reason[-1] if reason else " ".join(map(str, point["overrides"]))
        host = str(told.get("host") or "-")
        job = job_of.get(point["run_id"], "")
        if state == "queued":
            words = "SLURM: {} ({}), job {}".format(*known[job], job)
        table.append([str(point["index"]), point["run_id"], state, step, seen, host, words])
    again = not queued and set(states) & set(AGAIN) - {"pending"}
    hint = f"to run these again: python -m sa.sweep retry {name}{rooted(root)}" if again else ""
    return _Told(states, head, table, hint, not queued and "running" not in states)


def _silence(run: Path, told: dict[str, Any]) -> float:
    """Seconds since the last sign of a run: by this machine's clock if it ran here."""
    beat = told.get("heartbeat")
    if lock.here(told) and isinstance(beat, int | float):
        return time.time() - beat
    return lock.age(*record.signs(run))


def _touched(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def cancel(root: Path, name: str) -> None:
    """Stop what runs of a sweep: its jobs, and processes here and on other machines."""
    _, points = sweep.read_manifest(root, name)
    jobs = slurm.jobs(sweep.sweep_folder(root, name))
    known = slurm.queue([j["job"] for j in jobs])
    alive = {j["job"]: j["runs"] for j in jobs if _live(known, j["job"])}
    mark = sweep.sweep_folder(root, name) / CANCELLED
    files.write_text(mark, os.urandom(8).hex())  # drivers start nothing more
    theirs = {run: job for job, runs in alive.items() for run in runs}
    slurm.ask(sorted(alive))
    others = [p["run_id"] for p in points if p["run_id"] not in theirs]
    hosts = [record.ask_to_end(root / "runs" / run) for run in others if _runs(root, run)]
    _until(lambda: not any(_runs(root, run) for run in theirs))
    slurm.cancel(sorted(alive))
    if alive:
        _until(lambda: not any(_live(slurm.queue([*alive]), job) for job in alive))
    for run, job in theirs.items():
        told = slurm.reason_of(root / "runs" / run, job)
        if told is None and record.read_result(root, run) is None:
            record.mark(root, run, record.CANCELLED, state="interrupted", array=job)
    here = hosts.count(os.uname().nodename)
    there = sorted({h for h in hosts if h} - {os.uname().nodename})
    far = f", those on {', '.join(there)} within some seconds" if there else ""
    print(f"{name}: {len(alive)} jobs cancelled, {here} processes told to stop here{far}")


def _live(known: dict[str, tuple[str, str]], job: str) -> bool:
    return known.get(job, ("", ""))[0] in slurm.LIVE


def _runs(root: Path, run: str) -> bool:
    return record.state(root / "runs" / run) == "running"


def _until(over: Callable[[], bool]) -> None:
    """Wait until something is over, with patience."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not over():
        time.sleep(0.1)


def _overview(root: Path) -> None:
    lines = []
    for name in sweep.sweeps(root):
        try:
            points = sweep.read_manifest(root, name)[1]
            lines.append([name, counted(states_of(root, points))])
        except files.RecordError as error:
            lines.append([name, f"unreadable: {error}"])
    print(aligned(lines) if lines else f"no sweeps in {root / 'sweeps'}; {sweep.near(root, '')}")


def states_of(root: Path, points: list[dict[str, Any]]) -> list[str]:
    """The state of every point, in order."""
    return [record.state(root / "runs" / p["run_id"]) for p in points]


def counted(states: list[str]) -> str:
    """How many points are in which state."""
    told = ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())
    return f"{len(states)} point{'' if len(states) == 1 else 's'}: {told or 'none'}"


def _remaining(root: Path, points: list[dict[str, Any]], states: list[str]) -> str:
    """The time to the end if things go on as they did; empty where that cannot be said."""
    running, left = states.count("running"), len(states) - sum(s in ENDED for s in states)
    done = [p["run_id"] for p, s in zip(points, states, strict=True) if s in ENDED]
    results = [record.read_result(root, run) or {} for run in done] if running else []
    spent = [r["seconds"] for r in results if isinstance(r.get("seconds"), int | float)]
    if not spent:
        return ""
    return f"; about {_time(sum(spent) / len(spent) * left / running)} left"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


def aligned(lines: list[list[str]]) -> str:
    """Lines of cells as columns of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def runs_there(root: Path) -> str:
    """The ids of some runs, for a message."""
    there = sorted(p.name for p in root.glob("runs/*") if p.is_dir())
    more = f" and {len(there) - 8} more" if len(there) > 8 else ""
    return (", ".join(there[:8]) or "none") + more
