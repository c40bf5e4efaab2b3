"""The points of a sweep: which they are, what is left of them, what computes them."""

import builtins
import contextlib
import fnmatch
import itertools
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa.config import study
from sa.record import files, identity, lock, run, sweep


class LaunchError(Exception):
    """The place where points should run cannot take them; nothing was left half-submitted."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its place, content id, the overrides that make it, its configuration.

    overrides: the words that vary, for people; words: all that compose it.
    """

    index: int
    run_id: str
    overrides: list[str]
    config: dict[str, Any]
    words: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What distinguishes it, for a line on the terminal."""
        return " ".join(self.overrides) or "the defaults"


def shape(
    swept: dict[str, list[tuple[str, ...]]],
    zip: Sequence[str] = (),
    points: Sequence[Any] = (),
    exclude: Sequence[Any] = (),
) -> list[list[str]]:
    """The words of every point: the product of all values, but for what is zipped and excluded.

    swept: by key, its words. zip: keys that go together, of equal lengths. points: listed points,
    words in one string or a mapping each, crossed with the rest. exclude: likewise, points that
    have all of the words are left out; * in a word stands for anything. Raises LaunchError for
    what does not fit.
    """
    for name, given in (("zip", zip), ("points", points), ("exclude", exclude)):
        if not isinstance(given, list | tuple):
            told = f"sweep.{name}={given}: expected a list, e.g. 'sweep.{name}=[...]'"
            raise LaunchError(told)
    varied = ", ".join(k for k, values in swept.items() if len(values) > 1) or "none"
    typed = {k.lstrip("+"): k for k in swept}  # zip=[until] also names ++until=
    zip = [k if k in swept else typed.get(k, k) for k in zip]
    unknown = [k for k in zip if k not in swept]
    if unknown:
        raise LaunchError(f"sweep.zip: {unknown[0]} is not swept; swept are: {varied}")
    lengths = {k: len(swept[k]) for k in zip}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{k} has {n}" for k, n in lengths.items())
        raise LaunchError(f"sweep.zip: the values must be as many: {told}")
    axes = [values for k, values in swept.items() if k not in zip]
    if zip:
        axes.append([sum(some, ()) for some in builtins.zip(*(swept[k] for k in zip), strict=True)])
    crossed = [[w for some in product for w in some] for product in itertools.product(*axes)]
    made = crossed
    if points:
        every = [listed(p) for p in points]
        made = [[*beside(one, words), *one] for words in crossed for one in every]
    left_out = [listed(e) for e in exclude]
    kept = [
        p for p in made if not any(all(w in p or fnmatch.filter(p, w) for w in e) for e in left_out)
    ]
    there = {w.split("=")[0] for p in made for w in p}
    for word in (w for words in left_out for w in words):
        if word.split("=")[0] not in there:
            raise LaunchError(f"sweep.exclude: {word}: {word.split('=')[0]} is not swept: {varied}")
    if not kept:
        raise LaunchError(f"sweep.exclude leaves none of the {len(made)} points")
    return kept


def overruled(typed: Sequence[str], points: Sequence[Any]) -> Iterator[str]:
    """What to say of typed keys that some of the listed points set themselves.

    Raises LaunchError where all of them do: what was typed would be lost.
    """
    every = [{_setting(w) for w in listed(p)} for p in points]
    for word in (w for w in typed if "=" in w):
        key, many = word.lstrip("+~").partition("=")[0], sum(_setting(word) in one for one in every)
        if every and many == len(every):
            raise LaunchError(
                f"{key}: every one of the listed points sets it, so what is typed would be lost; "
                "leave it out, or list points of your own: 'sweep.points=[\"KEY=VALUE ...\"]'"
            )
        if many:
            yield f"{key}: {many} of the {len(every)} listed points set their own"


def beside(own: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words that stay beside those of a listed point: the others set what it sets itself."""
    mine = {_setting(w) for w in own}
    return [w for w in words if _setting(w) not in mine]


def _setting(word: str) -> str:
    """What a word sets; epochs and steps are two ways to set one budget."""
    key = word.lstrip("+~").partition("=")[0]
    return "steps" if key == "epochs" else key


def listed(point: Any) -> list[str]:
    """The words of a listed point, which is a mapping or "KEY=VALUE KEY=VALUE"."""
    if isinstance(point, dict):
        return [study.word(str(k), v) for k, v in point.items()]
    words = _split(str(point))
    if not words or not all("=" in w for w in words):
        raise LaunchError(f"{point!r}: expected KEY=VALUE KEY=VALUE, of one point")
    return words


def refuse_texts(name: str, points: Sequence[Any]) -> None:
    """Raise LaunchError where a file lists points as texts; only what is typed may be text."""
    for point in (p for p in points if isinstance(p, str)):
        pairs = ", ".join(w.replace("=", ": ", 1) for w in _split(point))
        raise LaunchError(
            f"sweep.{name}: {point!r} is a text; in a file write a mapping, - {{{pairs}}}"
        )


def _split(text: str) -> list[str]:
    """Split at the spaces outside brackets and quotes; a backslash outside quotes is taken off."""
    found, depth, quote, kept = [""], 0, "", False
    for letter in text:
        if letter == "\\" and not quote and not kept:
            kept = True
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif kept:
            kept = False
        elif letter in "'\"":
            quote = letter
        elif letter.isspace() and depth == 0:
            found.append("")
            continue
        else:
            depth += (letter in "[{(") - (letter in "]})")
        found[-1] += letter
    return [w for w in found if w]


def points(
    configs: Sequence[dict[str, Any]],
    overrides: Sequence[list[str]],
    words: Sequence[list[str]] | None = None,
) -> list[Point]:
    """One point an identity: configurations that differ in bookkeeping only are one run."""
    found: dict[str, Point] = {}
    for config, told, every in zip(configs, overrides, words or overrides, strict=True):
        key = identity.run_id(config)
        found.setdefault(key, Point(len(found), key, told, config, every))
    return list(found.values())


def sweep_name(plan: Sequence[Point]) -> str:
    """The name the configuration gives, or one made of the points: same points, same name."""
    named = plan[0].config["sweep"]["name"]
    return named or "sweep-" + identity.run_id({"points": sorted(p.run_id for p in plan)})


def rooted(root: Path) -> str:
    """Return the words that a command of ``sa.sweep`` needs to find this root, from this folder."""
    here = Path(os.environ.get("SA_ROOT") or ".").expanduser()
    return "" if root == here else f" --root {shlex.quote(str(root))}"


def todo(root: Path, plan: Sequence[Point]) -> list[Point]:
    """The points without a result."""
    return [p for p in plan if run.read_result(root, p.run_id) is None]


def dropped(root: Path, name: str, plan: Sequence[Point]) -> int:
    """How many points a sweep of that name has that the plan has not; 0 where there is none.

    A damaged manifest has none either: the plan replaces it.
    """
    if not (sweep.sweep_folder(root, name) / "manifest.jsonl").exists():
        return 0
    try:
        _, there = sweep.read_manifest(root, name)
    except files.RecordError:
        return 0
    return len({p["run_id"] for p in there} - {p.run_id for p in plan})


def freeze(root: Path, name: str, plan: Sequence[Point]) -> None:
    """Write the manifest, and the configuration of every point that is still to run."""
    for point in todo(root, plan):
        run.freeze(root, point.config)
    entries = [{"index": p.index, "run_id": p.run_id, "overrides": p.overrides} for p in plan]
    first = plan[0].config
    about = {
        "name": name,
        "argv": sys.argv[1:],
        "typed_in": {"folder": os.getcwd(), **_folders()},
        "description": first.get("description"),
        "figure": first.get("figure"),
        "objective": first.get("objective"),
        "expectations": first.get("expectations") or [],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    sweep.write_manifest(root, name, entries, about)


def _folders() -> dict[str, str]:
    """The folders that the environment names, wherever they are looked up later."""
    given = {k: os.environ.get(k) for k in ("SA_ROOT", "SA_DATA")}
    return {k: os.path.abspath(os.path.expanduser(v)) for k, v in given.items() if v}


def cost(root: Path, plan: Sequence[Point]) -> float | None:
    """Seconds a point takes, from those of the plan that have ended; None where none has."""
    known = [run.read_result(root, p.run_id) for p in plan]
    spent = [float(r["seconds"]) for r in known if r and isinstance(r.get("seconds"), int | float)]
    return sum(spent) / len(spent) if spent else None


def chunks(
    root: Path, plan: Sequence[Point], left: Sequence[Point], size: int | None, jobs: int
) -> list[list[Point]]:
    """The points a job computes in turn, in order; size None chooses.

    A job pays some four seconds before its first point. Where points of the plan have ended, and
    their cost is known, it gets two minutes of work, but there are 16 jobs if there can be; else
    the points are spread over ``jobs``.
    """
    if size is None:
        each = cost(root, plan)
        most = math.ceil(len(left) / (jobs if each is None else 16))
        size = most if each is None else max(1, min(most, int(120 / max(each, 0.01))))
    return [list(left[i : i + size]) for i in range(0, len(left), size)]


def processes(some: Sequence[Point]) -> int:
    """The most processes that one of the points computes with."""
    return max([1, *(int(p.config.get("processes") or 1) for p in some)])


def command(root: Path, some: Sequence[Point]) -> list[str]:
    """What computes frozen points, one after another."""
    folders = [str((root / "runs" / p.run_id).resolve()) for p in some]
    return [sys.executable, "-m", "sa.run", "--frozen", *folders]


def scrubbed(env: dict[str, str]) -> dict[str, str]:
    """The environment without what an enclosing SLURM job left: it would bend a child's resources.

    The address of the cluster stays, SLURM_CONF and SLURM_CLUSTERS. W&B's service goes: it may not
    live as long as the child, or on another machine; and W&B's run, which is the parent's.
    """
    bent = re.compile(
        r"(SLURM|SLURMD|SBATCH|SALLOC|SRUN|PMI[0-9X]*)_"
        r"|WANDB_(SERVICE|RUN_ID|RESUME|SWEEP_ID)$"
    )
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {k: v for k, v in env.items() if k in kept or not bent.match(k)}


def paths(folder: Path) -> dict[str, str]:
    """Where the code of a sweep is: its snapshot, if it has one."""
    code = folder / "code"
    if not code.is_dir():
        return {}
    theirs = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    every = [code.resolve(), *map(os.path.abspath, theirs)]
    return {"PYTHONPATH": os.pathsep.join(map(str, every))}


def snapshot(folder: Path, packages: Sequence[Path], note: str, told: dict[str, Any]) -> None:
    """Copy the code that the points run, so that edits after the submission change nothing.

    note: a file beside the copy, for what is ``told`` of the code.
    """
    code = folder / "code"
    if code.exists():
        return
    temp = folder / f".tmp-code-{os.getpid()}"
    skip = shutil.ignore_patterns("__pycache__", ".*")
    for package in packages:
        shutil.copytree(package, temp / package.name, ignore=skip)
    files.write_json(temp / note, told)
    temp.replace(code)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One driver at a time plans and submits a sweep; the others wait for it."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.exclusive(folder / ".driver"))
        except OSError as error:
            raise files.unrooted(folder.parent.parent, error) from error
        yield
