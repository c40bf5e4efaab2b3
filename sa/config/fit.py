"""Checks of settings and components that must fit each other, before any work."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sa.config.argv import sets
from sa.config.component import Components, make
from sa.config.error import UsageError
from sa.config.parents import Config
from sa.config.settings import Settings


def check_analysis(analysis: Any, structure: Any, point: Any, memory: int) -> None:
    """Raise ValueError if an analysis, or an estimator that it calls, does not fit a network.

    Args:
        analysis: the analysis.
        structure: the network, as `sa.network.structure` describes it.
        point: the parameters that move.
        memory: bytes that one evaluation may use.

    """
    from sa.network.hooks import called
    from sa.types import Estimator

    called(analysis, "requires", structure)
    called(analysis, "fits", point, memory)
    for key, value in vars(analysis).items():
        parts = value if isinstance(value, Mapping) else {"": value}
        for name, part in parts.items():
            if not isinstance(part, Estimator):
                continue
            try:
                called(part, "requires", structure)
                called(part, "fits", point)
            except UsageError:
                raise
            except ValueError as error:
                raise ValueError(f"{key}{'.' * bool(name)}{name}: {error}") from error


def check_replicas(components: Components, start: Components | None) -> None:
    """Raise UsageError for settings that do not work with `replicas`.

    Args:
        components: the components of the run.
        start: those of its parent, if it has one.

    """
    from sa.network.hooks import trait

    settings, estimator, recipe = components.settings, components.estimator, components.recipe
    if not trait(estimator, "one_backward"):
        raise UsageError(
            "replicas: one back-propagation through all networks trains them; take estimator=ste, "
            "ste_clipped or another slope, or sweep over seed instead"
        )
    of_one = {
        "analysis=[]": components.analyses, "init=none": start, "stored=null": recipe.stored,
        "until=null": recipe.until,
    }  # fmt: skip
    for instead, value in of_one.items():
        if value:
            key = instead.partition("=")[0]
            raise UsageError(f"replicas: {key} works with one network; set {instead}")
    if settings.mode == "train":
        raise UsageError("replicas: layers draw for one network at a time; set mode=eval")
    if settings.init_seed is not None:
        raise UsageError("replicas: each network starts from its own seed; set init_seed=null")
    if not settings.steps:
        raise UsageError("replicas: they are for trainings; set steps or epochs")
    if components.task.keeps():
        raise UsageError(
            "replicas: a quantizer of this network keeps a range or levels from the data, for one "
            "network at a time; take another quantizer, or sweep over seed instead"
        )
    if not components.task.stacks():
        raise UsageError(
            "replicas: torch.vmap cannot run several of these networks at once (it has no rule for "
            "LSTM, for example, nor for branches on values); set replicas=null and sweep over seed"
        )
    cls: Any = components.optimizer.func
    if issubclass(cls, _coupled()):
        raise UsageError(
            f"replicas: {cls.__name__} does not step element by element; take optimizer=sgd or adam"
        )


def _coupled() -> tuple[type, ...]:
    """Return the optimizers whose step of one number depends on other numbers."""
    from torch import optim

    from sa.training.muon import Muon

    return (optim.Adafactor, optim.LBFGS, Muon, vars(optim).get("Muon", Muon))


def check_faster(key: str, components: Components) -> None:
    """Raise UsageError if `autocast`, `compile` or `processes` cannot speed this training up.

    They need a straight-through estimator, steps > 0 and no analyses.
    """
    settings, estimator = components.settings, components.estimator
    if estimator.target != "surrogate" or _forward_mode(estimator):
        off = "false" if key == "compile" else "null"
        raise UsageError(
            f"{key}: it speeds up back-propagation alone; take estimator=ste, ste_clipped or "
            f"another slope, or {key}={off} (to compute other estimators in parallel, sweep: "
            "-m ... hydra/launcher=local)"
        )
    if not settings.steps:
        raise UsageError(f"{key}: it is for trainings; set steps or epochs")
    if components.analyses:
        raise UsageError(f"{key}: analyses measure the exact loss in one process; set analysis=[]")
    if settings.replicas and key != "autocast":
        raise UsageError(f"{key}: replicas are one computation already; set replicas=null")


def check_processes(settings: Settings, task: Any) -> None:
    """Raise UsageError if processes cannot share the rows of a step, or the device."""
    world, (coupling, instead) = settings.processes or 1, task.coupling()
    if coupling:
        raise UsageError(f"processes: {coupling} normalises rows together; set {instead}")
    if settings.mode == "train":
        raise UsageError("processes: layers draw for all rows of a step at once; set mode=eval")
    rows = settings.batch_size or task.dataset.rows
    if rows < world:
        raise UsageError(f"processes={world}: a step has {rows} rows; set processes={rows} or less")
    if settings.device.startswith("cuda:"):
        raise UsageError("processes: each takes a GPU of its own; set device=cuda, not a number")


def check_snapshots(
    settings: Settings, start: Components | None, analyses: Mapping[str, Any]
) -> None:
    """Raise UsageError if an analysis needs more points of a training than the training keeps.

    Args:
        settings: the settings of the run.
        start: the components of its parent, if it has one.
        analyses: the analyses of the run, by their names.

    """
    from sa.network.hooks import trait

    wanted = [k for k, a in analyses.items() if trait(a, "follows")]
    if not wanted:
        return
    training = start.settings if start and not settings.steps else settings
    every, steps = training.snapshot_every, training.steps
    if every and steps > every:
        return
    points = f"it keeps {-(-steps // every) + 1}" if every else "it keeps none"
    instead = "set snapshot_every" if settings.steps else "type init=ste_500 +init.snapshot_every"
    raise UsageError(
        f"analysis.{wanted[0]}: it needs three or more points that a training kept, and "
        f"{points if steps else 'there is no training'}; {instead}=STEPS"
    )


def quantizer_notes(
    points: Sequence[tuple[Config, Components]], words: Sequence[str]
) -> Iterator[str]:
    """Yield a note for each model that ignores the quantizer that was typed.

    Args:
        points: configuration and components of each run.
        words: the words of the command line.

    """
    if not sets(words, "quantizer"):
        return
    from sa.network.traits import traits

    models: dict[str, int] = {}
    for config, components in points:
        slots = {k: x for k, x in (config["quantizer"] or {}).items() if isinstance(x, Mapping)}
        plain = all(traits(make(f"quantizer.{k}", x)).identity for k, x in slots.items())
        if not (plain or components.task.structure().quantized):
            name = type(components.task.model).__name__
            models[name] = models.get(name, 0) + 1
    for name, many in models.items():
        where = f"{many} of {len(points)} points: " if len(points) > 1 else ""
        yield (
            f"{where}{name} is in full precision and ignores the quantizer; models of quantized "
            "layers: toy_mlp, mlp, mlp_line, cnn, xnor_resnet18"
        )


def _forward_mode(estimator: Any) -> bool:
    """Return whether an estimator differentiates along random directions of all parameters."""
    from sa.estimator.forward_gradient import ForwardGradient

    return isinstance(estimator, ForwardGradient)
