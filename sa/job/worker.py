"""The processes that the product starts itself: frozen runs, ranks."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sa.config import trust
from sa.config.build import build
from sa.config.error import UsageError
from sa.job.execute import RunFailed, execute
from sa.record import files, telling
from sa.record.config import read_config
from sa.record.identity import Config

POLL = 1.0
"""Seconds between two looks at a run that another process computes."""


def frozen(folders: list[Path]) -> None:
    """Run the configurations in some run folders, one after another, as a worker process."""
    failed, queue = [], list(folders)
    while queue:
        folder = queue.pop(0)
        config = read_config(folder)
        if not config:
            raise UsageError(f"--frozen {folder}: no frozen run there: it has no config.yaml")
        config["root"] = str(folder.resolve().parent.parent)
        with _logged(folder / "log.txt"):
            try:
                _note_other_packages(folder, config)
                execute(config, tell=True)
                print(f"run: {folder}", flush=True)
            except files.Busy:  # another process computes it: look again later
                queue.append(folder)
                time.sleep(POLL)
            except Exception as error:
                failed.append(folder.name)
                print(f"sa: {folder.name}: {error}", file=sys.stderr)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(folders)} runs failed: {', '.join(failed)}")


def _note_other_packages(folder: Path, config: Config) -> None:
    """Print a note for each foreign package that is not the one that the sweep was planned with."""
    here = trust.packages(config)
    for name, planned in (files.read_json(folder / trust.NOTE) or {}).items():
        if name in here and here[name] != planned:
            was, now = (f"{x['version']} in {x['path']}" for x in (planned, here[name]))
            telling.note(f"{name}: the sweep was planned with {was}; this process has {now}")


def rank(folder: Path, number: int, world: int, port: int) -> None:
    """Compute one process's share of a run's steps (`sa.training.ranks`); rank 0 ends it."""
    rank_0_answers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    for told in rank_0_answers:
        signal.signal(told, signal.SIG_IGN)
    from dataclasses import replace

    import torch

    from sa.objective.prepare import prepare
    from sa.training import ranks

    made = build(read_config(folder))
    settings = made.settings
    torch.set_num_threads(settings.threads)
    device = f"cuda:{number}" if settings.device == "cuda" else settings.device
    task = replace(made.task, numerics=replace(made.task.numerics, device=device))
    problem = prepare(task, settings.seed, init_seed=settings.init_seed)
    try:
        ranks.serve(problem, made.estimator, settings.steps, ranks.Ring(number, world, port))
    except RuntimeError as error:  # rank 0 has ended, or reports the reason itself
        raise RunFailed(f"rank {number}: {error}") from error


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Append everything that this process prints inside the ``with`` to a file, and only there.

    This includes the output of libraries. If the file cannot be written, the run goes on.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for lost in ("standard output", "standard error", "log.txt"):  # lost by the run before
        telling.LOST.pop(lost, None)
    kept = [os.dup(1), os.dup(2)]
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    except OSError as error:
        telling.lose("log.txt", error.strerror)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, place in zip(kept, (1, 2), strict=True):
            os.dup2(fd, place)
            os.close(fd)
