"""The composition root, ``python -m sa.run``: from words on a command line to a recorded run."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from sa.config.argv import Words, read, settings_first
from sa.config.catalogue import CONF
from sa.config.completion import BASH, candidates
from sa.config.error import UsageError
from sa.config.flags import checked, help_asked
from sa.config.handbook import answer, page
from sa.record import telling


def main() -> None:
    """Answer or run, and end with 0 (done), 1 (a run failed) or 2 (nothing was started)."""
    telling.patient(hangup=True)
    argv = sys.argv[1:]
    try:
        text = _answered(argv)
    except UsageError as error:
        _exit(2, str(error))
    if text is None:
        _work(argv)
    else:
        _tell(text)


def _answered(argv: list[str]) -> str | None:
    """Return what is printed where the words only ask for something; None where they run."""
    if argv[:2] == ["--completion", "words"]:  # asked for by the script itself
        return "\n".join(candidates(" ".join(argv[2:3]), argv[3:]))
    if "--completion" in argv:
        if argv != ["--completion", "bash"]:
            raise UsageError('--completion: expected bash; type eval "$(sa --completion bash)"')
        return BASH
    if argv == ["--catalogue"]:
        return page()
    asked = help_asked(argv)
    return None if asked is None else answer(asked)


def _work(argv: list[str]) -> None:
    """Run what is typed; exit with 1 or 2 where it fails. Imports all that help does without."""
    from sa.config.explain import explain
    from sa.job.execute import RunFailed
    from sa.job.worker import frozen, rank
    from sa.launch.plan import LaunchError
    from sa.record import files

    # Hydra prints and swallows errors unless told otherwise; here they get their own messages.
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if argv[:1] == ["--frozen"]:
            if not argv[1:]:
                raise UsageError("--frozen: expected the folders of frozen runs, runs/ID ...")
            frozen([Path(a) for a in argv[1:]])
        elif argv[:1] == ["--rank"]:
            rank(Path(argv[1]), *map(int, argv[2:]))
        else:
            argv = checked(argv)
            _compose(read(argv))
    except KeyboardInterrupt:
        _exit(130, "interrupted; repeat the command to go on from the last checkpoint")
    except (UsageError, files.Unwritable, LaunchError) as error:
        _exit(2, str(error))
    except (RunFailed, files.RecordError) as error:
        _exit(1, str(error))
    except Exception as error:
        told = explain(error, argv)
        if told is None or full:
            traceback.print_exc()
            _exit(1, "an unexpected error, shown above")
        _exit(2, told)
    finally:
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        if telling.output_lost():
            lost = f"standard output could not be written ({telling.output_lost()})"
            telling.note(f"{lost}; what was computed is in its record")


def _tell(text: str) -> None:
    """Print what was asked for, and nothing else was: here a failure to tell is one."""
    print(text, flush=True)
    if telling.output_lost():
        _exit(1, f"standard output could not be written ({telling.output_lost()})")


def _exit(code: int, message: str | None) -> NoReturn:
    print(f"sa: {message}", file=sys.stderr)
    sys.exit(code)


class Command:
    """What Hydra calls with a composed configuration; its sweeper reads the words from it.

    Args:
        words: the words of the command line.

    """

    def __init__(self, words: Words):
        self.words = words
        self.failed: list[Exception] = []

    def __call__(self, config: Any) -> float:
        """Run one configuration, and return its objective; keep an error of a single run."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from sa.launch import single

        sys.argv[1:] = self.words.typed  # for the record
        # Relative folders are of where they were typed; Hydra can be told to leave it.
        os.chdir(HydraConfig.get().runtime.cwd)
        try:
            plain = OmegaConf.to_container(config, resolve=True)
            assert isinstance(plain, dict)
            plain["experiment"] = HydraConfig.get().runtime.choices.get("experiment")
            return single.single({str(k): v for k, v in plain.items()}, self.words.typed)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.RUN:  # another sweeper's or launcher's point
                raise
            self.failed.append(error)  # past Hydra, which would print words of its own
            return float("nan")


def _compose(words: Words) -> None:
    """Let Hydra compose what was typed, and run it."""
    import hydra

    command = Command(words)
    sys.argv[1:] = settings_first(words.hydra)
    base = {"version_base": "1.3"} if hydra.__version__ < "1.4" else {}
    hydra.main(config_path=str(CONF), config_name="config", **base)(command)()
    if command.failed:
        raise command.failed[0]


if __name__ == "__main__":
    # Hydra's plugins import this module by its name: one copy of it, so that errors are its own.
    from sa.run import main as _main

    _main()
