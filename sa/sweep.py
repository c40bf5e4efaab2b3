"""Follow and read sweeps, ``python -m sa.sweep COMMAND NAME``: all from the folders of their runs.

Nothing here computes a run or asks a scheduler; `status` answers for a thousand runs at once.
"""

import argparse
import base64
import contextlib
import glob
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sa import launch, record

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

USAGE = """\
commands:
  status [NAME]   which points are done, running, failed, lost; without NAME, every sweep;
                  with --watch, until nothing is left to wait for
  collect NAME    one table of all runs, sweeps/NAME/results.parquet, and one over seeds
  retry NAME      run again exactly the points that failed, were lost, interrupted or never began
  cancel NAME     stop what runs of it, here and on the cluster; finished runs stay
  logs ID         what a run printed, and how it ended
  wandb NAME      export finished runs to W&B files from one process; `wandb sync` sends them
  report NAME     table, figures and one self-contained page: sweeps/NAME/report.html;
                  of a single run's id: its curves, runs/ID/figures

examples:
  python -m sa.sweep status
  python -m sa.sweep status descent_dims
  python -m sa.sweep report descent_dims --root /scratch/me
"""
ENDED = ("done", "diverged")
AGAIN = ("failed", "lost", "interrupted", "pending")
FAILED = ("failed", "lost", "interrupted", "skipped")
KEY_NUMBERS = (
    "value alignment/cosine alignment/scale descent/best descent/ratio train/loss train/accuracy "
    "test/loss test/accuracy evals seconds"
).split()
"""The results the report's table shows beside the objective; a row unfolds to all the others."""

DIGEST = (
    "alignment/cosine",
    "descent/best",
    "descent/best_heldout",
    "smoothing/epsilon",
    "smoothing/sigma",
    "bias_variance/bias2",
    "bias_variance/variance",
    "efficiency/at_evals/cosine",
    "training/ratio",
    "train/loss",
    "test/accuracy",
    "evals",
)
"""The results the terminal's table shows, where a sweep has them."""

SERIES = (
    "loss train/loss test/loss train/accuracy test/accuracy alignment/cosine descent/best"
).split()
"""What the page draws over the steps of a training when its row is opened."""

PICTURES = 12
"""The most figures of one kind in the page."""

POINTS = 200, 150_000
"""The most points of one series in the page, and of all of them together (some 2 MB)."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


Columns = dict[str, list[Any]]


def main(argv: list[str] | None = None) -> int:
    """0: answered; 1: a run or the report failed; 2: there is no sweep or run of that name."""
    parser = argparse.ArgumentParser(
        prog="python -m sa.sweep",
        description="Follow and read sweeps.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands: dict[str, Callable[..., object]] = {
        "status": status, "collect": collect, "retry": retry, "report": report,
        "cancel": cancel, "logs": logs, "wandb": wandb,
    }  # fmt: skip
    parser.add_argument("command", metavar="COMMAND", choices=commands, help="|".join(commands))
    parser.add_argument("name", metavar="NAME", nargs="?", help="a sweep, or for report a run")
    parser.add_argument("--root", default=os.environ.get("SA_ROOT") or ".", metavar="DIR")
    parser.add_argument("--watch", action="store_true", help="status NAME, every two seconds")
    given = parser.parse_args(argv)
    root = Path(given.root).expanduser()
    if given.name is None and given.command != "status":
        parser.error(f"{given.command} needs a NAME; {record.near(root, '')}")
    if given.watch and (given.command != "status" or given.name is None):
        parser.error(f"--watch is for `status NAME`; {record.near(root, '')}")
    try:
        if given.watch:
            watch(root, given.name)
            code: object = 0
        else:
            code = commands[given.command](root, given.name)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except record.RecordError as error:
        print(f"sa: {error}", file=sys.stderr)
        return 2 if isinstance(error, record.Missing) else 1
    except BrokenPipeError:  # `status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("sa: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"sa: {given.command}: {_reason(error)}", file=sys.stderr)
        return 1


def status(root: Path, name: str | None = None) -> None:
    """Print how far a sweep is, and every point that is not done with its reason."""
    if name is None:
        _overview(root)
    else:
        told = _told(root, name)
        rows = _aligned(told.table) if len(told.table) > 1 else ""
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
            if told.over:
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
    head, *rows = _aligned(told.table).splitlines()
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
    _, points = record.read_manifest(root, name)
    states = _states(root, points)
    folder = record.sweep_folder(root, name)
    job_of = {r: j["job"] for j in launch.jobs(folder) for r in j["runs"]}
    open_ = [job_of.get(p["run_id"]) for p, s in zip(points, states, strict=True) if s not in ENDED]
    silent = ""
    try:
        known = launch.queue([j for j in open_ if j])
    except (launch.LaunchError, subprocess.SubprocessError) as error:
        known, silent = {}, f"\nSLURM does not answer, the states are those of the files: {error}"
    for at, point in enumerate(points):
        slurm, _ = known.get(job_of.get(point["run_id"], ""), ("", ""))
        asleep = states[at] == "running" and slurm in ("PENDING", "REQUEUED", "REQUEUE_HOLD")
        if asleep or (states[at] in AGAIN and slurm in launch.LIVE):
            states[at] = "queued"
    queued = states.count("queued")
    head = f"{name}: {_counts(states)}{_remaining(root, points, states)}{silent}"
    table = [["index", "run", "state", "step", "last sign", "host", "reason"]]
    for point, state in zip(points, states, strict=True):
        if state in ENDED:
            continue
        told = record.load_status(root / "runs" / point["run_id"])
        step = f"{_or(told.get('step'), 0)}/{_or(told.get('total'), '?')}" if told else "-"
        beat = told.get("heartbeat")
        seen = f"{_time(time.time() - beat)} ago" if _is_number(beat) else "-"
        reason = str(told.get("error") or "").strip().splitlines() if state != "running" else []
        words = reason[-1] if reason else " ".join(map(str, point["overrides"]))
        host = str(told.get("host") or "-")
        job = job_of.get(point["run_id"], "")
        if state == "queued":
            words = "SLURM: {} ({}), job {}".format(*known[job], job)
        table.append([str(point["index"]), point["run_id"], state, step, seen, host, words])
    again = not queued and set(states) & set(AGAIN) - {"pending"}
    hint = f"to run these again: python -m sa.sweep retry {name}{_rooted(root)}" if again else ""
    return _Told(states, head, table, hint, not queued and "running" not in states)


def cancel(root: Path, name: str) -> None:
    """Stop the jobs of a sweep that still run or wait, and its processes on this machine."""
    _, points = record.read_manifest(root, name)
    jobs = launch.jobs(record.sweep_folder(root, name))
    known = launch.queue([j["job"] for j in jobs])
    alive = {j["job"] for j in jobs if known.get(j["job"], ("", ""))[0] in launch.LIVE}
    (record.sweep_folder(root, name) / launch.CANCELLED).touch()  # drivers start nothing more
    launch.cancel(sorted(alive))
    for run in (r for j in jobs if j["job"] in alive for r in j["runs"]):
        if record.read_result(root, run) is None:
            record.mark(root, run, "cancelled by sa.sweep cancel", state="interrupted")
    stopped = 0
    for point, state in zip(points, _states(root, points), strict=True):
        told = record.load_status(root / "runs" / point["run_id"])
        here = told.get("host") == os.uname().nodename and not told.get("job")
        if state == "running" and here:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(told["pid"]), signal.SIGTERM)
                stopped += 1
    print(f"{name}: {len(alive)} jobs cancelled, {stopped} processes told to stop here")


def logs(root: Path, name: str) -> int:
    """Print what a run wrote while it ran, and how it ended."""
    found = sorted((root / "runs").glob(f"{glob.escape(name)}*"))
    if len(found) != 1:
        what = f"{len(found)} runs begin with" if found else "there is no run"
        raise record.Missing(f"{what} '{name}' in {root / 'runs'}; runs: {_runs(root)}")
    text = found[0] / "log.txt"
    if text.exists():
        sys.stdout.write(text.read_text(errors="replace"))
    told = record.load_status(found[0])
    print(
        f"{found[0]}: {record.state(found[0])}"
        + (f"\n{told['error']}" if told.get("error") else "")
    )
    return 0


def wandb(root: Path, name: str) -> None:
    """Export every finished run that has no W&B files yet, one after another in this process."""
    from sa import tracker

    about, points = record.read_manifest(root, name)
    began, done = time.perf_counter(), 0
    for point in points:
        folder = root / "runs" / point["run_id"]
        result = record.read_result(root, folder.name)
        if result is None or (folder / "wandb").exists():
            continue
        config = _config(folder)
        meta = record.read_json(folder / "meta.json") or {}
        told = tracker.describe(config, meta)
        mirror = tracker.Wandb(live=False).open(
            folder.name, folder, config, meta, group=about.get("name") or name, **told
        )
        if not mirror.finish(result, sorted(folder.glob("figures/*.png"))):
            shutil.rmtree(folder / "wandb", ignore_errors=True)  # half a copy counts as none
            raise record.RecordError(
                f"the export broke at run {folder.name}, see above; {done} runs before it are "
                "exported: repeat the command to go on"
            )
        done += 1
    spent = time.perf_counter() - began
    print(f"{name}: {done} of {len(points)} runs exported in {spent:.1f} s")
    print(f"to send them: wandb sync {root / 'runs'}/*/wandb/offline-run-*")


def _overview(root: Path) -> None:
    lines = []
    for name in record.sweeps(root):
        try:
            points = record.read_manifest(root, name)[1]
            lines.append([name, _counts(_states(root, points))])
        except record.RecordError as error:
            lines.append([name, f"unreadable: {error}"])
    print(_aligned(lines) if lines else f"no sweeps in {root / 'sweeps'}; {record.near(root, '')}")


def _states(root: Path, points: list[dict[str, Any]]) -> list[str]:
    return [record.state(root / "runs" / p["run_id"]) for p in points]


def _counts(states: list[str]) -> str:
    told = ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())
    return f"{len(states)} points: {told or 'none'}"


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


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _rooted(root: Path) -> str:
    here = Path(os.environ.get("SA_ROOT") or ".").expanduser()
    return "" if root == here else f" --root {shlex.quote(str(root))}"


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf; a list is a leaf, written as JSON."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, dict | list) else value


def gather(root: Path, points: list[dict[str, Any]]) -> tuple[Columns, Columns, Columns]:
    """The columns of a sweep's table, a value a point: configuration, results, provenance."""
    configs, results = [], []
    provenance: Columns = {"run_id": [], "status": [], "commit": []}
    for point in points:
        folder = root / "runs" / point["run_id"]
        config = _config(folder)
        kept = {k: v for k, v in config.items() if k not in record.BOOKKEEPING}
        configs.append({k: v for k, v in leaves(kept) if k not in record.BOOKKEEPING})
        results.append(record.read_result(root, folder.name) or {})
        meta = record.read_json(folder / "meta.json") or {}
        several = meta.get("commits")
        several = several if isinstance(several, list) else [meta.get("commit")]
        commits = [str(c) for c in several if c]
        if meta.get("schema", record.SCHEMA) != record.SCHEMA:  # its numbers may mean other things
            commits.append(f"schema {meta['schema']}")
        provenance["run_id"].append(folder.name)
        provenance["status"].append(record.state(folder))
        provenance["commit"].append("+".join(commits) or None)  # resumed on another: both
    outcomes = _transposed(results, skip=provenance)
    settings = _transposed(configs)
    taken = outcomes.keys() | provenance.keys()
    settings = {f"config.{k}" if k in taken else k: v for k, v in settings.items()}
    return settings, outcomes, provenance


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a run; empty where there is none."""
    import yaml

    path = folder / "config.yaml"
    remedy = f"delete {folder} and repeat the -m command of the sweep"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(path.read_bytes(), loader) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise record.RecordError(f"{path}: not YAML; {remedy}") from error
    if not isinstance(config, dict):
        raise record.RecordError(f"{path}: not settings by their names; {remedy}")
    return config


def _transposed(rows: list[dict[str, Any]], skip: Iterable[str] = ()) -> Columns:
    names = dict.fromkeys(k for row in rows for k in row if k not in skip)
    return {k: _uniform([row.get(k) for row in rows]) for k in names}


def _uniform(values: list[Any]) -> list[Any]:
    """One kind a column, as parquet wants it; where runs disagree, all become text."""
    kinds = {_kind(v) for v in values if v is not None}
    if kinds == {"numbers"}:
        return [v and [float("nan") if x is None else float(x) for x in v] for v in values]
    if len(kinds) < 2 and "other" not in kinds:
        return values
    return [v if isinstance(v, str | None) else json.dumps(v) for v in values]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number" if abs(value) < 2**63 or isinstance(value, float) else "other"
    if isinstance(value, list):
        simple = all(x is None or _kind(x) == "number" for x in value)
        return "numbers" if simple else "other"
    return "text" if isinstance(value, str) else "other"


def collect(root: Path, name: str) -> "pd.DataFrame":
    """Write and return the table of a sweep: config leaves, results, run_id, status, commit."""
    import pandas as pd

    _, points = record.read_manifest(root, name)
    settings, results, provenance = gather(root, points)
    table = _written(root, name, pd.DataFrame(settings | results | provenance))
    over = aggregate(table, list(settings), list(results))
    path = record.sweep_folder(root, name) / "results_over_seeds.parquet"
    record.write_atomic(path, lambda temp: over.to_parquet(temp, index=False))
    print(f"table: {path} ({len(over)} rows: mean, quantiles, 95 % interval of each number)")
    return table


def aggregate(
    table: "pd.DataFrame", settings: Sequence[str], results: Sequence[str]
) -> "pd.DataFrame":
    """One row for what differs in the seed alone: n, and of every number mean, quartiles, median.

    n counts the runs that have ended. ci95 is the half-width of a 95 % confidence interval of the
    mean, by Student's t of its numbers; nan for one.
    """
    import pandas as pd
    from scipy import stats

    keys = [c for c in settings if c != "seed" and table[c].astype(str).nunique() > 1]
    numbers = [c for c in results if pd.api.types.is_numeric_dtype(table[c])]
    rows = []
    for values, some in table.groupby([table[k].astype(str) for k in keys] or (lambda _: 0)):
        row: dict[str, Any] = dict(zip(keys, values, strict=True)) if keys else {}
        row["n"] = int(some["status"].isin(ENDED).sum())
        for c in numbers:
            got = some[c].astype(float).dropna()
            width = stats.t.ppf(0.975, len(got) - 1) * float(str(got.sem()))
            row |= {
                f"{c}/mean": got.mean(), f"{c}/ci95": width,
                f"{c}/q25": got.quantile(0.25), f"{c}/median": got.median(),
                f"{c}/q75": got.quantile(0.75),
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def _written(root: Path, name: str, table: "pd.DataFrame") -> "pd.DataFrame":
    path = record.sweep_folder(root, name) / "results.parquet"
    record.write_atomic(path, lambda temp: table.to_parquet(temp, index=False))
    print(f"table: {path} ({len(table)} rows, {len(table.columns)} columns)")
    for caution in cautions(table):
        print(f"note: {caution}")
    return table


def cautions(table: "pd.DataFrame") -> list[str]:
    """What a reader of the table has to know before comparing its rows."""
    found = []
    left = Counter(s for s in table["status"] if s != "done")
    if left:
        told = ", ".join(f"{n} {state}" for state, n in left.most_common())
        found.append(f"not every run is done: {told}")
    commits = {c for both in table["commit"].dropna() for c in both.split("+")}
    if len(commits) > 1:
        told = ", ".join(sorted(c[:10] for c in commits))
        found.append(f"the runs come from {len(commits)} commits of the code: {told}")
    if "target" in table and table["target"].nunique() > 1:
        told = ", ".join(sorted(map(str, table["target"].dropna().unique())))
        found.append(f"a comparison across targets: the estimators estimate {told}")
    return found


def retry(root: Path, name: str) -> int:
    """Run the points without a result again, those another process has excepted.

    Here, one after another; a sweep that went to SLURM is submitted there again, by its command.
    """
    about, points = record.read_manifest(root, name)
    if launch.jobs(record.sweep_folder(root, name)):
        words = [str(w) for w in about.get("argv") or []]
        print(f"repeating: python -m sa.run {shlex.join(words)}", flush=True)
        command = [sys.executable, "-m", "sa.run", *words]
        return subprocess.run(command, env=os.environ | {"SA_ROOT": str(root)}).returncode
    folders = []
    for point, state in zip(points, _states(root, points), strict=True):
        folder = root / "runs" / point["run_id"]
        if state not in AGAIN:
            continue
        label = f"{point['index']:>4}  {folder.name}  {state:<11}  {' '.join(point['overrides'])}"
        if (folder / "config.yaml").exists():
            folders.append(folder)
            print(label)
        else:
            print(f"{label}  (no config.yaml: repeat the -m command of the sweep)")
    if not folders:
        print(f"{name}: nothing to retry")
        return 0
    print(f"{name}: {len(folders)} of {len(points)} to run again", flush=True)
    command = [sys.executable, "-m", "sa.run", "--frozen", *map(str, folders)]
    code = subprocess.run(command).returncode
    print(f"{name}: {_counts(_states(root, points))}")
    return 1 if code else 0


def report(root: Path, name: str) -> None:
    """Draw a sweep's figures and write its page; of a run's id, draw its curves."""
    run = root / "runs" / name
    if run.is_dir() and name not in record.sweeps(root):
        _curves(run)
        return
    try:
        about, points = record.read_manifest(root, name)
    except record.Missing as error:
        raise record.Missing(f"{error}; runs: {_runs(root)}") from error
    import pandas as pd

    settings, results, provenance = gather(root, points)
    table = _written(root, name, pd.DataFrame(settings | results | provenance))
    print(_digest(points, table))
    folder = record.sweep_folder(root, name)
    figures, problems = _draw(root, about | {"name": name}, points, table)
    page = _page(about, points, table, list(settings), list(results))
    curves, unread = _series(root, points)
    page |= {"title": name, "figures": figures, "problems": problems + unread, "curves": curves}
    page["expectations"] = _judged(about, points, table, folder)
    for point, row in zip(points, page["rows"], strict=True):
        reason = record.load_status(root / "runs" / point["run_id"]).get("error")
        row["detail"] += f"\n\n{reason}" if reason else ""
    record.write_text(folder / "report.html", _rendered(page))
    print(f"report: {folder / 'report.html'}")


def _digest(points: list[dict[str, Any]], table: "pd.DataFrame") -> str:
    """The small table for the terminal: mean (least ... most) over seeds of the key numbers."""
    keys = [k for k in DIGEST if k in table and table[k].notna().any()]
    groups: dict[str, list[int]] = {}
    for at, point in enumerate(points):
        words = [w for w in point["overrides"] if not w.startswith("seed=")]
        groups.setdefault(" ".join(words) or "the defaults", []).append(at)
    lines = [["mean (least ... most)", "runs", *keys]]
    for label, places in list(groups.items())[:40]:
        cells = []
        for key in keys:
            got = table[key].iloc[places].dropna().astype(float)
            spread = f" ({got.min():.3g} ... {got.max():.3g})" if got.nunique() > 1 else ""
            cells.append(f"{got.mean():.4g}{spread}" if len(got) else "")
        ended = int(table["status"].iloc[places].isin(ENDED).sum())
        lines.append([label, str(ended), *cells])
    more = f"\n... and {len(groups) - 40} more in the page" if len(groups) > 40 else ""
    return "\n" + _aligned(lines) + more + "\n"


def _judged(
    about: dict[str, Any], points: list[dict[str, Any]], table: "pd.DataFrame", folder: Path
) -> list[dict[str, Any]]:
    """What the study expects with its verdicts, in ``expectations.json`` and on the terminal."""
    if not about.get("expectations"):
        return []
    from sa import expectation

    words = [p["overrides"] for p in points]
    judged = expectation.judge(expectation.read(about["expectations"]), table, words)
    record.write_json(folder / "expectations.json", judged)
    lines = [expectation.line(j) for j in judged]
    print("expected:\n" + "\n".join(f"  {x}" for x in lines))
    return [{"verdict": j["verdict"], "line": x} for j, x in zip(judged, lines, strict=True)]


def _curves(run: Path) -> None:
    import pandas as pd

    from sa.figure import draw

    rows = _steps(run)
    if not rows:
        raise record.RecordError(f"{run} has no rows to draw yet: it is {record.state(run)}")
    for path in draw.curves(pd.DataFrame(rows), run / "figures", title=run.name):
        print(f"figure: {path}")


def _steps(run: Path) -> list[dict[str, Any]]:
    """The rows of a run that say their step, as all of today's do."""
    return [row for row in record.read_rows(run) if _is_number(row.get("step"))]


def _all_curves(root: Path, points: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The curves of every training of a sweep, each in a folder of its run's id."""
    import pandas as pd

    from sa.figure import draw

    paths: list[Path] = []
    for point in points:
        rows = _steps(root / "runs" / point["run_id"])
        if len(rows) > 1:
            title = " ".join(point["overrides"]) or point["run_id"]
            paths += draw.curves(pd.DataFrame(rows), folder / point["run_id"], title)
    return paths


def _series(root: Path, points: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """By run id, the series [steps, values] of each training, evenly thinned; and what is unread.

    An open row of the page draws them: they are all that it holds of metrics.jsonl.
    """
    curves: dict[str, Any] = {}
    unread = []
    for point in points:
        try:
            rows = record.read_rows(root / "runs" / point["run_id"])
        except record.RecordError as error:  # one run must not cost the page
            unread.append(f"curves of {point['run_id']}: {error}")
            print(f"note: {unread[-1]}")
            continue
        if len(rows) > 1:
            found = {k: _thinned(_numbers(rows, k), POINTS[0]) for k in SERIES}
            kept = {k: v for k, v in found.items() if len(v) > 1}
            curves[point["run_id"]] = {"rows": len(rows), "series": kept}
    most = POINTS[1] // max(1, sum(len(c["series"]) for c in curves.values()))
    for run in curves.values():
        short = {k: _thinned(v, max(2, most)) for k, v in run["series"].items()}
        run["series"] = {k: list(zip(*v, strict=True)) for k, v in short.items()}
    return {run: c for run, c in curves.items() if c["series"]}, unread


def _numbers(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) wherever a row has both, to the four digits that a curve can show."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    return [(x, float(f"{y:.4g}")) for x, y in pairs if _is_number(x) and _is_number(y)]


def _is_number(value: Any) -> TypeGuard[float]:
    return _kind(value) == "number"


def _thinned(values: list[Any], most: int) -> list[Any]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _runs(root: Path) -> str:
    there = sorted(p.name for p in root.glob("runs/*") if p.is_dir())
    more = f" and {len(there) - 8} more" if len(there) > 8 else ""
    return (", ".join(there[:8]) or "none") + more


def _draw(
    root: Path, about: dict[str, Any], points: list[dict[str, Any]], table: "pd.DataFrame"
) -> tuple[list[dict[str, str]], list[str]]:
    """The figures as data URIs, and what went wrong with those that could not be drawn."""
    kinds = about.get("figure") or []
    figures, problems = [], []
    folder = record.sweep_folder(root, about["name"]) / "figures"
    ended = table[table["status"].isin(ENDED)]
    ended.attrs["rows"] = lambda run: _steps(root / "runs" / run)
    ended.attrs["expectations"] = about.get("expectations") or []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        try:
            from sa.figure import draw

            folder.mkdir(parents=True, exist_ok=True)
            if kind == "curves":
                paths = _all_curves(root, points, folder)
            else:
                paths = draw.draw(kind, ended, folder)
        except Exception as error:  # one figure must not cost the page
            problems.append(f"figure {kind}: {error or type(error).__name__}")
            print(f"note: {problems[-1]}")
            continue
        pictures = [p for p in paths if p.suffix == ".png"]
        for path in pictures:
            print(f"figure: {path}")
        for path in pictures[:PICTURES]:
            picture = base64.b64encode(path.read_bytes()).decode()
            figures.append({"kind": kind, "uri": f"data:image/png;base64,{picture}"})
        if len(pictures) > PICTURES:
            more = f"{kind}: {PICTURES} of {len(pictures)} figures are shown, all are in {folder}"
            problems.append(more)
    return figures, problems


def _page(
    about: dict[str, Any],
    points: list[dict[str, Any]],
    table: "pd.DataFrame",
    settings: list[str],
    results: list[str],
) -> dict[str, Any]:
    """What the template shows: facts, and a table of what varies and the key numbers."""
    words = [dict(w.lstrip("+").split("=", 1) for w in p["overrides"] if "=" in w) for p in points]
    typed = {k: [w.get(k, "") for w in words] for k in dict.fromkeys(k for w in words for k in w)}
    varied: Columns = {k: v for k, v in typed.items() if len(set(v)) > 1}
    if not varied:  # a plan without overrides: read it off the configurations
        varied = {k: list(table[k]) for k in settings if table[k].nunique() > 1}
    lists = {k for k in results if any(isinstance(v, list) for v in table[k])}
    keys = dict.fromkeys(k for k in (about.get("objective"), *KEY_NUMBERS) if k in results)
    keys = keys or dict.fromkeys([k for k in results if k not in lists][:12])
    shown = varied | {k: list(table[k]) for k in keys if k not in lists}
    shown["status"] = list(table["status"])
    rows = []
    for i, (_, row) in enumerate(table.iterrows()):
        named = [(k, row[k]) for k in (*settings, *results, "run_id", "commit") if k not in lists]
        detail = "\n".join(f"{k}: {_text(v, 10)}" for k, v in named if _text(v))
        hidden = ", ".join(k for k in results if k in lists and isinstance(row[k], list))
        detail += f"\n\nlists, in results.parquet: {hidden}" if hidden else ""
        cells = [_text(v[i]) for v in shown.values()]
        rows.append({"cells": cells, "detail": detail, "run": row["run_id"]})
    return {
        "description": about.get("description"),
        "command": "python -m sa.run " + shlex.join(map(str, about.get("argv") or [])),
        "created": about.get("created"),
        "counts": _counts(list(table["status"])),
        "commits": sorted({c for both in table["commit"].dropna() for c in both.split("+")}),
        "cautions": cautions(table),
        "columns": list(shown),
        "rows": rows,
    }


def _text(value: Any, digits: int = 4) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e12
        return str(int(value)) if whole else f"{value:.{digits}g}"
    return str(value)


def _rendered(page: dict[str, Any]) -> str:
    import jinja2

    source = Path(__file__).with_name("report.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(source).render(page)


if __name__ == "__main__":
    sys.exit(main())
