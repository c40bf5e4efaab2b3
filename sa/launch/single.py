"""One run from the command line: validate it, compute it or find its result, print the result."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sa.config.build import check_machine, validate
from sa.config.error import UsageError
from sa.config.fit import quantizer_notes
from sa.config.flags import without_effect
from sa.config.parents import resolve
from sa.config.settings import Settings
from sa.job import summary
from sa.job.execute import execute, folder_of, root_of
from sa.launch.driver import report
from sa.record import identity, run, telling
from sa.record.identity import Config


def single(config: Config, typed: Sequence[str]) -> float:
    """Validate and run one configuration, print its result, and return its metric.

    Args:
        config: the configuration as Hydra composed it.
        typed: the words of the command line.

    """
    telling.patient()  # a launcher of Hydra's own may call this in a new process
    config = resolve(config, typed)
    components = validate(config)
    settings = components.settings
    notes = [*_mistakes(settings, typed), *quantizer_notes([(config, components)], typed)]
    if settings.sweep.dry_run:
        print(f"valid; run id {identity.run_id(config)}: {run.state(folder_of(config))}")
        try:
            check_machine(components)
        except UsageError as error:
            notes.append(str(error))
        for note in notes:
            telling.note(note)
        return float("nan")
    check_machine(components)
    result = execute(config, tell=True, components=components)
    folder = folder_of(config)
    summary.tell(components.estimator, result, components.analyses)
    if settings.figure and settings.steps:
        report(root_of(config), folder.name)
    print(f"run: {folder}", flush=True)
    for note in [*notes, *_notes_of(settings, result)]:
        telling.note(note)
    run.record_lost_output(folder / "status.json")
    value = result.get(settings.metric or "value", result.get("value"))
    return float(value) if isinstance(value, int | float) else float("nan")


def _mistakes(settings: Settings, typed: Sequence[str]) -> Iterator[str]:
    """Yield a note for each part of the command that may be a mistake."""
    study = settings.experiment
    varied = settings.sizes.get("quick")
    if varied:
        yield (
            f"experiment={study} sweeps {', '.join(varied)}; this was one point. The study: "
            f"python -m sa.run -m experiment={study}"
        )
    elif settings.figure and not settings.steps:
        yield "figure: a single probe has none; set steps to train, or write -m to sweep"
    idle = without_effect(typed)
    if idle and not {"-m", "--multirun"} & set(typed):  # -m: one point of another sweeper
        yield f"{' '.join(idle)}: has no effect on one run; write -m to sweep"


def _notes_of(settings: Settings, result: dict[str, Any]) -> Iterator[str]:
    """Yield the notes in a result, and one if the metric is not in it."""
    for name, note in result.items():
        if note and re.fullmatch(r"(.+/)?note", name):
            yield f"{name.partition('/')[0]}: {note}" if "/" in name else f"estimator: {note}"
    key = settings.metric
    if key not in (None, "value", "descent/best") and key not in result:
        there = ", ".join(k for k, v in result.items() if isinstance(v, int | float))
        yield f"metric={key} is not among the results, so the loss is returned; there are: {there}"
