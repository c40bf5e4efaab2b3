"""The composition root, ``python -m sa.run``: from words on a command line to a recorded run."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa.config.argv import TYPED, hold, settings_first
from sa.config.build import check_machine, ignored, validate
from sa.config.catalogue import CONF
from sa.config.error import UsageError
from sa.config.explain import explain
from sa.config.flags import checked, help_asked, without_effect
from sa.config.handbook import answer, page
from sa.config.parents import resolve
from sa.job import summary
from sa.job.execute import RunFailed, execute, folder_of, root_of
from sa.job.worker import frozen, rank
from sa.launch.driver import report
from sa.launch.plan import LaunchError
from sa.record import files, identity, run, telling
from sa.record.identity import Config


def main() -> None:
    """Parse, run, and end with 0 (done), 1 (a run failed) or 2 (nothing was started)."""
    telling.patient(hangup=True)
    argv = sys.argv[1:]
    # Hydra prints and swallows errors unless told otherwise; here they get their own messages.
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        asked = help_asked(argv)
        if asked is not None:
            _tell(answer(asked))
        elif argv == ["--catalogue"]:
            _tell(page())
        elif argv[:1] == ["--frozen"]:
            if not argv[1:]:
                raise UsageError("--frozen: expected the folders of frozen runs, runs/ID ...")
            frozen([Path(a) for a in argv[1:]])
        elif argv[:1] == ["--rank"]:
            rank(Path(argv[1]), *map(int, argv[2:]))
        else:
            argv = checked(argv)
            sys.argv[1:] = settings_first(hold(argv))
            _compose()
    except KeyboardInterrupt:
        _exit(130, "interrupted; repeat the command to go on from the last checkpoint")
    except UsageError as error:
        _exit(2, str(error))
    except files.Unwritable as error:
        _exit(2, str(error))
    except LaunchError as error:
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
        # Relative folders are of where they were typed; Hydra can be told to leave it.
        os.chdir(HydraConfig.get().runtime.cwd)
        try:
            plain = OmegaConf.to_container(config, resolve=True)
            assert isinstance(plain, dict)
            plain["experiment"] = HydraConfig.get().runtime.choices.get("experiment")
            return one({str(k): v for k, v in plain.items()})
        except Exception as error:
            if HydraConfig.get().mode != RunMode.RUN:  # another sweeper's or launcher's point
                raise
            failed.append(error)  # past Hydra, which would print words of its own
            return float("nan")

    base = {"version_base": "1.3"} if hydra.__version__ < "1.4" else {}
    hydra.main(config_path=str(CONF), config_name="config", **base)(single)()
    if failed:
        raise failed[0]


def one(config: Config) -> float:
    """Validate, run (or find the finished result), tell, and return the objective."""
    telling.patient()  # a launcher of Hydra's own may call this in a process of its own
    sys.argv[1:] = TYPED or sys.argv[1:]  # as typed, for the record
    config = resolve(config)
    components = validate(config)
    meant = [*_meant(config), *ignored([(config, components)])]
    if config["sweep"]["dry_run"]:
        print(f"valid; run id {identity.run_id(config)}: {run.state(folder_of(config))}")
        try:
            check_machine(config, components)
        except UsageError as error:
            meant.append(str(error))
        for note in meant:
            telling.note(note)
        return float("nan")
    check_machine(config, components)
    result = execute(config, tell=True, components=components)
    folder = folder_of(config)
    summary.tell(config, result, components.analyses)
    if config["figure"] and config["steps"]:
        report(root_of(config), folder.name)
    print(f"run: {folder}", flush=True)
    for note in [*meant, *_of_result(config, result)]:
        telling.note(note)
    run.say_untold(folder / "status.json")
    value = result.get(config.get("objective") or "value", result.get("value"))
    return float(value) if isinstance(value, int | float) else float("nan")


def _meant(config: Config) -> Iterator[str]:
    """Yield what the person who typed the command may have meant otherwise."""
    study = config.get("experiment")
    varied = (config.get("sizes") or {}).get("quick")
    if varied:
        yield (
            f"experiment={study} sweeps {', '.join(varied)}; this was one point. The study: "
            f"python -m sa.run -m experiment={study}"
        )
    elif config["figure"] and not config["steps"]:
        yield "figures are drawn of trainings and of sweeps (-m), not of a single probe"
    idle = without_effect(TYPED)
    if idle and not {"-m", "--multirun"} & set(TYPED):  # else: one point of another sweeper's
        yield f"{' '.join(idle)}: has no effect on one run; write -m to sweep"


def _of_result(config: Config, result: dict[str, Any]) -> Iterator[str]:
    """Yield what a run has to say beside its numbers."""
    for name, told in result.items():
        if told and re.fullmatch(r"(.+/)?note", name):
            yield f"{name.partition('/')[0]}: {told}" if "/" in name else f"estimator: {told}"
    key = config.get("objective")
    if key not in (None, "value", "descent/best") and key not in result:
        there = ", ".join(k for k, v in result.items() if isinstance(v, int | float))
        yield f"objective={key} is not among the results, value is returned; there are: {there}"


if __name__ == "__main__":
    # Hydra's plugins import this module by its name: one copy of it, so that errors are its own.
    from sa.run import main as _main

    _main()
