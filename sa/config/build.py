"""A resolved configuration made into objects, all of it checked before any work."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sa.config.argv import sets
from sa.config.catalogue import leaves
from sa.config.component import allowed, make
from sa.config.data import reading
from sa.config.error import UsageError, invalid, typed
from sa.config.parents import Config, parent, resolve
from sa.config.settings import Settings, read
from sa.record.identity import DEFAULTS, LATER, current

_COUPLED = ("Adafactor", "LBFGS", "Muon")
"""Optimizers whose step of one number depends on the others': not for stacked networks."""

_OF_TASK = set(
    "criterion moving batch_size batchnorm dtype device memory progress autocast compile".split()
)
"""Settings that describe the loss that is studied."""

_OF_RECIPE = set("until recalibrate clip decay_all quantizer_lr diverge".split())
"""Settings that describe a training, beside its components."""

_PLATEAU = "{of: test/loss, patience: 5, least: 1e-3}"
"""A goal of the kind plateau, as an example."""

_REPLACES = {
    "batch_size", "batchnorm", "criterion", "estimator", "evaluate_every", "moving", "optimizer",
    "seed", "steps",
} | LATER - {"init_average", "replicas", "ends"} | set(DEFAULTS)  # fmt: skip
"""What ``init`` may say of the parent: no setting that others are made from, as dim is."""


@dataclass(frozen=True)
class Components:
    """A configuration made into objects, all of them validated."""

    settings: Settings
    task: Any
    estimator: Any
    optimizer: Callable[..., Any]
    recipe: Any
    analyses: dict[str, Any]
    tracker: Any


def build(config: dict[str, Any]) -> Components:
    """Validate a resolved configuration, see that this machine can run it, and make its components.

    Raises:
        UsageError: from `validate`, then from `check_machine`.

    """
    made = validate(config)
    check_machine(made)
    return made


def check_machine(made: Components, here: bool = True) -> None:
    """Refuse what this machine lacks for a validated configuration: a device, files of its data.

    Args:
        made: what `validate` made of a resolved configuration.
        here: whether it will run on this machine.

    Raises:
        NoData: the dataset's files are not on this machine.
        UsageError: a device or a compiler is not.

    """
    from sa.objective.task import Mismatch

    try:
        with reading():
            made.task.check_machine(here)
    except Mismatch as error:
        raise UsageError(f"{error.key}: {error}") from error
    world = made.settings.processes or 1
    if here and world > 1 and made.settings.device == "cuda":
        import torch

        if torch.cuda.device_count() < world:
            many = torch.cuda.device_count()
            raise UsageError(
                f"processes={world}: each takes a GPU of its own, and there are {many}"
            )


def validate(config: dict[str, Any]) -> Components:
    """Validate a resolved configuration and make its components, on any machine; no side effects.

    Raises:
        UsageError: a setting that does not exist, or does not fit the others.

    """
    config = current(config)
    settings = read(config)
    for key, value in leaves(config):
        if key.rsplit(".", 1)[-1] == "_target_":
            allowed(key, value)
    from sa.objective.task import Mismatch, Task
    from sa.types import called

    made = {"dataset": make("dataset", config["dataset"])}
    with reading():  # a model may have taken its shape from the data: their errors come first
        made["dataset"].shape  # noqa: B018
    made |= {k: make(k, config[k]) for k in ("model", "estimator", "optimizer")}
    analyses = {k: make(f"analysis.{k}", v) for k, v in (config.get("analysis") or {}).items()}
    known = settings.model_dump(include=_OF_TASK)
    task = Task(model=made["model"], dataset=made["dataset"], **known)
    try:
        task.check()
    except Mismatch as error:
        raise UsageError(f"{error.key}: {error}") from error
    except ValueError as error:
        raise UsageError(f"model: {error}") from error  # of the layers it is built of
    structure = _fits(config, settings, task, made["estimator"])
    for name, analysis in analyses.items():
        try:
            suits(analysis, structure, task.point(), settings.memory)
        except ValueError as error:
            raise UsageError(f"analysis.{name}: {error}") from error
    if config.get("init"):
        if settings.init_seed is not None:
            raise UsageError("init_seed: the run starts where its parent ended; set init=none")
        _parent(config)
    _ends(config, settings, analyses)
    _paths(config, settings, analyses)
    for key, analysis in analyses.items():
        try:
            called(analysis, "takes", made["dataset"])
        except ValueError as error:
            raise UsageError(f"analysis.{key}: {error}") from error
    recipe = _recipe(config, settings, task)
    if settings.replicas is not None:
        _replicas(config, settings, task, made["estimator"])
    faster = settings.model_dump(include={"autocast", "compile", "processes"})
    for key in (k for k, value in faster.items() if value):
        _faster(key, config, settings, made["estimator"])
    if settings.processes:
        _processes(settings, task)
    tracker = make("tracker", config["tracker"])
    estimator, optimizer = made["estimator"], made["optimizer"]
    return Components(settings, task, estimator, optimizer, recipe, analyses, tracker)


def _fits(config: Config, settings: Settings, task: Any, estimator: Any) -> Any:
    """Return the structure of the network; refuse an estimator that does not fit."""
    from sa.types import called

    try:
        structure = task.structure()
        if structure.gradients and not _backpropagates(estimator):
            raise ValueError(
                "quantizer.gradient has no effect on it: only estimators of the straight-through "
                "family (ste_*) quantize what they back-propagate; take one of them, or set "
                "quantizer/gradient=none"
            )
        called(estimator, "requires", structure)
        called(estimator, "fits", task.point())
        optimizer = str(config["optimizer"]["_target_"]).rpartition(".")[2]
        asked = settings.steps, optimizer, config["optimizer"], settings.batch_size
        called(estimator, "trains", *asked)
    except ValueError as error:
        raise UsageError(f"estimator: {error}") from error
    return structure


def suits(analysis: Any, structure: Any, point: Any, memory: int) -> None:
    """Raise ValueError where an analysis, or an estimator that it calls, does not fit a network."""
    from sa.types import Estimator, called

    called(analysis, "requires", structure)
    called(analysis, "fits", point, memory)
    for key, value in vars(analysis).items():
        within = value if isinstance(value, Mapping) else {"": value}
        for name, inner in within.items():
            if not isinstance(inner, Estimator):
                continue
            try:
                called(inner, "requires", structure)
                called(inner, "fits", point)
            except ValueError as error:
                raise ValueError(f"{key}{'.' * bool(name)}{name}: {error}") from error


def ignored(points: Sequence[tuple[Config, Components]], words: Sequence[str]) -> Iterator[str]:
    """Yield a note for networks that have no place for the quantizer that was typed."""
    if not sets(words, "quantizer"):
        return
    lost: dict[str, int] = {}
    for config, made in points:
        slots = [x for x in (config["quantizer"] or {}).values() if isinstance(x, Mapping)]
        plain = all(x["_target_"].endswith(".Identity") for x in slots)
        if not (plain or made.task.structure().quantized):
            name = type(made.task.model).__name__
            lost[name] = lost.get(name, 0) + 1
    for name, many in lost.items():
        where = f"{many} of {len(points)} points: " if len(points) > 1 else ""
        yield (
            f"{where}{name} is in full precision and ignores the quantizer; models of quantized "
            "layers: toy_mlp, mlp, mlp_line, cnn, xnor_resnet18"
        )


def _recipe(config: Config, settings: Settings, task: Any) -> Any:
    """What the training has beside its optimizer, and whether this network and budget have it."""
    from sa.training.loop import Recipe

    plain = settings.model_dump(include=_OF_RECIPE)
    made = {k: make(k, config[k]) for k in ("schedule", "average", "stored") if config.get(k)}
    goals = dict(plain["until"] or {})
    flat = goals.pop("plateau", None)
    if not isinstance(flat, Mapping | None):
        raise UsageError(f"until.plateau={typed(flat)}: expected {_PLATEAU}")
    plain |= {"plateau": flat, "until": goals or None}
    try:
        recipe = Recipe(**plain, **made)
        recipe.check(settings.steps)
        if recipe.clip and not task.latent():
            raise ValueError("clip: no layer has quantized weights; take e.g. quantizer=bwba")
        if any(k.endswith("accuracy") for k in recipe.scores) and not task.dataset.classes:
            raise ValueError("until: accuracies need classes; take train/loss or test/loss")
    except ValueError as error:
        told = invalid("", config, error).removeprefix(": ")
        raise UsageError(re.sub(r"^plateau\b", "until.plateau", told, flags=re.M)) from error
    if recipe.scores and not (settings.steps and settings.evaluate_every):
        raise UsageError(
            "until: goals are looked at when a training is evaluated: set steps or epochs, the "
            "most it may take, and evaluate_every"
        )
    if settings.init_average and not (config.get("init") or {}).get("average"):
        raise UsageError("init_average: the parent averages nothing; set init.average")
    return recipe


def _replicas(config: Config, settings: Settings, task: Any, estimator: Any) -> None:
    """Refuse what is not, for networks trained together, what it is for each alone."""
    slope = estimator.target == "surrogate" and hasattr(estimator, "surrogate")
    if not slope or _forward_mode(estimator):
        raise UsageError(
            "replicas: they are trained by one back-propagation through all of them; take "
            "estimator=ste, ste_clipped or another slope, or sweep over seed instead"
        )
    seen = (("analysis", "analysis=[]"), ("init", "init=none"), ("stored", "stored=null"),
            ("until", "until=null"))  # fmt: skip
    for key, instead in seen:
        if config.get(key):
            raise UsageError(f"replicas: {key} looks at one network; set {instead}")
    if settings.init_seed is not None:
        raise UsageError("replicas: each has a start of its own seed; set init_seed=null")
    if not settings.steps:
        raise UsageError("replicas: they are for trainings; set steps or epochs")
    if task.keeps():
        raise UsageError(
            "replicas: a quantizer of this network keeps a range or levels from the data, for one "
            "network at a time; take another quantizer, or sweep over seed instead"
        )
    name = str(config["optimizer"]["_target_"]).rpartition(".")[2]
    if name in _COUPLED:
        raise UsageError(f"replicas: {name} does not step element by element; take sgd or adam")


def _faster(key: str, config: Config, settings: Settings, estimator: Any) -> None:
    """Refuse what makes back-propagation alone faster where something else is done."""
    if estimator.target != "surrogate" or _forward_mode(estimator):
        raise UsageError(
            f"{key}: it is for trainings by back-propagation alone; take estimator=ste, "
            f"ste_clipped or another slope, or {key}={typed(_off(key))} (differences, samples and "
            "seeds are computed in parallel by a sweep: -m ... hydra/launcher=local)"
        )
    if not settings.steps:
        raise UsageError(f"{key}: it is for trainings; set steps or epochs")
    if config.get("analysis"):
        raise UsageError(f"{key}: analyses measure the exact loss in one process; set analysis=[]")
    if settings.replicas and key != "autocast":
        raise UsageError(f"{key}: replicas are one computation already; set replicas=null")


def _off(key: str) -> Any:
    return False if key == "compile" else None


def _processes(settings: Settings, task: Any) -> None:
    """Refuse losses that are no sums over rows, and a device that processes would share."""
    world, who = settings.processes or 1, task.coupling()
    if who[0]:
        raise UsageError(f"processes: {who[0]} normalises rows together; set {who[1]}")
    rows = settings.batch_size or task.dataset.rows
    if rows < world:
        raise UsageError(f"processes={world}: a step has {rows} rows; set processes={rows} or less")
    if settings.device.startswith("cuda:"):
        raise UsageError("processes: each takes a GPU of its own; set device=cuda, not a number")


def _forward_mode(estimator: Any) -> bool:
    """Whether it differentiates along drawn directions, each over all rows and all parameters."""
    from sa.estimator.forward_gradient import ForwardGradient

    return isinstance(estimator, ForwardGradient)


def _backpropagates(estimator: Any) -> bool:
    slopes = getattr(estimator, "surrogate", None) or getattr(estimator, "surrogates", None)
    return estimator.target in ("surrogate", "stochastic") or bool(slopes)


def _ends(config: Config, settings: Settings, analyses: Mapping[str, Any]) -> None:
    """Refuse ends that cannot be looked at, and analyses of two trainings without them."""
    from sa.types import trait

    wanted = [k for k, a in analyses.items() if trait(a, "between")]
    if not settings.ends:
        if wanted:
            raise UsageError(
                f"analysis.{wanted[0]}: it is of two trainings; name them: 'ends=[RUN,RUN]', or "
                "ends=SWEEP of two runs"
            )
        return
    if settings.steps or settings.moving != "all":
        key = "steps" if settings.steps else "moving"
        only = "steps=0" if settings.steps else "moving=all"
        raise UsageError(f"{key}: a run that looks at ends is a probe of all of it; set {only}")
    for end in settings.ends:
        if isinstance(end, dict):
            try:
                _parent({**config, "init": end})
            except UsageError as error:
                told = re.sub(r"^init(?= \(|\.|:)", "ends", str(error))
                raise UsageError(
                    told.replace("init.", "its ").replace("parent run", "training")
                ) from error


def _paths(config: Config, settings: Settings, analyses: Mapping[str, Any]) -> None:
    """Refuse analyses of the way that a training took where it keeps too few points of it."""
    from sa.types import trait

    wanted = [k for k, a in analyses.items() if trait(a, "follows")]
    if not wanted:
        return
    trains = settings if settings.steps else read(resolve(parent(config) or config))
    key = "snapshot_every" if settings.steps else "init.snapshot_every"
    every = trains.snapshot_every
    there = f"it keeps {-(-trains.steps // every) + 1}" if every else "it keeps none"
    if not every or trains.steps <= every:
        raise UsageError(
            f"analysis.{wanted[0]}: it is of the points that a training kept, three or more, and "
            f"{there if trains.steps else 'there is no training'}; set {key}=STEPS (of a probe, "
            "steps=0, of the training it starts from: init=ste_500 +init.snapshot_every=50)"
        )


def _parent(config: dict[str, Any]) -> None:
    unknown = sorted(set(config["init"]) - _REPLACES)
    if unknown:
        known = ", ".join(sorted(_REPLACES))
        raise UsageError(f"init.{unknown[0]}: init sets no such thing; it sets any of: {known}")
    made = parent(config)
    assert made is not None
    if made["steps"] == 0:
        raise UsageError("init.steps=0: a parent run has to train; set init.steps to 1 or more")
    try:
        validate(made)
    except UsageError as error:
        raise UsageError(f"init (the parent run): {error}") from error
