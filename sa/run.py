"""The composition root, ``python -m sa.run``: from words on a command line to a recorded run."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa import config as settings
from sa import launch, record, summary

Config = dict[str, Any]


class RunFailed(Exception):
    """A run or a sweep that did not end well; everything that did end is kept."""


def main() -> None:
    """Parse, run, and end with 0 (done), 1 (a run failed) or 2 (nothing was started)."""
    sys.stdout = _Patient(sys.stdout)
    argv = sys.argv[1:]
    if "--help" in argv or "-h" in argv:
        print(settings.catalogue())
        return
    if argv == ["--catalogue"]:
        print(settings.page())
        return
    # Hydra prints and swallows errors unless told otherwise; here they get their own messages.
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if argv[:1] == ["--frozen"]:
            frozen([Path(a) for a in argv[1:]])
        elif argv[:1] == ["--rank"]:
            rank(Path(argv[1]), *map(int, argv[2:]))
        else:
            for word in argv:
                if re.fullmatch(r"[\w./]+=\{\}", word):
                    raise settings.UsageError(f"{word} changes nothing: {{}} is merged, not set")
            sys.argv[1:] = settings.hold(argv)
            _compose()
    except KeyboardInterrupt:
        _exit(130, "interrupted; repeat the command to go on from the last checkpoint")
    except settings.UsageError as error:
        _exit(2, str(error))
    except record.Unwritable as error:
        _exit(2, str(error))
    except launch.LaunchError as error:
        _exit(2, str(error))
    except (RunFailed, record.RecordError) as error:
        _exit(1, str(error))
    except Exception as error:
        told = settings.explain(error, argv)
        if told is None or full:
            traceback.print_exc()
            _exit(1, "an unexpected error, shown above")
        _exit(2, told)
    finally:
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)


class _Patient:
    """Standard output that a reader may leave early (`| head`): what runs goes on without it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(text)) or 0

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Any) -> Any:
        try:
            return act()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _exit(code: int, message: str | None) -> None:
    print(f"sa: {message}", file=sys.stderr)
    sys.exit(code)


def _compose() -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    failed: list[Exception] = []

    def single(config: DictConfig) -> float:
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        plain["experiment"] = HydraConfig.get().runtime.choices.get("experiment")
        try:
            return one({str(k): v for k, v in plain.items()})
        except Exception as error:
            if HydraConfig.get().mode != RunMode.RUN:  # another sweeper's or launcher's point
                raise
            failed.append(error)  # past Hydra, which would print words of its own
            return float("nan")

    base = {"version_base": "1.3"} if hydra.__version__ < "1.4" else {}
    hydra.main(config_path=str(settings.CONF), config_name="config", **base)(single)()
    if failed:
        raise failed[0]


def one(config: Config) -> float:
    """Validate, run (or find the finished result), tell, and return the objective."""
    config = settings.resolve(config)
    components = settings.build(config)
    if config["sweep"]["dry_run"]:
        print(f"valid; run id {record.run_id(config)}: {_state(config)}")
        return float("nan")
    result = execute(config, tell=True, components=components)
    folder = _root(config) / "runs" / record.run_id(config)
    summary.tell(config, result)
    if config["figure"] and config["steps"]:
        launch.report(_root(config), folder.name)
    print(f"run: {folder}", flush=True)
    for note in _notes(config, result):
        print(f"note: {note}", file=sys.stderr)
    value = result.get(config.get("objective") or "value", result.get("value"))
    return float(value) if isinstance(value, int | float) else float("nan")


def _notes(config: Config, result: dict[str, Any]) -> Iterator[str]:
    """What the person who typed the command may have meant otherwise."""
    study = config.get("experiment")
    varied = settings.swept(study)
    if varied:
        yield (
            f"experiment={study} sweeps {', '.join(varied)}; this was one point. The study: "
            f"python -m sa.run -m experiment={study}"
        )
    elif config["figure"] and not config["steps"]:
        yield "figures are drawn of trainings and of sweeps (-m), not of a single probe"
    for name, told in result.items():
        if told and re.fullmatch(r"(.+/)?note", name):
            yield f"{name.partition('/')[0]}: {told}" if "/" in name else f"estimator: {told}"
    key = config.get("objective")
    if key not in (None, "value", "descent/best") and key not in result:
        there = ", ".join(k for k, v in result.items() if isinstance(v, int | float))
        yield f"objective={key} is not among the results, value is returned; there are: {there}"


def multirun(
    configs: list[Config], overrides: list[list[str]], words: list[list[str]], launcher: Any
) -> None:
    """Plan a sweep, validate every point of it, run what is missing, report."""
    place = _place(launcher)
    configs = [settings.resolve(c) for c in configs]
    if isinstance(place, launch.Slurm):
        launch.need_slurm()
    for key in ("root", "sweep", "figure", "description", "expectations"):
        if any(c[key] != configs[0][key] for c in configs):
            raise settings.UsageError(f"{key}: belongs to the sweep as a whole; give it one value")
    if configs[0]["expectations"]:
        from sa.sweep import expectation

        try:
            expectation.read(configs[0]["expectations"])
        except ValueError as error:
            raise settings.UsageError(f"expectations: {error}") from error
    plan = launch.points(configs, overrides, words)
    for point in plan:
        try:
            settings.build(point.config, here=not isinstance(place, launch.Slurm))
        except settings.UsageError as error:
            raise settings.UsageError(f"point {point.index} ({point.label}): {error}") from error
    root, name, how = _root(plan[0].config), launch.sweep_name(plan), plan[0].config["sweep"]
    try:
        lost = launch.dropped(root, name, plan)
    except record.Missing as error:
        raise settings.UsageError(f"sweep.name={name}: {error}") from error
    if lost and not how["replace"]:
        raise settings.UsageError(
            f"sweep.name={name}: a sweep of this name has {lost} points that this command has not; "
            "take another sweep.name, or sweep.replace=true (the runs themselves are kept)"
        )
    left = launch.todo(root, plan)
    each = launch.cost(root, plan)
    told = f", about {each * len(left):.0f} s of computing" if each and left else ""
    print(f"{name}: {len(plan)} points, {len(left)} of {len(plan)} to do{told}", flush=True)
    one_seed = len({p.config["seed"] for p in plan}) == 1 and not plan[0].config["replicas"]
    if "bands" in plan[0].config["figure"] and one_seed:
        print(
            "note: figure=bands: every point is of one seed, and a band is over several; it will "
            "not be drawn: add seeds, e.g. seed=range(5) or replicas=5",
            file=sys.stderr,
        )
    if how["dry_run"]:
        for point in plan:
            print(f"{point.index:>4}  {point.run_id}  {_state(point.config):<8} {point.label}")
        return
    folder = root / "sweeps" / name
    with launch.alone(folder):
        launch.freeze(root, name, plan)
        if how["snapshot"]:
            here = Path(__file__).resolve().parent
            launch.snapshot(folder, [here, settings.CONF, here.parent / "hydra_plugins"])
    if how["canary"] and len(left) > 1:
        print(f"the canary comes first: {left[0].label}", flush=True)
        if _launch(root, left[:1], place, launcher, folder, None):
            raise RunFailed("the canary failed, no other point was started; see above")
    failed = _launch(root, plan, place, launcher, folder, how)
    if failed is None:
        print(f"submitted; to follow: python -m sa.sweep status {name} --watch", flush=True)
        return
    code = launch.report(root, name)
    print(f"sweep: {folder}", flush=True)
    if failed:
        rest = sum(p.run_id not in failed for p in launch.todo(root, plan))
        more = f" and {rest} were not started (sweep.max_failures)" if rest else ""
        raise RunFailed(
            f"{len(failed)} of {len(plan)} points failed{more}; `python -m sa.sweep status {name}` "
            "says which and why; repeat the command to try them again"
        )
    if code:
        raise RunFailed("every run is done, but the report could not be written; see above")


def _place(launcher: Any) -> launch.Place | None:
    """Where points run; None for a launcher of Hydra's own, which composes and runs them itself."""
    from pydantic import TypeAdapter, ValidationError

    kind = getattr(launcher, "kind", None)
    if kind is None:
        return None
    try:
        return TypeAdapter(getattr(launch, kind)).validate_python(launcher.settings)
    except ValidationError as error:
        raise settings.UsageError(
            settings.invalid("hydra.launcher", launcher.settings, error)
        ) from error


def _launch(
    root: Path,
    plan: list[launch.Point],
    place: launch.Place | None,
    launcher: Any,
    folder: Path,
    how: Config | None,
) -> dict[str, str] | None:
    """Run the missing points; run id -> what failed, or None where nobody waits for them."""
    most = how["max_failures"] if how else None
    match place:
        case launch.Inline():
            return launch.inline(root, plan, execute, folder, most)
        case launch.Local():
            with _Signals():  # SIGTERM ends the driver as Ctrl-C does: with its workers
                return launch.local(root, plan, place, folder, most)
        case launch.Slurm():
            with launch.alone(folder):
                flying = launch.flying(folder)
                left = [p for p in launch.todo(root, plan) if p.run_id not in flying]
                if left:
                    probes = all(p.config["steps"] == 0 for p in left)  # seconds each
                    jobs = 16 if probes else len(left)
                    work = launch.chunks(root, plan, left, place.points_per_job, jobs)
                    launch.submit(folder, root, place, work)
            if how is not None and not how["wait"] and (left or flying):
                return None
            return launch.follow(root, plan, folder, most)
    left = launch.todo(root, plan)
    if left:
        launcher.launch([p.words for p in left], initial_job_idx=0)
    return {p.run_id: "no result" for p in launch.todo(root, plan)}


def frozen(folders: list[Path]) -> None:
    """The worker: run the configurations frozen in run folders, one after another."""
    import yaml

    failed, queue = [], list(folders)
    while queue:
        folder = queue.pop(0)
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text())
        except OSError as error:
            raise settings.UsageError(
                f"--frozen {folder}: no frozen run there ({error})"
            ) from error
        config["root"] = str(folder.resolve().parent.parent)
        with _logged(folder / "log.txt"):
            try:
                execute(config, tell=True)
                print(f"run: {folder}", flush=True)
            except record.Busy:  # another process computes it: it, or we after it
                queue.append(folder)
                time.sleep(launch.POLL)
            except Exception as error:
                failed.append(folder.name)
                print(f"sa: {folder.name}: {error}", file=sys.stderr)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(folders)} runs failed: {', '.join(failed)}")


def rank(folder: Path, number: int, world: int, port: int) -> None:
    """One of the processes that share a run's steps (`sa.ranks`); rank 0 started it and ends it."""
    for told in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # they are rank 0's to answer
        signal.signal(told, signal.SIG_IGN)
    from dataclasses import replace

    import torch
    import yaml

    from sa import ranks

    config = yaml.safe_load((folder / "config.yaml").read_text())
    made = settings.build(config)
    torch.set_num_threads(config["threads"])
    device = f"cuda:{number}" if config["device"] == "cuda" else config["device"]
    problem = replace(made.task, device=device).prepare(
        config["seed"], init_seed=config.get("init_seed")
    )
    try:
        ranks.serve(problem, made.estimator, config["steps"], ranks.Ring(number, world, port))
    except RuntimeError as error:  # rank 0 is gone, or says why itself
        raise RunFailed(f"rank {number}: {error}") from error


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the process prints, libraries and all, also goes nowhere but to this file's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, place in zip(kept, (1, 2), strict=True):
            os.dup2(fd, place)
            os.close(fd)


class _Signals:
    """SIGTERM and SIGUSR2 while a run computes.

    Under SLURM both mean: save at the next step. The scheduler kills what it wants to be gone, so
    the run goes on until then; on USR2, sent before the time limit, it also asks to be requeued.
    Elsewhere SIGTERM ends the run as interrupted.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.slurm = os.environ.get("SLURM_JOB_ID")

    def __enter__(self) -> "_Signals":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR2):
                self.before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _came(self, number: int, _: object) -> None:
        if not self.slurm:
            raise Stopped(f"stopped by {signal.Signals(number).name}")
        self.wanted = True
        if number == signal.SIGUSR2 and os.environ.get("SA_REQUEUE") == "1":
            import subprocess

            subprocess.Popen(["scontrol", "requeue", self.slurm])


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""


def execute(
    config: Config, tell: bool = False, components: settings.Components | None = None
) -> dict[str, Any]:
    """Compute one run, or go on with it, or return what it already gave.

    Raises Busy while another process computes it, RunFailed where it fails (the record says why).
    """
    root, key = _root(config), record.run_id(config)
    done = record.read_result(root, key)
    if done is not None:
        return done
    try:
        start, ends = _parents(config, tell)
    except (RunFailed, settings.NoData) as error:
        record.freeze(root, config)
        skipped = isinstance(error, settings.NoData)
        record.mark(root, key, str(error), "skipped" if skipped else "failed")
        raise
    with record.Record.open(root, config, _meta(config)) as kept:
        try:
            made = components or settings.build(config)
            with _ranks(config, kept.folder) as ring:
                return _compute(config, made, kept, (start, ends), tell, ring)
        except KeyboardInterrupt as error:
            kept.fail(str(error) or "interrupted from the keyboard", state="interrupted")
            raise
        except record.RecordError as error:
            kept.fail(str(error))
            raise RunFailed(str(error)) from error
        except settings.UsageError as error:
            skipped = isinstance(error, settings.NoData)
            kept.fail(str(error), "skipped" if skipped else "failed")
            raise
        except Exception as error:
            kept.fail(traceback.format_exc())
            raise RunFailed(f"run {key}: {type(error).__name__}: {error}") from error


def _ranks(config: Config, folder: Path) -> contextlib.AbstractContextManager:
    """The other processes of a run, while it computes; None where it is one."""
    world = config.get("processes") or 1
    if world == 1:
        return contextlib.nullcontext()
    from sa import ranks

    command = [sys.executable, "-m", "sa.run", "--rank", str(folder.resolve())]
    return ranks.lead(world, command, config["device"])


def _compute(
    config: Config,
    made: settings.Components,
    kept: record.Record,
    given: tuple[Path | None, list[Path]],
    tell: bool,
    ring: Any,
) -> dict[str, Any]:
    import torch

    from sa import ranks, replicas, train
    from sa.types import MissingData, size

    torch.set_num_threads(config["threads"])
    many = config.get("replicas")
    try:
        if many is None:
            problem = made.task.prepare(config["seed"], init_seed=config.get("init_seed"))
        else:
            problem = replicas.prepare(made.task, config["seed"], many)
    except MissingData as error:
        raise settings.NoData(f"dataset: {error}") from error
    start, ends = given
    parent = _load(start, _CHECKPOINT) if start else None
    reached = [train.start(problem, _load(end, _CHECKPOINT)) for end in ends]
    problem.ends = [(p.params, p.buffers) for p in reached]
    try:
        progress = train.start(problem, parent, averaged=bool(config.get("init_average")))
    except ValueError as error:
        again = "take the model it was trained with, or delete its folder to train it again"
        raise ValueError(f"init: {start}: {error}; {again}") from error
    seconds = 0.0
    if kept.checkpoint is not None:
        saved = _load(kept.checkpoint, _CHECKPOINT)
        seconds = saved.pop("seconds")
        progress = train.Progress(**saved)
        kept.rewind(progress.step - 1)
        if tell:
            print(f"going on from step {progress.step} of {config['steps']}", flush=True)
    if ring is not None:
        problem = ranks.Shared(**vars(problem), ring=ring)
        problem.begin()
    problem.partial = partial = _Partial(kept, config["checkpoint_seconds"], progress.step)
    if start and not config["steps"]:  # a look at where its parent's training ended
        problem.kept = lambda folder=start.parent: _path(folder)
    else:
        problem.kept = lambda: _path(kept.folder, partial.step)
    latest: dict[str, Any] = {}
    for row in kept.rows():
        latest |= row
    mirror = _mirror(config, made, kept)
    began = saved_at = time.perf_counter()
    rows = train.loop(
        problem, made.estimator, made.optimizer, made.analyses,
        steps=config["steps"], progress=progress,
        evaluate_every=config["evaluate_every"], analyse_every=config["analyse_every"],
        recipe=made.recipe,
    )  # fmt: skip
    watch = _Watch(config, tell)
    keeps = config.get("snapshot_every") if config["steps"] else None
    redundant = problem.redundant() if keeps and many is None else []

    def save(progress: train.Progress) -> None:
        spent = seconds + time.perf_counter() - began
        kept.save(lambda path: torch.save(progress.pack() | {"seconds": spent}, path))

    try:
        with _Signals() as told:
            for row, progress in rows:
                kept.append(row)
                partial.begin(progress.step + 1)
                mirror.log(row)
                # what was measured before a divergence is no result of it
                latest = dict(row) if "diverged" in row else latest | row
                watch.row(row)
                if keeps and (row["step"] % keeps == 0 or "stopped" in row):
                    _snapshot(kept, progress, redundant)
                due = time.perf_counter() - saved_at >= config["checkpoint_seconds"]
                if config["steps"] and (due or told.wanted):
                    save(progress)
                    saved_at, told.wanted = time.perf_counter(), False
    except BaseException:
        mirror.abort()
        raise
    finally:
        watch.close()
    if config["steps"]:  # a finished training can be a parent
        save(progress)
    result = {
        "value": latest.pop("loss"),
        **latest,
        "status": "diverged" if "diverged" in latest else "done",
        "target": made.estimator.target,
        "parameters": size(problem.params),
        "rows": problem.data.train.rows,
        "quantized": summary.quantized(problem.structure.quantized),
        "seconds": seconds + time.perf_counter() - began,
    }
    result = kept.finish(result) or result
    mirror.finish(result)
    return result


_CHECKPOINT = {"step", "params", "buffers", "optimizer", "estimator"}


def _snapshot(kept: record.Record, progress: Any, redundant: list[str]) -> None:
    """Keep the point of a step, as `record.snapshots` finds it: readable without torch."""
    import numpy as np

    arrays: dict[str, Any] = {"redundant": np.array(redundant, dtype=str)}
    for kind in ("params", "buffers"):
        tensors = getattr(progress, kind)
        arrays |= {f"{kind}/{k}": v.detach().cpu().numpy() for k, v in tensors.items()}
    name = f"{record.SNAPSHOTS}/{progress.step:09d}.npz"
    kept.save(lambda path: np.savez(path, **arrays), name)


def _path(folder: Path, before: int | None = None) -> list[dict[str, Any]]:
    """The points that a training kept before a step, or before its last."""
    import numpy as np
    import torch

    files = list(record.snapshots(folder, before).values())
    points = []
    for file in files if before is not None else files[:-1]:
        with np.load(file) as kept:
            idle = set(kept["redundant"].tolist())
            named = {k.partition("/")[2]: k for k in kept.files if k.startswith("params/")}
            points.append({k: torch.from_numpy(kept[v]) for k, v in named.items() if k not in idle})
    return points


class _Partial:
    """The computations of one row in ``partial.pt``: kept when so many seconds have passed.

    A training goes on from its checkpoint, one row before the last it wrote: what is kept of a
    later step waits until that step comes, and goes when its row is written.
    """

    def __init__(self, kept: record.Record, seconds: float, step: int):
        self.path, self.save, self.seconds = kept.folder / "partial.pt", kept.save, seconds
        self.saved: Config = _load(self.path, {"step", "parts"}) if self.path.exists() else {}
        self.begin(step)

    def begin(self, step: int) -> None:
        """The rows before ``step`` are written: what is kept of them is of no use."""
        if self.saved and self.saved["step"] < step:
            self.path.unlink(missing_ok=True)
            self.saved = {}
        same = self.saved.get("step") == step
        self.parts: dict[int, Any] = self.saved["parts"] if same else {}
        self.step, self.number, self.saved_at = step, -1, time.monotonic()

    def take(self) -> tuple[int, dict[str, Any]]:
        self.number += 1
        return self.number, self.parts.get(self.number, {})

    def keep(self, number: int, state: Config) -> None:
        if time.monotonic() - self.saved_at >= self.seconds:
            import torch

            self.parts[number] = state
            self.saved = {"step": self.step, "parts": self.parts}
            self.save(lambda path: torch.save(self.saved, path), self.path.name)
            self.saved_at = time.monotonic()


def _load(path: Path, needs: set[str]) -> dict[str, Any]:
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        assert needs <= set(saved)
        return saved
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise record.RecordError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}): it is damaged or of "
            "another version. Restore it from a copy, or delete it to start this run from step 0"
        ) from error


def _parents(config: Config, tell: bool) -> tuple[Path | None, list[Path]]:
    """The checkpoints a run starts from and looks at."""
    made = settings.parent(config)
    start = _ended(config, made, "the parent run", tell) if made else None
    ends = [_ended(config, end, "a training of ends", tell) for end in settings.ends(config)]
    return start, ends


def _ended(config: Config, made: Config, what: str, tell: bool) -> Path:
    """The checkpoint of another run, computed first if nobody has; waits where somebody does."""
    folder = _root(config) / "runs" / record.run_id(made)
    while True:
        try:
            if record.read_result(_root(config), folder.name) is None and tell:
                print(f"{what} comes first: {folder}", flush=True)
            result = execute(made, tell)
            break
        except record.Busy:
            time.sleep(1.0)
        except settings.NoData:
            raise
        except (RunFailed, settings.UsageError) as error:
            raise RunFailed(f"{what} {folder.name} failed: {error}") from error
    if result["status"] == "diverged":
        raise RunFailed(f"{what} {folder.name} diverged at step {result['step']}")
    return folder / "checkpoint.pt"


class _Watch:
    """The progress of one training on the terminal: a bar, or a line an evaluation."""

    def __init__(self, config: Config, tell: bool):
        self.total, self.on = config["steps"], tell and config["steps"] and config["progress"]
        self.bar = None
        if self.on and sys.stdout.isatty():
            from rich.progress import Progress

            self.bar = Progress()
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.total)

    def row(self, row: dict[str, Any]) -> None:
        if self.bar is not None:
            words = f"loss {row['loss']:.4f}"
            self.bar.update(self.task, completed=row["step"], description=words)
        elif self.on and any(k.startswith("test/") for k in row):
            scores = [k for k in row if k.endswith(("train/loss", "test/loss", "/accuracy"))]
            told = "  ".join(f"{k} {row[k]:.4f}" for k in scores)
            print(f"step {row['step']}/{self.total}  {told}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _mirror(config: Config, made: settings.Components, kept: record.Record) -> Any:
    from sa import tracker

    told = tracker.describe(config, kept.meta)
    group = config["sweep"]["name"] or config.get("experiment")
    return made.tracker.open(kept.id, kept.folder, config, kept.meta, group=group, **told)


def _meta(config: Config) -> dict[str, Any]:
    import platform
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    names = ("torch", "numpy", "hydra-core", "sa-lab")
    kept = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK")
    slurm = {k: v for k, v in os.environ.items() if k in kept}
    return {
        **_commit(),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {k: version(k) for k in names},
        "seed": config["seed"],
        "argv": sys.argv[1:],
        "slurm": slurm,
    }


_COMMIT: dict[str, Any] = {}


def _commit() -> dict[str, Any]:
    """Commit and dirty flag of the code that runs; asked of git once a process."""
    if not _COMMIT:
        import subprocess

        def git(*words: str) -> str | None:
            here = Path(__file__).resolve().parent
            try:
                done = subprocess.run(
                    ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10
                )
            except (OSError, subprocess.SubprocessError):
                return None
            return done.stdout.strip() if done.returncode == 0 else None

        _COMMIT["commit"] = git("rev-parse", "HEAD")
        _COMMIT["dirty"] = bool(git("status", "--porcelain", "--untracked-files=no"))
    return _COMMIT


def _root(config: Config) -> Path:
    return Path(config["root"]).expanduser()


def _state(config: Config) -> str:
    return record.state(_root(config) / "runs" / record.run_id(config))


if __name__ == "__main__":
    # Hydra's plugins import this module by its name: one copy of it, so that errors are its own.
    from sa.run import main as _main

    _main()
