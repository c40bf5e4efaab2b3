"""The points of a sweep: their words, which of them are missing, and the command for them."""

import builtins
import contextlib
import fnmatch
import itertools
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa.config import study, trust
from sa.record import files, identity, lock, run, sweep
from sa.record.config import write_config


class LaunchError(Exception):
    """The points cannot run; no job was submitted, or all were cancelled."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Args:
        index: its number in the sweep, from 0.
        run_id: the id of the run.
        overrides: the words that vary over the sweep, for people.
        config: the configuration.
        words: all words that make the configuration.

    """

    index: int
    run_id: str
    overrides: list[str]
    config: dict[str, Any]
    words: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The words that vary over the sweep, in one line."""
        return " ".join(self.overrides) or "the defaults"


def shape(
    swept: dict[str, list[tuple[str, ...]]],
    zip: Sequence[str] = (),
    points: Sequence[Any] = (),
    exclude: Sequence[Any] = (),
) -> list[list[str]]:
    """Return the words of every point: all combinations of the values, as the sweep shapes them.

    Args:
        swept: the words of each key, e.g. {"seed": [("seed=0",), ("seed=1",)]}.
        zip: keys that vary together; they have equally many values.
        points: listed points, each a mapping or the words in one string. Every listed point is
            combined with the values of the other keys.
        exclude: points to leave out, written in the same way. An entry leaves out the points that
            have all of its words. A * in a word stands for anything.

    Raises:
        LaunchError: the settings do not fit together.

    """
    for name, value in (("zip", zip), ("points", points), ("exclude", exclude)):
        if not isinstance(value, list | tuple):
            raise LaunchError(f"sweep.{name}={value}: expected a list, e.g. 'sweep.{name}=[...]'")
    varied = ", ".join(k for k, values in swept.items() if len(values) > 1) or "none"
    typed = {k.lstrip("+"): k for k in swept}  # zip=[until] also names ++until=
    zip = [k if k in swept else typed.get(k, k) for k in zip]
    unknown = [k for k in zip if k not in swept]
    if unknown:
        raise LaunchError(f"sweep.zip: {unknown[0]} is not swept; swept are: {varied}")
    lengths = {k: len(swept[k]) for k in zip}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{k} has {n}" for k, n in lengths.items())
        raise LaunchError(f"sweep.zip: the keys need equally many values; {counts}")
    axes = [values for k, values in swept.items() if k not in zip]
    if zip:
        axes.append([sum(some, ()) for some in builtins.zip(*(swept[k] for k in zip), strict=True)])
    crossed = [[w for some in product for w in some] for product in itertools.product(*axes)]
    every = crossed
    if points:
        lists = [listed(p) for p in points]
        every = [[*beside(one, words), *one] for words in crossed for one in lists]
    excluded = [listed(e) for e in exclude]
    keys = {w.split("=")[0] for p in every for w in p}
    for word in (w for words in excluded for w in words):
        key = word.split("=")[0]
        if key not in keys:
            raise LaunchError(f"sweep.exclude: {word}: {key} is not swept; swept are: {varied}")

    def matches(point: list[str], words: list[str]) -> bool:
        return all(w in point or fnmatch.filter(point, w) for w in words)

    left = [p for p in every if not any(matches(p, e) for e in excluded)]
    if not left:
        raise LaunchError(f"sweep.exclude leaves none of the {len(every)} points; exclude fewer")
    return left


def overruled(typed: Sequence[str], points: Sequence[Any]) -> Iterator[str]:
    """Yield a note for each typed setting that some of the listed points set themselves.

    Raises:
        LaunchError: all listed points set it, so that the typed word would have no effect.

    """
    every = [{_setting(w) for w in listed(p)} for p in points]
    for word in (w for w in typed if "=" in w):
        key, many = word.lstrip("+~").partition("=")[0], sum(_setting(word) in one for one in every)
        if every and many == len(every):
            raise LaunchError(
                f"{key}: every one of the listed points sets it, so the typed value would have no "
                "effect; leave it out, or list your own points: 'sweep.points=[\"KEY=VALUE ...\"]'"
            )
        if many:
            yield f"{key}: {many} of the {len(every)} listed points set their own"


def beside(own: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words whose setting a listed point does not set itself (``own``)."""
    settings = {_setting(w) for w in own}
    return [w for w in words if _setting(w) not in settings]


def _setting(word: str) -> str:
    """Return which setting a word sets; epochs sets steps."""
    key = word.lstrip("+~").partition("=")[0]
    return "steps" if key == "epochs" else key


def listed(point: Any) -> list[str]:
    """Return the words of a listed point, which is a mapping or "KEY=VALUE KEY=VALUE"."""
    if isinstance(point, dict):
        return [study.word(str(k), v) for k, v in point.items()]
    words = _split(str(point))
    if not words or not all("=" in w for w in words):
        raise LaunchError(f"{point!r}: expected the words of one point, KEY=VALUE KEY=VALUE")
    return words


def refuse_texts(name: str, points: Sequence[Any]) -> None:
    """Raise LaunchError if a file lists points as texts, which only a command line may do."""
    for point in (p for p in points if isinstance(p, str)):
        pairs = ", ".join(w.replace("=", ": ", 1) for w in _split(point))
        raise LaunchError(
            f"sweep.{name}: {point!r} is a text; in a file write a mapping, - {{{pairs}}}"
        )


def _split(text: str) -> list[str]:
    """Split a text at spaces outside brackets and quotes; drop backslashes outside quotes."""
    words, depth, quote, escaped = [""], 0, "", False
    for letter in text:
        if letter == "\\" and not quote and not escaped:
            escaped = True
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif escaped:
            escaped = False
        elif letter in "'\"":
            quote = letter
        elif letter.isspace() and depth == 0:
            words.append("")
            continue
        else:
            depth += (letter in "[{(") - (letter in "]})")
        words[-1] += letter
    return [w for w in words if w]


def points(
    configs: Sequence[dict[str, Any]],
    overrides: Sequence[list[str]],
    words: Sequence[list[str]] | None = None,
) -> list[Point]:
    """Return one point for each run; configurations with the same run id are one point."""
    found: dict[str, Point] = {}
    for config, varied, every in zip(configs, overrides, words or overrides, strict=True):
        key = identity.run_id(config)
        found.setdefault(key, Point(len(found), key, varied, config, every))
    return list(found.values())


def sweep_name(plan: Sequence[Point]) -> str:
    """Return sweep.name, or a name hashed from the points."""
    named = plan[0].config["sweep"]["name"]
    return named or "sweep-" + identity.run_id({"points": sorted(p.run_id for p in plan)})


def rooted(root: Path) -> str:
    """Return the words by which a command of ``sa.sweep`` typed here finds this root."""
    here = Path(os.environ.get("SA_ROOT") or ".").expanduser()
    return "" if root == here else f" --root {shlex.quote(str(root))}"


def todo(root: Path, plan: Sequence[Point]) -> list[Point]:
    """Return the points without a result."""
    return [p for p in plan if run.read_result(root, p.run_id) is None]


def dropped(root: Path, name: str, plan: Sequence[Point]) -> int:
    """Return how many points of an older sweep of that name the plan does not have.

    A damaged manifest counts as no points, because the plan replaces it.
    """
    if not (sweep.sweep_folder(root, name) / "manifest.jsonl").exists():
        return 0
    try:
        _, old = sweep.read_manifest(root, name)
    except files.RecordError:
        return 0
    return len({p["run_id"] for p in old} - {p.run_id for p in plan})


def write_plan(root: Path, name: str, plan: Sequence[Point]) -> None:
    """Write the manifest, and config.yaml of every point that is still to run."""
    for point in todo(root, plan):
        folder = write_config(root, point.config)
        if packages := trust.packages(point.config):
            files.write_json(folder / trust.NOTE, packages)
    entries = [{"index": p.index, "run_id": p.run_id, "overrides": p.overrides} for p in plan]
    first = plan[0].config
    about = {
        "name": name,
        "argv": sys.argv[1:],
        "typed_in": {"folder": os.getcwd(), **_folders()},
        "description": first.get("description"),
        "figure": first.get("figure"),
        "metric": first.get("metric"),
        "expectations": first.get("expectations") or [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    sweep.write_manifest(root, name, entries, about)


def _folders() -> dict[str, str]:
    """Return the folders that the environment names, as absolute paths."""
    variables = {k: os.environ.get(k) for k in ("SA_ROOT", "SA_DATA")}
    return {k: os.path.abspath(os.path.expanduser(v)) for k, v in variables.items() if v}


def cost(root: Path, plan: Sequence[Point]) -> float | None:
    """Return the mean seconds of the finished points; None if no point is finished."""
    results = [run.read_result(root, p.run_id) or {} for p in plan]
    seconds = [float(r["seconds"]) for r in results if isinstance(r.get("seconds"), int | float)]
    return sum(seconds) / len(seconds) if seconds else None


def chunks(
    root: Path, plan: Sequence[Point], left: Sequence[Point], size: int | None, jobs: int
) -> list[list[Point]]:
    """Return the points of each job, in order.

    A job spends some four seconds before its first point. If the cost of a point is known, a job
    gets two minutes of work, or less, so that there are 16 jobs; otherwise the points are spread
    over ``jobs`` jobs.

    Args:
        root: the folder of all runs and sweeps.
        plan: all points.
        left: the points to compute.
        size: how many points a job computes; None chooses as above.
        jobs: how many jobs there are if the cost of a point is not known.

    """
    if size is None:
        each = cost(root, plan)
        most = math.ceil(len(left) / (jobs if each is None else 16))
        size = most if each is None else max(1, min(most, int(120 / max(each, 0.01))))
    return [list(left[i : i + size]) for i in range(0, len(left), size)]


def processes(some: Sequence[Point]) -> int:
    """Return the largest number of processes of a run among some points."""
    return max([1, *(int(p.config.get("processes") or 1) for p in some)])


def command(root: Path, some: Sequence[Point]) -> list[str]:
    """Return the command that computes some points from their config.yaml, one after another.

    The option is called ``--frozen`` because the command may run older code: the sweep's copy.
    """
    folders = [str((root / "runs" / p.run_id).resolve()) for p in some]
    return [sys.executable, "-m", "sa.run", "--frozen", *folders]


def scrubbed(env: dict[str, str]) -> dict[str, str]:
    """Return an environment without the variables of an enclosing SLURM job and W&B run.

    The variables of the job would change what a child may use. SLURM_CONF and SLURM_CLUSTERS stay,
    because they say where the cluster is. W&B's service may end before the child does, or may be on
    another machine; W&B's run is the parent's.
    """
    dropped = re.compile(
        r"(SLURM|SLURMD|SBATCH|SALLOC|SRUN|PMI[0-9X]*)_"
        r"|WANDB_(SERVICE|RUN_ID|RESUME|SWEEP_ID)$"
    )
    stay = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {k: v for k, v in env.items() if k in stay or not dropped.match(k)}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one driver at a time plan and submit a sweep; the others wait."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.exclusive(folder / ".driver"))
        except OSError as error:
            raise files.unrooted(folder.parent.parent, error) from error
        yield
