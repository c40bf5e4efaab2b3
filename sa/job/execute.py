"""Runs one configuration: starts it, resumes it from its checkpoint, or returns its result."""

import contextlib
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from sa.config import parents, trust
from sa.config.build import build
from sa.config.component import Components
from sa.config.data import reading
from sa.config.error import NoData, UsageError
from sa.config.settings import Settings
from sa.job import summary
from sa.job.signals import Signals
from sa.job.terminal import Watch
from sa.record import files as files_
from sa.record import identity, lock, provenance, run, snapshots
from sa.record.config import write_config
from sa.record.identity import Config


class RunFailed(Exception):
    """A run or a sweep failed; the results of finished runs are kept.

    >>> from sa.config.error import UsageError
    >>> issubclass(RunFailed, UsageError)  # the command itself was right
    False
    """


def root_of(config: Config) -> Path:
    """Return the folder of all runs and sweeps, which a configuration names."""
    return Path(config["root"]).expanduser()


def folder_of(config: Config) -> Path:
    """Return the folder of a configuration's run."""
    return root_of(config) / "runs" / identity.run_id(config)


def execute(
    config: Config, tell: bool = False, components: Components | None = None
) -> dict[str, Any]:
    """Compute one run, or continue it from its checkpoint; return its result.

    A run that is finished is not computed again.

    Args:
        config: the resolved configuration.
        tell: true shows the progress on the terminal.
        components: the components of the configuration, if they are built already.

    Raises:
        Busy: another process computes the run.
        RunFailed: the run failed, or a run that it starts from; the record says why.
        UsageError: the configuration cannot run on this machine.

    """
    root, key = root_of(config), identity.run_id(config)
    done = run.read_result(root, key)
    if done is not None:
        return done
    try:
        start, ends = _parents(config, tell)
    except (RunFailed, NoData) as error:
        write_config(root, config)
        skipped = isinstance(error, NoData)
        run.mark(root, key, str(error), "skipped" if skipped else "failed", **lock.me())
        raise
    meta = provenance.meta(config) | _packages(config)
    with Signals() as asked, run.Record.open(root, config, meta) as kept:
        try:
            made = components or build(config)
            with _ranks(made.settings, kept.folder) as ring:
                return _compute(config, made, kept, (start, ends), tell, ring, asked)
        except KeyboardInterrupt as error:
            why = str(error) or "interrupted from the keyboard"
            kept.fail(run.CANCELLED if kept.cancelled else why, state="interrupted")
            raise
        except files_.RecordError as error:
            kept.fail(str(error))
            raise RunFailed(str(error)) from error
        except UsageError as error:
            skipped = isinstance(error, NoData)
            kept.fail(str(error), "skipped" if skipped else "failed")
            raise
        except Exception as error:
            kept.fail(traceback.format_exc())
            raise RunFailed(f"run {key}: {type(error).__name__}: {error}") from error


def _packages(config: Config) -> dict[str, Any]:
    """Return the entry ``packages`` of a record: the foreign packages; {} if there are none."""
    found = trust.packages(config)
    return {"packages": found} if found else {}


def _ranks(settings: Settings, folder: Path) -> contextlib.AbstractContextManager:
    """Start the other processes of a run inside the context; None if it has only one."""
    world = settings.processes or 1
    if world == 1:
        return contextlib.nullcontext()
    from sa.training import ranks

    command = [sys.executable, "-m", "sa.run", "--rank", str(folder.resolve())]
    return ranks.lead(world, command, settings.device)


def _compute(
    config: Config,
    made: Components,
    kept: run.Record,
    given: tuple[Path | None, list[Path]],
    tell: bool,
    ring: Any,
    asked: "Signals",
) -> dict[str, Any]:
    """Compute what a run lacks, and return its result."""
    from sa.training import loop, ranks

    settings, steps, (start, ends) = made.settings, made.settings.steps, given
    problem = _problem(made, ends)
    progress, seconds = _progress(problem, settings, kept, start)
    if kept.checkpoint is not None and tell:
        print(f"going on from step {progress.step} of {steps}", flush=True)
    if ring is not None:
        problem.ranks = ring
        ranks.begin(problem)
    problem.partial = partial = _Partial(kept, settings.checkpoint_seconds, progress.step)
    if start and not steps:  # a probe of a finished training sees the snapshots of its parent
        problem.evaluation.kept = lambda: _path(start.parent)
    else:
        problem.evaluation.kept = lambda: _path(kept.folder, partial.step)
    written = kept.rows()
    latest: dict[str, Any] = {k: v for row in written for k, v in row.items()}
    mirror = _mirror(config, made, kept)
    for row in written[-_HELD_BACK:]:
        mirror.log(row)
    rows = loop.loop(
        problem, made.estimator, made.optimizer, made.analyses,
        steps=steps, progress=progress,
        evaluate_every=settings.evaluate_every, analyse_every=settings.analyse_every,
        recipe=made.recipe,
    )  # fmt: skip
    watch = Watch(steps, tell and settings.progress)
    save = _Saving(kept, problem, settings, seconds)
    try:
        for row, progress in rows:
            kept.append(row)
            partial.begin(progress.step + 1)
            mirror.log(row)
            # after a divergence only the numbers of its own row are the result
            latest = dict(row) if "diverged" in row else latest | row
            watch.row(row)
            save.after(row, progress, asked)
    except BaseException:
        mirror.abort()
        raise
    finally:
        watch.close()
    if steps:  # a finished training can be a parent
        save.checkpoint(progress)
    result = _result(latest, made, problem) | {"seconds": save.seconds}
    result = kept.finish(result) or result
    mirror.finish(result)
    return result


def _problem(made: Components, ends: list[Path]) -> Any:
    """Return the problem of a run; ``ends`` are checkpoints of trainings that it compares."""
    import torch

    from sa.objective.prepare import prepare
    from sa.training import loop, replicas

    settings = made.settings
    torch.set_num_threads(settings.threads)
    with reading():
        if settings.replicas is None:
            problem = prepare(made.task, settings.seed, init_seed=settings.init_seed)
        else:
            problem = replicas.stack(made.task, settings.seed, settings.replicas)
    reached = [loop.start(problem, _load(end, _CHECKPOINT)) for end in ends]
    problem.evaluation.ends = [(p.params, p.buffers) for p in reached]
    return problem


def _progress(
    problem: Any, settings: Settings, kept: run.Record, start: Path | None
) -> tuple[Any, float]:
    """Return the state from which a run starts or continues, and the seconds computed so far."""
    from sa.training import loop

    try:
        parent = _load(start, _CHECKPOINT) if start else None
        progress = loop.start(problem, parent, averaged=settings.init_average)
    except ValueError as error:
        again = "take the model it was trained with, or delete its folder to train it again"
        raise ValueError(f"init: {start}: {error}; {again}") from error
    if kept.checkpoint is None:
        return progress, 0.0
    saved = _load(kept.checkpoint, _CHECKPOINT)
    seconds = saved.pop("seconds")
    progress = loop.Progress(**saved)
    kept.rewind(progress.step - 1)
    return progress, seconds


def _result(latest: dict[str, Any], made: Components, problem: Any) -> dict[str, Any]:
    """Return the result of a run from its latest numbers."""
    from sa.params import size

    return {
        "value": latest.pop("loss"),
        **latest,
        "status": "diverged" if "diverged" in latest else "done",
        "target": made.estimator.target,
        "parameters": size(problem.params),
        "rows": problem.data.train.rows,
        "quantized": summary.quantized(problem.structure.quantized),
    }


class _Saving:
    """Saves checkpoints and snapshots while a run computes."""

    def __init__(self, kept: run.Record, problem: Any, settings: Settings, seconds: float):
        self._kept, self._settings, self._before = kept, settings, seconds
        self._every = settings.snapshot_every if settings.steps else None
        self._redundant = problem.evaluation.redundant(problem.params) if self._every else []
        self._began = self._saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The seconds that the run has computed so far, also before it was resumed."""
        return self._before + time.perf_counter() - self._began

    def after(self, row: dict[str, Any], progress: Any, asked: "Signals") -> None:
        """Save the snapshot and the checkpoint that are due after a row."""
        if self._every and (row["step"] % self._every == 0 or "stopped" in row):
            _snapshot(self._kept, progress, self._redundant)
        due = time.perf_counter() - self._saved >= self._settings.checkpoint_seconds
        if self._settings.steps and (due or asked.to_save):
            self.checkpoint(progress)
            self._saved, asked.to_save = time.perf_counter(), False

    def checkpoint(self, progress: Any) -> None:
        """Save a checkpoint."""
        import torch

        whole = progress.pack() | {"seconds": self.seconds}
        self._kept.save(lambda path: torch.save(whole, path))


_HELD_BACK = 1000
"""The number of rows before its checkpoint that a resumed run sends to W&B again.

W&B writes its file in blocks of 32 KiB, so a kill loses up to 1000 rows of 33 bytes.
"""

_CHECKPOINT = {"step", "params", "buffers", "optimizer", "estimator"}


def _snapshot(kept: run.Record, progress: Any, redundant: list[str]) -> None:
    """Save parameters and buffers as the snapshot of a step (see `sa.record.snapshots`)."""
    import numpy as np

    arrays: dict[str, Any] = {"redundant": np.array(redundant, dtype=str)}
    for kind, tensors in (("params", progress.params), ("buffers", progress.buffers)):
        arrays |= {f"{kind}/{k}": v.detach().cpu().numpy() for k, v in tensors.items()}
    name = snapshots.name(progress.step)
    kept.save(lambda path: np.savez(path, **arrays), name)


def _path(folder: Path, before: int | None = None) -> list[dict[str, Any]]:
    """Return the snapshots of a training: those before a step, or all but the last."""
    import numpy as np
    import torch

    files = list(snapshots.snapshots(folder, before).values())
    points = []
    for file in files if before is not None else files[:-1]:
        with np.load(file) as kept:
            idle = set(kept["redundant"].tolist())
            named = {k.partition("/")[2]: k for k in kept.files if k.startswith("params/")}
            points.append({k: torch.from_numpy(kept[v]) for k, v in named.items() if k not in idle})
    return points


class _Partial:
    """Keeps unfinished computations of one row in the file ``partial.pt``.

    A training resumes from its checkpoint, which may be older than this file. So the file is kept
    until the training comes to its step again, and is deleted when the row of that step is written.

    Args:
        kept: the record of the run.
        seconds: least time between two writes.
        step: the step that is computed next.

    """

    def __init__(self, kept: run.Record, seconds: float, step: int):
        self.path, self.save, self.seconds = kept.folder / "partial.pt", kept.save, seconds
        self.saved: Config = _load(self.path, {"step", "parts"}) if self.path.exists() else {}
        self.begin(step)

    def begin(self, step: int) -> None:
        """Drop what is kept of steps before ``step``, because their rows are written."""
        if self.saved and self.saved["step"] < step:
            self.path.unlink(missing_ok=True)
            self.saved = {}
        same = self.saved.get("step") == step
        self.parts: dict[int, Any] = self.saved["parts"] if same else {}
        self.step, self.number, self.saved_at = step, -1, time.monotonic()

    def take(self) -> tuple[int, dict[str, Any]]:
        """Return the number of the next computation, and its state; {} if none is kept."""
        self.number += 1
        return self.number, self.parts.get(self.number, {})

    def keep(self, number: int, state: Config) -> None:
        """Write the state of a computation if the last write is ``seconds`` ago."""
        if time.monotonic() - self.saved_at >= self.seconds:
            import torch

            self.parts[number] = state
            self.saved = {"step": self.step, "parts": self.parts}
            self.save(lambda path: torch.save(self.saved, path), self.path.name)
            self.saved_at = time.monotonic()


def _load(path: Path, needs: set[str]) -> dict[str, Any]:
    """Return a checkpoint; RecordError if it cannot be read, or lacks an entry of ``needs``."""
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        assert needs <= set(saved)
        return saved
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise files_.RecordError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}): it is damaged or of "
            "another version. Restore it from a copy, or delete it to start this run from step 0"
        ) from error


def _parents(config: Config, tell: bool) -> tuple[Path | None, list[Path]]:
    """Return the checkpoint of the parent, None without one, and those of ``ends``."""
    made = parents.parent(config)
    start = _ended(config, made, "the parent run", tell) if made else None
    ends = [_ended(config, end, "a training of ends", tell) for end in parents.ends(config)]
    return start, ends


def _ended(config: Config, made: Config, what: str, tell: bool) -> Path:
    """Return the checkpoint of another run, which is computed first if it is not finished.

    If another process computes that run, this waits for it.
    """
    folder = root_of(config) / "runs" / identity.run_id(made)
    while True:
        try:
            if run.read_result(root_of(config), folder.name) is None and tell:
                print(f"{what} comes first: {folder}", flush=True)
            result = execute(made, tell)
            break
        except files_.Busy:
            time.sleep(1.0)
        except NoData:
            raise
        except (RunFailed, UsageError) as error:
            raise RunFailed(f"{what} {folder.name} failed: {error}") from error
    if result["status"] == "diverged":
        raise RunFailed(f"{what} {folder.name} diverged at step {result['step']}")
    return folder / "checkpoint.pt"


def _mirror(config: Config, made: Components, kept: run.Record) -> Any:
    """Return the mirror of a run, opened."""
    from sa.tracking import wandb

    told = wandb.describe(config, kept.meta)
    group = made.settings.sweep.name or made.settings.experiment
    return made.tracker.open(kept.id, kept.folder, config, kept.meta, group=group, **told)
