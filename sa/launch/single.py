"""One run of the command line: validated, computed or found done, told."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sa.config.build import check_machine, ignored, validate
from sa.config.error import UsageError
from sa.config.flags import without_effect
from sa.config.parents import resolve
from sa.config.settings import Settings
from sa.job import summary
from sa.job.execute import execute, folder_of, root_of
from sa.launch.driver import report
from sa.record import identity, run, telling
from sa.record.identity import Config


def single(config: Config, typed: Sequence[str]) -> float:
    """Validate, run (or find the finished result), tell, and return the objective.

    Args:
        config: the configuration as Hydra composed it.
        typed: the words of the command line.

    """
    telling.patient()  # a launcher of Hydra's own may call this in a process of its own
    config = resolve(config, typed)
    components = validate(config)
    meant = [*_meant(components.settings, typed), *ignored([(config, components)], typed)]
    settings = components.settings
    if settings.sweep.dry_run:
        print(f"valid; run id {identity.run_id(config)}: {run.state(folder_of(config))}")
        try:
            check_machine(components)
        except UsageError as error:
            meant.append(str(error))
        for note in meant:
            telling.note(note)
        return float("nan")
    check_machine(components)
    result = execute(config, tell=True, components=components)
    folder = folder_of(config)
    summary.tell(config, result, components.analyses)
    if settings.figure and settings.steps:
        report(root_of(config), folder.name)
    print(f"run: {folder}", flush=True)
    for note in [*meant, *_of_result(settings, result)]:
        telling.note(note)
    run.say_untold(folder / "status.json")
    value = result.get(settings.objective or "value", result.get("value"))
    return float(value) if isinstance(value, int | float) else float("nan")


def _meant(settings: Settings, typed: Sequence[str]) -> Iterator[str]:
    """Yield what the person who typed the command may have meant otherwise."""
    study = settings.experiment
    varied = settings.sizes.get("quick")
    if varied:
        yield (
            f"experiment={study} sweeps {', '.join(varied)}; this was one point. The study: "
            f"python -m sa.run -m experiment={study}"
        )
    elif settings.figure and not settings.steps:
        yield "figures are drawn of trainings and of sweeps (-m), not of a single probe"
    idle = without_effect(typed)
    if idle and not {"-m", "--multirun"} & set(typed):  # else: one point of another sweeper's
        yield f"{' '.join(idle)}: has no effect on one run; write -m to sweep"


def _of_result(settings: Settings, result: dict[str, Any]) -> Iterator[str]:
    """Yield what a run has to say beside its numbers."""
    for name, told in result.items():
        if told and re.fullmatch(r"(.+/)?note", name):
            yield f"{name.partition('/')[0]}: {told}" if "/" in name else f"estimator: {told}"
    key = settings.objective
    if key not in (None, "value", "descent/best") and key not in result:
        there = ", ".join(k for k, v in result.items() if isinstance(v, int | float))
        yield f"objective={key} is not among the results, value is returned; there are: {there}"
