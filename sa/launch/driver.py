"""The driver of a sweep: every point validated, what is missing computed somewhere, a report."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sa.config.build import Components, check_machine, ignored, validate
from sa.config.catalogue import CONF
from sa.config.error import UsageError, invalid
from sa.config.parents import resolve
from sa.config.settings import Settings, Sweep
from sa.job.execute import RunFailed, execute, folder_of, root_of
from sa.job.signals import Signals
from sa.launch import here, slurm
from sa.launch import plan as planned
from sa.launch.plan import LaunchError
from sa.record import files, provenance, run, telling
from sa.record.identity import Config

Place = here.Inline | here.Local | slurm.Slurm
_SHARED = ("root", "sweep", "figure", "description", "expectations")
"""Settings that belong to a sweep as a whole."""

_PLACES = {"Inline": here.Inline, "Local": here.Local, "Slurm": slurm.Slurm}


def multirun(
    configs: list[Config],
    overrides: list[list[str]],
    words: list[list[str]],
    launcher: Any,
    typed: Sequence[str] = (),
) -> None:
    """Plan a sweep, validate every point of it, run what is missing, report.

    Args:
        configs: the configuration of each point, as Hydra composed it.
        overrides: the words of each point that vary.
        words: all words that make each point.
        launcher: says where points run.
        typed: the words of the command line.

    """
    place = _place(launcher)
    configs = [resolve(c, typed) for c in configs]
    _whole(configs)
    plan = planned.points(configs, overrides, words)
    made = []
    for point in plan:
        with _naming(point):
            made.append(validate(point.config))
    how = made[0].settings.sweep
    if made[0].settings.expectations:  # reading them imports pandas
        _readable(made[0].settings.expectations)
    root, name = root_of(plan[0].config), planned.sweep_name(plan)
    notes = list(ignored([(p.config, c) for p, c in zip(plan, made, strict=True)], typed))
    for error in _hindrances(root, name, plan, made, place):
        if not how.dry_run:  # which answers: what was asked is the plan
            raise error
        notes.append(str(error))
    for note in notes:
        telling.note(note)
    left = planned.todo(root, plan)
    each = planned.cost(root, plan)
    told = f", about {each * len(left):.0f} s of computing" if each and left else ""
    many = "1 point" if len(plan) == 1 else f"{len(plan)} points"
    print(f"{name}: {many}, {len(left)} of {len(plan)} to do{told}", flush=True)
    _bands([c.settings for c in made])
    if how.dry_run:
        for point in plan:
            state = run.state(folder_of(point.config))
            print(f"{point.index:>4}  {point.run_id}  {state:<8} {point.label}")
        return
    folder = root / "sweeps" / name
    with planned.alone(folder):
        planned.freeze(root, name, plan)
        if how.snapshot:
            mine = Path(__file__).resolve().parents[1]
            packages = [mine, CONF, mine.parent / "hydra_plugins"]
            planned.snapshot(folder, packages, provenance.NOTE, provenance.commit())
    if how.canary and len(left) > 1:
        print(f"the canary comes first: {left[0].label}", flush=True)
        if _launch(root, left[:1], place, launcher, folder, None):
            raise RunFailed("the canary failed, no other point was started; see above")
    try:
        failed = _launch(root, plan, place, launcher, folder, how)
    finally:
        run.say_untold(folder / "sweep.json")
    follow = f"python -m sa.sweep status {name}{planned.rooted(root)}"
    if failed is None:
        print(f"submitted; to follow: {follow} --watch", flush=True)
        return
    code = report(root, name)
    print(f"sweep: {folder}", flush=True)
    run.say_untold(folder / "sweep.json")
    if failed:
        rest = sum(p.run_id not in failed for p in planned.todo(root, plan))
        more = f" and {rest} were not started (sweep.max_failures)" if rest else ""
        raise RunFailed(
            f"{len(failed)} of {len(plan)} points failed{more}; `{follow}` says which and "
            "why; repeat the command to try them again"
        )
    if code:
        raise RunFailed("every run is done, but the report could not be written; see above")


def _bands(points: list[Settings]) -> None:
    """Note a figure over seeds that will not be drawn, because there is one seed."""
    one_seed = len({p.seed for p in points}) == 1 and not points[0].replicas
    if "bands" in (points[0].figure or []) and one_seed:
        telling.note(
            "figure=bands: every point is of one seed, and a band is over several; it will "
            "not be drawn: add seeds, e.g. seed=range(5) or replicas=5"
        )


def _whole(configs: Sequence[Config]) -> None:
    """Raise UsageError if points differ in what belongs to the sweep as a whole.

    Before points that differ in bookkeeping alone become one, so before they have settings.
    """
    for key in _SHARED:
        if any(c[key] != configs[0][key] for c in configs):
            raise UsageError(f"{key}: belongs to the sweep as a whole; give it one value")


def _readable(expectations: list[Any]) -> None:
    """Raise UsageError if an expectation cannot be read."""
    from sa.sweep import expectation

    try:
        expectation.read(expectations)
    except ValueError as error:
        raise UsageError(f"expectations: {error}") from error


@contextlib.contextmanager
def _naming(point: planned.Point) -> Iterator[None]:
    """Name the point in a UsageError raised inside."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"point {point.index} ({point.label}): {error}") from error


def _hindrances(
    root: Path, name: str, plan: list[planned.Point], made: list[Components], place: Place | None
) -> Iterator[UsageError | LaunchError]:
    """Yield what keeps a valid plan from running, here and now: points of before, the machine."""
    try:
        lost = planned.dropped(root, name, plan)
    except files.Missing as error:
        raise UsageError(f"sweep.name: {error}") from error
    if lost and not made[0].settings.sweep.replace:
        yield UsageError(
            f"sweep.name={name}: a sweep of this name has {lost} points that this command has not; "
            "take another sweep.name, or sweep.replace=true (the runs themselves are kept)"
        )
    there = isinstance(place, slurm.Slurm)
    try:
        if there:
            slurm.need()
        for point, components in zip(plan, made, strict=True):
            with _naming(point):
                check_machine(components, here=not there)
    except (UsageError, LaunchError) as error:
        yield error


def _place(launcher: Any) -> Place | None:
    """Where points run; None for a launcher of Hydra's own, which composes and runs them itself."""
    from pydantic import TypeAdapter, ValidationError

    kind = getattr(launcher, "kind", None)
    if kind is None:
        return None
    try:
        return TypeAdapter(_PLACES[kind]).validate_python(launcher.settings)
    except ValidationError as error:
        raise UsageError(invalid("hydra.launcher", launcher.settings, error)) from error


def _launch(
    root: Path,
    plan: list[planned.Point],
    place: Place | None,
    launcher: Any,
    folder: Path,
    how: Sweep | None,
) -> dict[str, str] | None:
    """Run the missing points; run id -> what failed, or None where nobody waits for them."""
    most = how.max_failures if how else None
    match place:
        case here.Inline():
            return here.inline(root, plan, execute, folder, most)
        case here.Local():
            with Signals():  # SIGTERM ends the driver as Ctrl-C does: with its workers
                return here.local(root, plan, place, folder, most)
        case slurm.Slurm():
            with planned.alone(folder):
                flying = slurm.flying(folder)
                left = [p for p in planned.todo(root, plan) if p.run_id not in flying]
                if left:
                    probes = all(p.config["steps"] == 0 for p in left)  # seconds each
                    jobs = 16 if probes else len(left)
                    work = planned.chunks(root, plan, left, place.points_per_job, jobs)
                    slurm.submit(folder, root, place, work)
            if how is not None and not how.wait and (left or flying):
                return None
            return slurm.follow(root, plan, folder, most)
    left = planned.todo(root, plan)
    if left:
        try:
            launcher.launch([p.words for p in left], initial_job_idx=0)
        except (RunFailed, UsageError, LaunchError):
            raise
        except Exception as error:  # of a launcher of somebody else: anything
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise LaunchError(
                f"{type(launcher).__name__}, a launcher of Hydra's, could not run the points: "
                f"{last}. hydra/launcher=local and hydra/launcher=slurm are of sa itself"
            ) from error
    return {p.run_id: "no result" for p in planned.todo(root, plan)}


def report(root: Path, name: str) -> int:
    """Collect, draw and write the page, in a process of its own: reading needs no torch."""
    words = [sys.executable, "-m", "sa.sweep", "report", name, "--root", str(root)]
    try:
        return subprocess.run(words, env=os.environ | {"MPLBACKEND": "Agg"}).returncode
    except OSError as error:  # no memory for another process: what was computed stays
        telling.note(f"the report could not be started: {error}")
        return 1
