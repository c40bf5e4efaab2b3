"""Commands on sweeps: ``python -m sa.sweep COMMAND NAME``."""

import argparse
import glob
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sa.launch.again import retry
from sa.launch.plan import LaunchError
from sa.record import files, run, sweep, telling
from sa.record.config import read_config
from sa.sweep.page import report
from sa.sweep.series import OVER
from sa.sweep.status import cancel, runs_there, status, watch
from sa.sweep.table import collect

USAGE = """\
commands:
  status [NAME]   show which points are done, running, failed or lost; without NAME show every
                  sweep; --watch refreshes until no point is running
  collect NAME    write the table of all runs, sweeps/NAME/results.parquet, and one over seeds
  retry NAME      repeat the points that failed, were lost or interrupted, or never began;
                  --trust PACKAGE if they use classes of a package of yours
  cancel NAME     stop its running points, here and on the cluster; finished runs stay
  logs ID         show what a run printed, and how it ended
  wandb NAME      export finished runs to W&B files; `wandb sync` sends them
  pca NAME        draw the trainings' paths in the plane of their principal components, for the
                  whole model and one layer (--layer NAME); the runs need snapshot_every=STEPS
  report NAME     draw the figures, and write sweeps/NAME/report.html and the tables as CSV and
                  LaTeX; for the id of a run, draw its curves in runs/ID/figures;
                  --over epoch, sample or flops sets the horizontal axis of curves and bands
                  (flops: the runs need analysis=[cost])

examples:
  python -m sa.sweep status
  python -m sa.sweep status descent_dims
  python -m sa.sweep report descent_dims --root /scratch/me
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; return 0, 1 if a run or the report failed, 2 for an unknown name."""
    telling.patient()
    parser = argparse.ArgumentParser(
        prog="python -m sa.sweep",
        description="Follow and read sweeps.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands: dict[str, Callable[..., object]] = {
        "status": status, "collect": collect, "retry": retry, "report": report,
        "cancel": cancel, "logs": logs, "wandb": wandb, "pca": pca,
    }  # fmt: skip
    parser.add_argument("command", metavar="COMMAND", choices=commands, help="|".join(commands))
    parser.add_argument("name", metavar="NAME", nargs="?", help="a sweep, or for report a run")
    parser.add_argument("--root", default=os.environ.get("SA_ROOT") or ".", metavar="DIR")
    parser.add_argument("--watch", action="store_true", help="status: refresh every two seconds")
    parser.add_argument("--layer", metavar="NAME", help="pca: the layer, e.g. conv1")
    parser.add_argument(
        "--over", metavar="|".join(OVER), choices=OVER, help="report: the horizontal axis"
    )
    parser.add_argument(
        "--trust", metavar="PACKAGE", action="append", default=[],
        help="retry: the points may use classes of this package of yours",
    )  # fmt: skip
    given = parser.parse_args(argv)
    root = Path(given.root).expanduser()
    if given.name is None and given.command != "status":
        parser.error(f"{given.command} needs a NAME; {sweep.near(root, '')}")
    if given.watch and (given.command != "status" or given.name is None):
        parser.error(f"--watch works with `status NAME` only; {sweep.near(root, '')}")
    if given.trust and given.command != "retry":
        parser.error("--trust works with `retry NAME` only: the other commands run no classes")
    try:
        if given.watch:
            watch(root, given.name)
            code: object = 0
        else:
            more = {"layer": given.layer} if given.command == "pca" else {}
            more |= {"trusting": given.trust} if given.command == "retry" else {}
            more |= {"over": given.over} if given.over and given.command == "report" else {}
            code = commands[given.command](root, given.name, **more)
        sys.stdout.flush()
        if given.command in ("status", "logs") and telling.output_lost():
            print(f"sa: {given.command}: {telling.output_lost()}", file=sys.stderr)
            return 1
        return code if isinstance(code, int) else 0
    except LaunchError as error:
        print(f"sa: {error}", file=sys.stderr)
        return 2
    except files.RecordError as error:
        print(f"sa: {error}", file=sys.stderr)
        return 2 if isinstance(error, files.Missing) else 1
    except KeyboardInterrupt:
        print("sa: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"sa: {given.command}: {_reason(error)}", file=sys.stderr)
        return 1


def _reason(error: Exception) -> str:
    """Return the text of an error, with its type if it is unexpected."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def logs(root: Path, name: str) -> int:
    """Print the log of a run, and how it ended."""
    found = sorted((root / "runs").glob(f"{glob.escape(name)}*"))
    if len(found) != 1:
        what = f"{len(found)} runs begin with" if found else "there is no run"
        raise files.Missing(f"{what} '{name}' in {root / 'runs'}; runs: {runs_there(root)}")
    folder = found[0]
    log = folder / "log.txt"
    if log.exists():
        sys.stdout.write(log.read_text(errors="replace"))
    about = run.load_status(folder)
    error = f"\n{about['error']}" if about.get("error") else ""
    print(f"{folder}: {run.state(folder)}{error}")
    for place, why in (about.get("untold") or {}).items():
        print(f"{place} was lost: {why}")
    for past in about.get("past") or []:
        last = (past["error"].strip().splitlines() or [""])[-1]
        print(f"before that: {past['state']}: {last}")
    return 0


def pca(root: Path, name: str, layer: str | None) -> None:
    """Draw the paths of a sweep's trainings, and print what their first components explain."""
    from sa.figure import draw
    from sa.sweep import weight_pca

    table = weight_pca.table(root, sweep.read_manifest(root, name)[1], layer)
    shares = table[table["what"] == "share"]
    for (scope, view), rows in shares.groupby(["scope", "view"], sort=False):
        percent = " ".join(f"{100 * s:.1f}" for s in rows["share"].head(weight_pca.COMPONENTS))
        print(f"{scope:<16} {view:<13} {len(rows):>3} components; % explained: {percent}")
    for path in draw.draw("trajectories", table, sweep.sweep_folder(root, name) / "figures"):
        print(f"figure: {path}")


def wandb(root: Path, name: str) -> None:
    """Export every finished run that has no W&B files yet, one after another."""
    from sa.tracking import wandb as tracker

    about, points = sweep.read_manifest(root, name)
    began, done = time.perf_counter(), 0
    for point in points:
        folder = root / "runs" / point["run_id"]
        result = run.read_result(root, folder.name)
        if result is None or (folder / "wandb").exists():
            continue
        config = read_config(folder)
        meta = files.read_json(folder / "meta.json") or {}
        mirror = tracker.Wandb(live=False).open(
            folder.name, folder, config, meta, group=about.get("name") or name,
            **tracker.describe(config, meta),
        )  # fmt: skip
        if not mirror.finish(result, sorted(folder.glob("figures/*.png"))):
            shutil.rmtree(folder / "wandb", ignore_errors=True)  # half a copy is useless
            raise files.RecordError(
                f"the export failed at run {folder.name}, see above; {done} runs before it are "
                "exported; repeat the command to export the rest"
            )
        done += 1
    spent = time.perf_counter() - began
    print(f"{name}: {done} of {len(points)} runs exported in {spent:.1f} s")
    print(f"to send them: wandb sync {root / 'runs'}/*/wandb/offline-run-*")
