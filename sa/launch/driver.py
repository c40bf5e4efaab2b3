"""The driver of a sweep: it validates every point, runs the missing ones and reports."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sa.config.build import check_machine, validate
from sa.config.component import Components
from sa.config.error import UsageError, invalid, of_setting
from sa.config.fit import quantizer_notes
from sa.config.parents import resolve
from sa.config.settings import Settings, Sweep
from sa.job.execute import RunFailed, execute, folder_of, root_of
from sa.job.signals import Signals
from sa.launch import here, slurm, snapshot
from sa.launch import plan as planned
from sa.launch.plan import LaunchError
from sa.record import files, run, telling
from sa.record.identity import Config

Place = here.Inline | here.Local | slurm.Slurm
_PLACES = {"Inline": here.Inline, "Local": here.Local, "Slurm": slurm.Slurm}
_SHARED = ("root", "sweep", "figure", "description", "expectations")
"""Settings of the sweep as a whole."""


@runtime_checkable
class OurLauncher(Protocol):
    """A launcher that only says where points run, unlike Hydra's own, which run them.

    Args:
        kind: a name in `_PLACES`.
        settings: the settings of that place.

    """

    kind: str
    settings: dict[str, Any]


def multirun(
    configs: list[Config],
    overrides: list[list[str]],
    words: list[list[str]],
    launcher: Any,
    typed: Sequence[str] = (),
) -> Path | None:
    """Plan a sweep, validate every point, then run the missing points, or print the plan.

    Return the folder of the sweep; None if only the plan is printed.

    Args:
        configs: the configuration of each point, as Hydra composed it.
        overrides: the words of each point that vary.
        words: all words that make each point.
        launcher: says where points run.
        typed: the words of the command line.

    """
    place = _place(launcher)
    configs = [resolve(c, typed) for c in configs]
    _require_one_value(configs)
    plan = planned.points(configs, overrides, words)
    components = _validated(plan)
    settings = components[0].settings
    root, name = root_of(plan[0].config), planned.sweep_name(plan)
    notes = list(
        quantizer_notes([(p.config, c) for p, c in zip(plan, components, strict=True)], typed)
    )
    for error in _obstacles(root, name, plan, components, place):
        if not settings.sweep.dry_run:
            raise error
        notes.append(str(error))
    for note in notes:
        telling.note(note)
    left = planned.todo(root, plan)
    _announce(root, name, plan, left)
    _note_missing_bands([c.settings for c in components])
    if settings.sweep.dry_run:
        for point in plan:
            state = run.state(folder_of(point.config))
            print(f"{point.index:>4}  {point.run_id}  {state:<8} {point.label}")
        return None
    _run(root, name, plan, left, place, launcher, settings.sweep)
    return root / "sweeps" / name


def _run(
    root: Path,
    name: str,
    plan: list[planned.Point],
    left: list[planned.Point],
    place: Place | None,
    launcher: Any,
    sweep: Sweep,
) -> None:
    """Write the plan, run its canary and the other missing points, and report."""
    folder = root / "sweeps" / name
    with planned.alone(folder):
        planned.write_plan(root, name, plan)
        if sweep.snapshot:
            snapshot.take(folder, [p.config for p in plan])
    if sweep.canary and len(left) > 1:
        print(f"the canary comes first: {left[0].label}", flush=True)
        if _launch(root, left[:1], place, launcher, folder, None):
            raise RunFailed("the canary failed, no other point was started; see above")
    try:
        failed = _launch(root, plan, place, launcher, folder, sweep)
    finally:
        run.record_lost_output(folder / "sweep.json")
    follow = f"python -m sa.sweep status {name}{planned.rooted(root)}"
    if failed is None:
        print(f"submitted; to follow: {follow} --watch", flush=True)
        return
    code = report(root, name)
    print(f"sweep: {folder}", flush=True)
    run.record_lost_output(folder / "sweep.json")
    if failed:
        rest = sum(p.run_id not in failed for p in planned.todo(root, plan))
        more = f" and {rest} were not started (sweep.max_failures)" if rest else ""
        raise RunFailed(
            f"{len(failed)} of {len(plan)} points failed{more}; `{follow}` says which and "
            "why; repeat the command to try them again"
        )
    if code:
        raise RunFailed("every run is done, but the report could not be written; see above")


def _validated(plan: list[planned.Point]) -> list[Components]:
    """Return the components of each point; raise UsageError for a point that cannot run."""
    components = []
    for point in plan:
        with _naming(point):
            components.append(validate(point.config))
    expectations = components[0].settings.expectations
    if expectations:
        from sa.sweep import expectation  # imports pandas

        with of_setting("expectations"):
            expectation.read(expectations)
    return components


def _announce(root: Path, name: str, plan: list[planned.Point], left: list[planned.Point]) -> None:
    """Print how many points are left, and how long they will take if that is known."""
    seconds = planned.cost(root, plan)
    time = f", about {seconds * len(left):.0f} s of computing" if seconds and left else ""
    points = "1 point" if len(plan) == 1 else f"{len(plan)} points"
    print(f"{name}: {points}, {len(left)} of {len(plan)} to do{time}", flush=True)


def _note_missing_bands(points: list[Settings]) -> None:
    """Print a note if figure=bands will not be drawn, because there is only one seed."""
    one_seed = len({p.seed for p in points}) == 1 and not points[0].replicas
    if "bands" in (points[0].figure or []) and one_seed:
        telling.note(
            "figure=bands: a band is drawn over several seeds, and every point has the same "
            "seed; it will not be drawn. Add seeds, e.g. seed=range(5) or replicas=5"
        )


def _require_one_value(configs: Sequence[Config]) -> None:
    """Raise UsageError if points differ in a setting of the sweep as a whole.

    This comes before `planned.points`, which makes one point of those that differ in bookkeeping.
    """
    for key in _SHARED:
        if any(c[key] != configs[0][key] for c in configs):
            raise UsageError(f"{key}: belongs to the sweep as a whole; give it one value")


@contextlib.contextmanager
def _naming(point: planned.Point) -> Iterator[None]:
    """Add the point to the message of a UsageError that is raised inside."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"point {point.index} ({point.label}): {error}") from error


def _obstacles(
    root: Path,
    name: str,
    plan: list[planned.Point],
    components: list[Components],
    place: Place | None,
) -> Iterator[UsageError | LaunchError]:
    """Yield the reasons why a valid plan cannot run here and now: older points, the machine."""
    try:
        lost = planned.dropped(root, name, plan)
    except files.Missing as error:
        raise UsageError(f"sweep.name: {error}") from error
    if lost and not components[0].settings.sweep.replace:
        points = "1 point" if lost == 1 else f"{lost} points"
        yield UsageError(
            f"sweep.name={name}: that sweep exists already, with {points} that this command does "
            "not have. Use sweep.name=NEW to keep both, or sweep.replace=true to drop them (their "
            "runs stay)"
        )
    if components[0].settings.sweep.snapshot:
        yield from snapshot.obstacles([p.config for p in plan])
    elsewhere = isinstance(place, slurm.Slurm)
    try:
        if elsewhere:
            slurm.need()
        for point, parts in zip(plan, components, strict=True):
            with _naming(point):
                check_machine(parts, here=not elsewhere)
    except (UsageError, LaunchError) as error:
        yield error


def _place(launcher: Any) -> Place | None:
    """Return where points run; None for a launcher of Hydra's own, which runs them itself."""
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(launcher, OurLauncher):
        return None
    try:
        return TypeAdapter(_PLACES[launcher.kind]).validate_python(launcher.settings)
    except ValidationError as error:
        raise UsageError(invalid("hydra.launcher", launcher.settings, error)) from error


def _launch(
    root: Path,
    plan: list[planned.Point],
    place: Place | None,
    launcher: Any,
    folder: Path,
    sweep: Sweep | None,
) -> dict[str, str] | None:
    """Run the missing points; return run id -> error of those that failed.

    Return None if the points were submitted and nobody waits for them.

    Args:
        root: the folder of all runs and sweeps.
        plan: the points.
        place: where they run.
        launcher: a launcher of Hydra's own, which runs the points if place is None.
        folder: the folder of the sweep.
        sweep: the settings of the sweep; None for its canary, for which this waits.

    """
    max_failures = sweep.max_failures if sweep else None
    match place:
        case here.Inline():
            return here.inline(root, plan, execute, folder, max_failures)
        case here.Local():
            with Signals():  # SIGTERM ends the driver and its workers, as Ctrl-C does
                return here.local(root, plan, place, folder, max_failures)
        case slurm.Slurm():
            with planned.alone(folder):
                live = slurm.live_runs(folder)
                left = [p for p in planned.todo(root, plan) if p.run_id not in live]
                if left:
                    probes = all(p.config["steps"] == 0 for p in left)  # each takes seconds
                    jobs = 16 if probes else len(left)
                    work = planned.chunks(root, plan, left, place.points_per_job, jobs)
                    slurm.submit(folder, root, place, work)
            if sweep is not None and not sweep.wait and (left or live):
                return None
            return slurm.follow(root, plan, folder, max_failures)
    left = planned.todo(root, plan)
    if left:
        try:
            launcher.launch([p.words for p in left], initial_job_idx=0)
        except (RunFailed, UsageError, LaunchError):
            raise
        except Exception as error:  # a launcher of others may raise anything
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise LaunchError(
                f"{type(launcher).__name__}, a launcher of Hydra's own, could not run the points: "
                f"{last}. Use a launcher of sa: hydra/launcher=local or hydra/launcher=slurm"
            ) from error
    return {p.run_id: "no result" for p in planned.todo(root, plan)}


def report(root: Path, name: str) -> int:
    """Write tables, figures and page in another process, without torch; return its exit code."""
    words = [sys.executable, "-m", "sa.sweep", "report", name, "--root", str(root)]
    try:
        return subprocess.run(words, env=os.environ | {"MPLBACKEND": "Agg"}).returncode
    except OSError as error:  # there is no memory for another process
        telling.note(f"the report could not be started: {error}")
        return 1
