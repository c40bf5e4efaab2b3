"""The command ``python -m sa.run``: from the words of a command line to a recorded run."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sa.config import search, trust
from sa.config.argv import CommandLine, read, settings_first
from sa.config.completion import BASH, candidates
from sa.config.error import UsageError
from sa.config.flags import check_words, help_words
from sa.config.handbook import catalogue_page, help_page
from sa.config.search import CONF
from sa.record import telling

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    """Print help or run, and exit with 0 (done), 1 (a run failed) or 2 (nothing was started)."""
    telling.patient(hangup=True)
    try:
        argv = trust.from_words(sys.argv[1:])
        if argv[:1] == ["check"]:
            from sa.testing.command import check  # torch

            sys.exit(check(argv[1:]))
        search.use(argv)
        text = _text_to_print(argv)
    except UsageError as error:
        _exit(2, str(error))
    if text is None:
        _run(argv)
    else:
        _print(text)


def _text_to_print(argv: list[str]) -> str | None:
    """Return the text that a command of help or completion prints; None for a command that runs."""
    if argv[:2] == ["--completion", "words"]:  # the script of bash types this
        return "\n".join(candidates(" ".join(argv[2:3]), argv[3:]))
    if "--completion" in argv:
        if argv != ["--completion", "bash"]:
            raise UsageError(
                '--completion: expected bash and nothing else; type eval "$(sa --completion bash)"'
            )
        return BASH
    if search.others(argv) == ["--catalogue"]:
        return catalogue_page()
    words = help_words(argv)
    return None if words is None else help_page(words)


def _run(argv: list[str]) -> None:
    """Run a command; exit with 1 or 2 if it fails. Imports what help does not need."""
    from sa.config.explain import explain
    from sa.job.execute import RunFailed
    from sa.job.worker import frozen, rank
    from sa.launch.plan import LaunchError
    from sa.record import files

    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if argv[:1] == ["--frozen"]:
            if not argv[1:]:
                raise UsageError("--frozen: expected folders of frozen runs, --frozen runs/ID ...")
            frozen([Path(a) for a in argv[1:]])
        elif argv[:1] == ["--rank"]:
            rank(Path(argv[1]), *map(int, argv[2:]))
        else:
            argv = check_words(argv)
            with _errors_raised():
                _compose(read(argv))
    except KeyboardInterrupt:
        _exit(130, "interrupted; repeat the command to go on from the last checkpoint")
    except (UsageError, files.Unwritable, LaunchError) as error:
        _exit(2, str(error))
    except (RunFailed, files.RecordError) as error:
        _exit(1, str(error))
    except Exception as error:
        message = explain(error, argv)
        if message is None or full:
            traceback.print_exc()
            _exit(1, "an unexpected error, shown above")
        _exit(2, message)
    finally:
        if telling.output_lost():
            lost = f"standard output could not be written ({telling.output_lost()})"
            telling.note(f"{lost}; what was computed is in its record")


def _print(text: str) -> None:
    """Print a text; exit with 1 if it cannot be written, since the command does nothing else."""
    print(text, flush=True)
    if telling.output_lost():
        _exit(1, f"standard output could not be written ({telling.output_lost()})")


def _exit(code: int, message: str | None) -> NoReturn:
    print(f"sa: {message}", file=sys.stderr)
    sys.exit(code)


class Command:
    """The function that Hydra calls with a composed configuration.

    Args:
        command_line: the words of the command line; the sweeper reads them too.

    Attributes:
        failed: the error of a single run.
        swept: the folder of the sweep that ran, set by the sweeper.

    """

    def __init__(self, command_line: CommandLine):
        self.command_line = command_line
        self.failed: list[Exception] = []
        self.swept: Path | None = None

    def __call__(self, config: Any) -> float:
        """Run one configuration and return its metric; keep the error of a single run."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from sa.launch import single

        sys.argv[1:] = self.command_line.typed  # for the record
        # Relative folders belong to the folder of the command; Hydra may have changed to another.
        os.chdir(HydraConfig.get().runtime.cwd)
        try:
            plain = OmegaConf.to_container(config, resolve=True)
            assert isinstance(plain, dict)
            plain["experiment"] = HydraConfig.get().runtime.choices.get("experiment")
            return single.single({str(k): v for k, v in plain.items()}, self.command_line.typed)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.RUN:  # another sweeper's or launcher's point
                raise
            self.failed.append(error)  # Hydra would print it in words of its own
            return float("nan")


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Let Hydra raise its errors, inside a ``with``; by default it prints them and ends."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _compose(command_line: CommandLine) -> Command:
    """Compose the configurations with Hydra, and run them; return the command that ran."""
    import hydra

    from sa.config.guard import guarded

    command = Command(command_line)
    sys.argv[1:] = settings_first(command_line.for_hydra)
    base = {"version_base": "1.3"} if hydra.__version__ < "1.4" else {}
    with guarded():
        hydra.main(config_path=str(CONF), config_name="config", **base)(command)()
    if command.failed:
        raise command.failed[0]
    return command


def multirun(words: Sequence[str], root: str | Path | None = None) -> "pd.DataFrame":
    """Run a sweep in this process, as ``python -m sa.run -m WORDS`` does, and return its table.

    A row is a run, as in `sa.read`. Runs that are done are not computed again. The plan and the
    progress are printed.

    >>> import contextlib, io, tempfile
    >>> words = "estimator=cdg,nes dim=4 dataset.n=64 tracker=none analysis=[] figure=[]".split()
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     table = multirun(words, root=tempfile.mkdtemp())
    >>> list(table["target"]), set(table["status"])
    (['box', 'gaussian'], {'done'})

    Args:
        words: what is typed behind ``-m``, a word each; values of a sweep stand between commas.
        root: the folder of ``runs/`` and ``sweeps/``; None for SA_ROOT, else the current folder.

    Raises:
        RunFailed: a run failed; the others are done, and `sa.read` gives the table of all.
        UsageError: the words do not make a sweep.

    """
    if isinstance(words, str):
        raise UsageError(f"words={words!r}: expected a list of words; add .split()")
    if root is not None and any(w.startswith("root=") for w in words):
        raise UsageError("root: it is given twice, as an argument and as a word; give it once")
    argv = ["-m", *(w for w in words if w not in ("-m", "--multirun"))]
    if root is not None:
        quoted = str(root).replace("'", r"\'")
        argv.append(f"root='{quoted}'")
    command = _inside(argv)
    if command.swept is None:
        raise UsageError(
            f"{' '.join(argv)}: no sweep ran, so there is no table; leave out sweep.dry_run, "
            "hydra/sweeper and options such as --cfg"
        )
    from sa.sweep.table import read as table

    return table(command.swept.name, command.swept.parents[1])


def _inside(argv: list[str]) -> Command:
    """Run a command line inside another program, which keeps its own words and its own Hydra."""
    from hydra.core.global_hydra import GlobalHydra

    from sa.config.explain import explain

    argv = trust.from_words(argv)
    search.use(argv)
    hydra, before = GlobalHydra.instance(), sys.argv
    outer, hydra.hydra = hydra.hydra, None
    sys.argv = [before[0]]
    try:
        with _errors_raised():
            return _compose(read(check_words(argv)))
    except UsageError:
        raise
    except Exception as error:
        message = explain(error, argv)
        if message is None:
            raise
        raise UsageError(message) from error
    finally:
        hydra.hydra, sys.argv = outer, before


if __name__ == "__main__":
    # Hydra's plugins import this module by its name. So run that copy, not a second one.
    from sa.run import main as _main

    _main()
