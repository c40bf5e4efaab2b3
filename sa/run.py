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
from sa import launch, record

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
    summarise(config, components, result)
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
    problem = replace(made.task, device=device).prepare(config["seed"])
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
        start = _parent(config, tell)
    except (RunFailed, settings.NoData) as error:
        record.freeze(root, config)
        skipped = isinstance(error, settings.NoData)
        record.mark(root, key, str(error), "skipped" if skipped else "failed")
        raise
    with record.Record.open(root, config, _meta(config)) as kept:
        try:
            made = components or settings.build(config)
            with _ranks(config, kept.folder) as ring:
                return _compute(config, made, kept, start, tell, ring)
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
    start: Path | None,
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
            problem = made.task.prepare(config["seed"])
        else:
            problem = replicas.prepare(made.task, config["seed"], many)
    except MissingData as error:
        raise settings.NoData(f"dataset: {error}") from error
    parent = _load(start, _CHECKPOINT) if start else None
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

    def save(progress: train.Progress) -> None:
        spent = seconds + time.perf_counter() - began
        kept.save(lambda path: torch.save(progress.pack() | {"seconds": spent}, path))

    try:
        with _Signals() as told:
            for row, progress in rows:
                kept.append(row)
                partial.begin(progress.step + 1)
                mirror.log(row)
                latest |= row
                watch.row(row)
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
        "quantized": _quantized(problem.structure.quantized),
        "seconds": seconds + time.perf_counter() - began,
    }
    result = kept.finish(result) or result
    mirror.finish(result)
    return result


_CHECKPOINT = {"step", "params", "buffers", "optimizer", "estimator"}


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


def _parent(config: Config, tell: bool) -> Path | None:
    """The checkpoint of the parent run, computed first if nobody has; waits where somebody does."""
    made = settings.parent(config)
    if made is None:
        return None
    folder = _root(config) / "runs" / record.run_id(made)
    while True:
        try:
            if record.read_result(_root(config), folder.name) is None and tell:
                print(f"the parent run comes first: {folder}", flush=True)
            result = execute(made, tell)
            break
        except record.Busy:
            time.sleep(1.0)
        except settings.NoData:
            raise
        except (RunFailed, settings.UsageError) as error:
            raise RunFailed(f"the parent run {folder.name} failed: {error}") from error
    if result["status"] == "diverged":
        raise RunFailed(f"the parent run {folder.name} diverged at step {result['step']}")
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


def summarise(config: Config, made: settings.Components, result: dict[str, Any]) -> None:
    """The result in words a person reads, on the terminal."""
    own = [f"{k}={v}" for k, v in config["estimator"].items() if k != "_target_" and v is not None]
    name = str(config["estimator"]["_target_"]).rsplit(".", 2)[1]
    rows = [
        ("estimator", f"{name}  {'  '.join(own)}"),
        ("estimates", f"target: {result['target']}, {result['parameters']} parameters"),
        ("quantized", result.get("quantized", "not told")),
        *_told(result, _reference(config)),
    ]
    for label, words in rows:
        print(f"{label:<14} {words}")


def _quantized(layers: dict[str, str]) -> str:
    """Which layers are quantized and how, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for name, how in layers.items():
        kinds.setdefault(how, []).append(name)
    return "; ".join(f"{', '.join(names)}: {how}" for how, names in kinds.items()) or "nothing"


def _reference(config: Config) -> str:
    """The class of the first reference that gradients are aligned with."""
    node = (config.get("analysis") or {}).get("alignment") or {}
    first: dict[str, Any] = next(iter(node.get("references", {}).values()), {})
    return str(first.get("_target_", "CDG")).rpartition(".")[2]


def _told(result: dict[str, Any], who: str) -> list[tuple[str, str]]:
    out = []
    if result["status"] == "diverged":
        out.append(("DIVERGED", f"at step {result['step']}; first bad: {result['diverged']}"))
    value, norm = result["value"], result["grad_norm"]
    out += [("value", _number(value)), ("gradient norm", _number(norm))]
    if "alignment/cosine" in result:
        law = ""
        if "cosine_expected" in result:
            law = f"; a linear loss would give {result['cosine_expected']:.3f}"
            law = law if result["cosine_expected"] else "; chance gives 0 +- "
            law += "" if result["cosine_expected"] else f"{result['parameters'] ** -0.5:.3f}"
        limit = result.get("alignment/ceiling")
        top = f"; two batches' {who} agree to {limit:.3f}" if limit is not None else ""
        out.append((f"cosine to {who}", f"{_number(result['alignment/cosine'])}{law}{top}"))
        mine, other = result["target"], "box" if who == "CDG" else "its own"
        right = "1 is right" if mine == other else f"another target: {who}'s is {other}, this one's"
        right += "" if mine == other else f" {mine}"
        out.append(("scale", f"{_number(result['alignment/scale'])} of {who}'s ({right})"))
    out += _replicated(result)
    out += _curved(result)
    if "descent/best" in result:
        share = f" ({result['descent/best'] / value:.1%} of the loss)" if value else ""
        edge = "; ON THE GRID'S EDGE" if result.get("descent/edge") else ""
        ratio = result.get("descent/ratio")
        best = f"{_number(result['descent/best'])}{share} at lr {result['descent/best_lr']:.3g}"
        out.append(("best decrease", f"{best}{edge}"))
        out.append(("  held out", _number(result.get("descent/best_heldout"))))
        if ratio is not None:
            out.append(("  against CDG", f"x {ratio:.2f}"))
        if "descent/null_best" in result:
            out.append(("  null", f"{_number(result['descent/null_best'])} (random directions)"))
    if result.get("stopped", "steps") != "steps":
        out.append(("stopped", f"at step {result['step']}: {result['stopped']}"))
    for split in ("train", "test", "ema/test", "swa/test"):
        if f"{split}/loss" in result:
            hits = result.get(f"{split}/accuracy")
            told = f"loss {_number(result[f'{split}/loss'])}"
            told += f", accuracy {hits:.2%}" if hits is not None else ""
            wrong = result.get(f"{split}/fitted")
            told += f", {wrong:.2%} of the wrong labels fitted" if wrong is not None else ""
            if f"{split}/accuracy/low" in result:  # of replicas
                ends = [f"{result[f'{split}/accuracy/{x}']:.2%}" for x in ("low", "high")]
                told += f" on average, {' to '.join(ends)} of nine in ten"
            out.append((split, told))
    if "keep" in result:
        each = [f"{k.removeprefix('keep/')} {v:.1%}" for k, v in result.items() if k[:5] == "keep/"]
        out.append(("channels kept", f"{result['keep']:.1%} on average: {', '.join(each)}"))
    ways = [f"{k.removeprefix('path/')} {v}" for k, v in result.items() if k.startswith("path/")]
    told = ": ".join(x for x in (f"{result.get('path')} path", ", ".join(ways)) if x)
    path = f" ({told})" if "path" in result else ""
    out.append(("evals", f"{result['evals']:g} forward-equivalents{path}"))
    out.append(("seconds", f"{result['seconds']:.2f}"))
    return out


def _replicated(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What replicates, equal budgets, a short training and the calibration say."""
    got = {k: _number(v) for k, v in result.items() if isinstance(v, int | float) or v is None}
    out = []
    if result.get("flat", 0.0) >= 0.5:
        told = "losses do not differ: rounding, or a step too short to flip anything"
        out.append(("flat", f"{result['flat']:.0%} of the pairs' {told}"))
    if "bias_variance/bias2" in got:
        across = " (of another target)" if result["bias_variance/across"] else ""
        words = "bias^2 {}{}, variance {} of |g*|^2".format(
            got["bias_variance/bias2"], across, got["bias_variance/variance"]
        )
        out.append(("replicates", f"{words}; reliability {got['bias_variance/reliability']}"))
    if "efficiency/at_evals/cosine" in got:
        words = "{} calls: cosine {}, decrease {} of the loss".format(
            *(got[f"efficiency/at_evals/{k}"] for k in ("calls", "cosine", "decrease"))
        )
        over = "; ONE CALL IS ABOVE THE BUDGET" if result["efficiency/over"] else ""
        out.append(("equal evals", words + over))
    if "training/ratio" in got:
        words = "loss x {} in {} steps at lr {}".format(
            *(got[f"training/{k}"] for k in ("ratio", "steps", "lr"))
        )
        over = "; ONE STEP IS ABOVE THE BUDGET" if result["training/over"] else ""
        out.append(("training", words + over))
    if "cost/macs" in got:
        words = "{:.4g} parameters of {:.3g} bits, {:.4g} MACs, {:.4g} bit operations a row".format(
            result["cost/parameters"],
            result["cost/bits"] / max(1.0, result["cost/parameters"]),
            result["cost/macs"],
            result["cost/bops"],
        )
        out.append(("cost", words))
    if "quant_error/worst" in result:
        worst = result["quant_error/worst"]
        words = "{}: {} dB, {:.0%} of the squared error by clipping".format(
            worst, got["quant_error/least"], result[f"quant_error/{worst}/clipping"]
        )
        out.append(("worst SQNR", words))
    if "sensitivity_bits/ilp/loss" in got:
        taus = ", ".join(
            f"{k} {got[f'sensitivity_bits/kendall/{k}']}"
            for k in ("gradient", "curvature", "taylor", "error")
            if f"sensitivity_bits/kendall/{k}" in got
        )
        out.append(("sensitivity", f"Kendall tau to the measured rise: {taus}"))
        for how in ("even", "greedy", "ilp", "anneal"):
            if f"sensitivity_bits/{how}/loss" in got:
                bits = "-".join(f"{b:g}" for b in result[f"sensitivity_bits/{how}/bits"])
                mean = got[f"sensitivity_bits/{how}/spent"]
                words = f"loss {got[f'sensitivity_bits/{how}/loss']} at {mean} bits: {bits}"
                out.append((f"  {how}", words))
    if "smoothing/sigma" in got:
        best = f"eps {got['smoothing/epsilon']}, sigma {got['smoothing/sigma']}"
        out.append(("descend best", best))
    return out


def _curved(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What the curvature is, and the table of blocks."""
    out = []
    if "curvature/lambda_1" in result:
        told = f"lambda_1 {_number(result['curvature/lambda_1'])}"
        if "curvature/edge" in result:
            told += f", 2/lr {_number(result['curvature/edge'])}"
        out.append(("curvature", f"{told}, gap {_number(result['curvature/gap'])}"))
    blocks = [k.split("/")[1] for k in result if re.fullmatch(r"blocks/[^/]+/shapes", k)]
    for block in blocks:
        got = {k: result.get(f"blocks/{block}/{k}") for k in ("parameters", "part", "share")}
        told = f"{got['parameters']:g} parameters ({result[f'blocks/{block}/shapes']})"
        told += f", {_number(got['part'])} of the gradient"
        if got["share"] is not None:
            told += f", of that {_number(got['share'])} in its top space"
        out.append((block, told))
    if "blocks/held_least" in result:
        ends = _number(result["blocks/held_least"]), _number(max(result["blocks/held"]))
        out.append(("blocks hold", "{} to {} of each top direction of the whole".format(*ends)))
    return out


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    # Hydra's plugins import this module by its name: one copy of it, so that errors are its own.
    from sa.run import main as _main

    _main()
