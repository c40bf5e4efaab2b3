"""Builds the objects of a configuration, and checks all of it before any work."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sa.config.component import Components, make
from sa.config.data import reading
from sa.config.error import UsageError, invalid, of_setting, typed
from sa.config.fit import (
    check_analysis,
    check_faster,
    check_processes,
    check_replicas,
    check_snapshots,
)
from sa.config.parents import Config, parent
from sa.config.rules import ruled
from sa.config.settings import Settings, read
from sa.config.trust import allowed, targets
from sa.record.identity import DEFAULTS, LATER, current

_OF_RECIPE = set("until recalibrate clip decay_all quantizer_lr diverge".split())
"""Settings of a training, without its components."""

_PLATEAU = "{of: test/loss, patience: 5, least: 1e-3}"
"""A goal of the kind plateau, as an example."""

_REPLACES = {
    "batch_size", "batchnorm", "criterion", "estimator", "evaluate_every", "moving", "optimizer",
    "seed", "steps",
} | LATER - {"init_average", "replicas", "ends"} | set(DEFAULTS)  # fmt: skip
"""Settings that ``init`` may change for the parent.

A setting that others are computed from, such as dim, is not allowed.
"""


def build(config: dict[str, Any]) -> Components:
    """Return the components of a resolved configuration that this machine can run.

    Raises:
        UsageError: from `validate`, then from `check_machine`.

    """
    components = validate(config)
    check_machine(components)
    return components


def check_machine(components: Components, here: bool = True) -> None:
    """Raise UsageError if this machine cannot run a validated configuration.

    Args:
        components: the components of the configuration.
        here: whether it will run on this machine.

    Raises:
        NoData: the files of the dataset are not on this machine.
        UsageError: this machine has no such device, no compiler, or too few GPUs.

    """
    from sa.objective.task import Mismatch

    try:
        with reading():
            components.task.check_machine(here)
    except Mismatch as error:
        raise UsageError(f"{error.key}: {error}") from error
    world = components.settings.processes or 1
    if here and world > 1 and components.settings.device == "cuda":
        import torch

        if torch.cuda.device_count() < world:
            many = torch.cuda.device_count()
            raise UsageError(
                f"processes={world}: each takes a GPU of its own, and there are {many}; set "
                f"processes={many or 'null'}"
            )


def validate(config: Config) -> Components:
    """Return the components of a resolved configuration, checked for any machine; no side effects.

    Raises:
        UsageError: a setting that does not exist, or does not fit the others.

    """
    config = current(config)
    settings = read(config)
    for key, target in targets(config):
        allowed(key, target)
    from sa.network.hooks import called

    dataset = make("dataset", config["dataset"])
    with reading():  # report errors of the data first: a model may take its shape from them
        dataset.shape  # noqa: B018
    needed = ("model", "estimator", "optimizer", "tracker")
    model, estimator, optimizer, tracker = (make(k, config[k]) for k in needed)
    model = ruled(model, config.get("rules"))
    extras = {k: make(k, config[k]) for k in ("schedule", "average", "stored") if config.get(k)}
    analyses = {k: make(f"analysis.{k}", v) for k, v in (config.get("analysis") or {}).items()}
    task = _task(settings, model, dataset)
    structure = _structure(settings, task, estimator, optimizer)
    for name, analysis in analyses.items():
        with of_setting(f"analysis.{name}"):
            check_analysis(analysis, structure, task.point(), settings.memory)
            called(analysis, "takes", dataset)
    start = _parent(config, "init") if config.get("init") else None
    if start and settings.init_seed is not None:
        raise UsageError(
            "init_seed: it has no effect, the run starts where its parent ended; set init=none"
        )
    _check_ends(config, settings, analyses)
    check_snapshots(settings, start, analyses)
    if settings.augment and not settings.steps:
        raise UsageError(
            "augment: it changes the images of a training, and this run does not train; set steps "
            "or epochs, or type init.augment=standard for the parent's training"
        )
    recipe = _recipe(settings, task, extras)
    if settings.init_average and not (start and start.recipe.average):
        raise UsageError("init_average: the parent averages nothing; type +init.average=ema")
    components = Components(settings, task, estimator, optimizer, recipe, analyses, tracker)
    if settings.replicas is not None:
        check_replicas(components, start)
    for key in ("autocast", "compile", "processes"):
        if settings.model_dump(include={key})[key]:
            check_faster(key, components)
    if settings.processes:
        check_processes(settings, task)
    return components


def _task(settings: Settings, model: Any, dataset: Any) -> Any:
    """Return the task, which describes the loss; UsageError if model, data and settings clash."""
    from sa.objective.numerics import Numerics
    from sa.objective.task import Mismatch, Task

    own = {f.name for f in fields(Numerics)}
    numerics = Numerics(**settings.model_dump(include=own))
    moving = settings.moving if isinstance(settings.moving, str) else tuple(settings.moving)
    task = Task(model, dataset, settings.criterion, moving, numerics)
    with of_setting("model"):  # an error of its layers
        try:
            task.check()
        except Mismatch as error:
            raise UsageError(f"{error.key}: {error}") from error
    return task


def _structure(settings: Settings, task: Any, estimator: Any, optimizer: Any) -> Any:
    """Return the structure of the network; UsageError if the estimator does not fit."""
    from sa.network.hooks import called, trait

    with of_setting("estimator"):
        structure = task.structure()
        if structure.gradients and not _backpropagates(estimator):
            raise ValueError(
                "quantizer.gradient has no effect on it: only estimators of the straight-through "
                "family (ste_*) quantize the gradients that they back-propagate; take one of them, "
                "or set quantizer/gradient=none"
            )
        called(estimator, "requires", structure)
        called(estimator, "fits", task.point())
        cls, rates = optimizer.func, optimizer.keywords
        called(estimator, "trains", settings.steps, cls, rates, settings.batch_size)
        fresh = "dataset.fresh=true" * trait(task.dataset, "fresh")
        if other := fresh or "augment" * bool(settings.augment):  # as with minibatches
            try:
                called(estimator, "trains", settings.steps, cls, rates, task.dataset.rows)
            except UsageError:
                raise
            except ValueError as error:
                off = "false" if fresh else "null"
                raise ValueError(
                    f"{error}; {other} also takes other rows at every step: set it to {off}"
                ) from error
    return structure


def _recipe(settings: Settings, task: Any, extras: Mapping[str, Any]) -> Any:
    """Return the recipe of a training; UsageError if the network cannot be trained with it.

    Args:
        settings: the settings of the run.
        task: the loss.
        extras: the schedule, the average and the stored copy, if there are any.

    """
    from sa.training.loop import Recipe

    given = {**settings.model_dump(include=_OF_RECIPE), **extras}
    goals = dict(given["until"] or {})
    flat = goals.pop("plateau", None)
    if not isinstance(flat, Mapping | None):
        raise UsageError(f"until.plateau={typed(flat)}: expected {_PLATEAU}")
    given |= {"plateau": flat, "until": goals or None}
    try:
        recipe = Recipe(**given)
        recipe.check(settings.steps)
        if recipe.clip and not task.latent():
            raise ValueError("clip: no layer has quantized weights; take e.g. quantizer=bwba")
        if any(k.endswith("accuracy") for k in recipe.scores) and not task.dataset.classes:
            raise ValueError("until: accuracies need classes; take train/loss or test/loss")
    except ValueError as error:
        message = invalid("", given, error).removeprefix(": ")
        raise UsageError(re.sub(r"^plateau\b", "until.plateau", message, flags=re.M)) from error
    if recipe.scores and not (settings.steps and settings.evaluate_every):
        raise UsageError(
            "until: goals are checked at evaluations of a training; set evaluate_every, and steps "
            "or epochs as an upper limit"
        )
    return recipe


def _backpropagates(estimator: Any) -> bool:
    from sa.network.hooks import trait

    slopes = trait(estimator, "surrogate") or trait(estimator, "surrogates")
    return estimator.target in ("surrogate", "stochastic") or bool(slopes)


def _check_ends(config: Config, settings: Settings, analyses: Mapping[str, Any]) -> None:
    """Raise UsageError if the two trainings of ``ends`` and the analyses of the run do not fit."""
    from sa.network.hooks import trait

    wanted = [k for k, a in analyses.items() if trait(a, "between")]
    if not settings.ends:
        if wanted:
            raise UsageError(
                f"analysis.{wanted[0]}: it compares two trainings; name them: 'ends=[RUN,RUN]', or "
                "ends=SWEEP for a sweep of two runs"
            )
        return
    if settings.steps:
        raise UsageError("steps: a run that looks at ends is a probe; set steps=0")
    if settings.moving != "all":
        raise UsageError("moving: a run that looks at ends moves all parameters; set moving=all")
    for end in settings.ends:
        if isinstance(end, dict):
            _parent({**config, "init": end}, "ends")


def _parent(config: Config, key: str) -> Components:
    """Return the components of the run that a configuration starts from.

    Args:
        config: the configuration; ``init`` says how its parent differs.
        key: the setting that was typed, init or ends, for messages.

    Raises:
        UsageError: the parent cannot run.

    """
    unknown = sorted(set(config["init"]) - _REPLACES)
    if unknown:
        known = ", ".join(sorted(_REPLACES))
        raise UsageError(f"{key}.{unknown[0]}: {key} has no such setting; there are: {known}")
    before = parent(config)
    assert before is not None
    try:
        components = validate(before)
    except UsageError as error:
        what = "the parent run" if key == "init" else "the training"
        raise UsageError(f"{key} ({what}): {error}") from error
    if components.settings.steps == 0:
        raise UsageError(f"{key}.steps=0: it has to train; set {key}.steps to 1 or more")
    return components
