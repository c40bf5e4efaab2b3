"""The settings of conf/config.yaml that are no components: type, range and meaning of each."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Len, doc
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from sa.config.catalogue import HUED, LINES, drawn_as_lines, figures, top
from sa.config.error import HELP, UsageError, nearest, typed
from sa.config.fields import words

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Switch = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
"""True or false; null, which older records may have, is false."""

Text = Annotated[Any, doc("text")]
Device = Annotated[
    str, StringConstraints(pattern=r"^(cpu|cuda(:\d+)?)$"), doc("cpu | cuda | cuda:NUMBER")
]
Line = Annotated[str, StringConstraints(pattern=r"^[^\n\r]*$"), doc("text of one line")]
Moving = Annotated[
    Literal["all"] | Annotated[list[str | int], Len(1)],
    doc(
        "all, or a list of name patterns and quantized-layer numbers, e.g. 'moving=[fc1.*]' or "
        "'moving=[1,-1]'"
    ),
]
Goals = Annotated[
    dict[str, float | dict[str, Any]],
    doc("a mapping, each value a number, or plateau: {of: SCORE, patience: N, least: NUMBER}"),
]
Stored = Annotated[
    Mapping[str, Any] | None, doc("a quantizer; type +quantizer/weight@stored=fixed_point")
]
Rules = Annotated[
    Mapping[str, Any] | None,
    doc("a mapping; type +rules.a.match='conv*' +quantizer/weight@rules.a.weight=uniform"),
]
Ends = Annotated[Any, doc("two runs, a sweep of two runs, or null")]
Figures = Annotated[
    list[str | dict[str, Any]] | None,
    doc("a list, e.g. figure=[lr_decrease], or null: a sweep draws what it measured"),
]
Zip = Annotated[list[Any], doc("a list, e.g. 'sweep.zip=[...]'")]
Points = Annotated[list[Any], doc("a list, e.g. 'sweep.points=[...]'")]
Exclude = Annotated[list[Any], doc("a list, e.g. 'sweep.exclude=[...]'")]

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _preset(value: Any) -> Any:
    """Return crop and flip of ``standard``, None for ``none``, and any other value unchanged."""
    words = {"standard": {"crop": 4, "flip": True}, "none": None}
    return words.get(value, value) if isinstance(value, str) else value


class Changes(BaseModel):
    """Random changes of the images of a step, as `sa.objective.augment.Augment` describes them."""

    model_config = STRICT

    crop: Whole = 0
    flip: bool = False


Changed = Annotated[
    Changes | None,
    BeforeValidator(_preset),
    doc("standard | none, or {crop: PIXELS, flip: true or false}"),
]


class Sweep(BaseModel):
    """The settings of a sweep as a whole."""

    model_config = STRICT

    name: str | None = Field(
        None, description="name of the sweep's folder; null = made from the points"
    )
    dry_run: bool = Field(False, description="true = validate and print the whole plan, and stop")
    replace: bool = Field(False, description="true = a sweep of this name may lose points it had")
    zip: Zip = Field(
        default_factory=list,
        description="swept settings that vary together instead of crossing: [dim,seed]",
    )
    points: Points = Field(
        default_factory=list,
        description="listed points, each {KEY: VALUE, KEY: VALUE} (typed also "
        '"KEY=VALUE ..."), crossed with what is swept',
    )
    exclude: Exclude = Field(
        default_factory=list,
        description="points left out: those that have all of {KEY: VALUE, KEY: VALUE}; * stands "
        "for anything",
    )
    canary: bool = Field(
        False, description="true = run one point first, the others only if it ends well"
    )
    max_failures: Count | None = Field(
        None, description="stop starting points after so many have failed; null = never"
    )
    wait: bool = Field(True, description="slurm: false = submit, say how to follow, and end")
    snapshot: bool = Field(
        False, description="local, slurm: true = run a copy of the code as it is now"
    )


class Settings(BaseModel):
    """The settings of one run, without those of its components."""

    model_config = STRICT

    dim: Count = Field(8, description="width of toy_mlp and of the rows of gaussian")
    seed: Whole = Field(0, description="seed of every random number of the run")
    replicas: Count | None = Field(
        None, description="networks trained at once, with seeds seed, seed + 1, ...; null = one"
    )
    steps: Whole = Field(
        0, description="optimizer steps; 0 probes the gradient at the starting point"
    )
    epochs: Count | None = Field(
        None, description="passes over the training rows, instead of steps"
    )
    until: Goals | None = Field(
        None,
        description="goals that end a training sooner, checked at evaluations: {train/loss:0.01}, "
        "{plateau:{of:test/loss,patience:5,least:1e-3}}",
    )
    dtype: Literal["float32", "float64"] = Field(
        "float64", description="precision of the network: float32 | float64"
    )
    device: Device = Field("cpu", description="where the run computes: cpu | cuda | cuda:NUMBER")
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="bfloat16 = a training's products in it; weights and evaluations stay in dtype",
    )
    compile: Switch = Field(
        False, description="true = a training's loss goes through torch.compile"
    )
    criterion: Literal["auto", "mse", "ce", "value"] = Field(
        "auto",
        description="loss of a row: auto | mse | ce | value (of a model that is a loss itself)",
    )
    moving: Moving = Field(
        "all",
        description="parameters that move: all, or a list of name patterns and layer numbers",
    )
    rules: Rules = Field(
        default_factory=dict,
        description="quantizers by layer: +rules.a.match='conv*' "
        "+quantizer/weight@rules.a.weight=uniform",
    )
    batch_size: Count | None = Field(None, description="rows a step; null = the full batch")
    augment: Changed = Field(
        None,
        description="random crops and flips of a training's images: standard (crop 4, flip) | "
        "{crop: PIXELS, flip: true}; null = none",
    )
    batchnorm: Literal["batch", "running"] = Field(
        "batch", description="statistics that a loss is evaluated with: batch | running"
    )
    mode: Literal["eval", "train"] = Field(
        "eval", description="mode of dropout and its like in the loss that is studied: eval | train"
    )
    diverge: Annotated[float, Gt(1)] | None = Field(
        1000,
        description="a loss above so many times its reference for 3 steps ends a training; "
        "null = never",
    )
    recalibrate: Switch = Field(
        False,
        description="true = evaluations re-estimate BatchNorm's statistics over the training rows",
    )
    clip: Positive | None = Field(
        None,
        description="latent weights of quantized layers stay in [-clip, clip]; null = no limit",
    )
    decay_all: Switch = Field(
        False, description="true = weight decay for biases, norms and quantizers too"
    )
    quantizer_lr: Positive | None = Field(
        None, description="rate of the quantizers' own parameters, times the optimizer's; null = 1"
    )
    stored: Stored = Field(
        None,
        description="few-bit copy kept after every step: +quantizer/weight@stored=fixed_point",
    )
    init_seed: Whole | None = Field(
        None,
        description="seed of the random start alone; null = seed. One start, other minibatches",
    )
    init_average: Switch = Field(
        False, description="true = start from the parent's averaged weights"
    )
    evaluate_every: Count | None = Field(
        None, description="steps between evaluations of both splits; null = at the end only"
    )
    analyse_every: Count | None = Field(
        None, description="steps between analyses; null = at the end only"
    )
    snapshot_every: Count | None = Field(
        None, description="steps between the points kept in runs/<id>/snapshots/; null = none kept"
    )
    ends: Ends = Field(
        None,
        description="two trainings to analyse: [RUN,RUN], a sweep, or {first,second} as in init",
    )
    metric: Text = Field("descent/best", description="result that sa.run returns to a sweeper")
    root: Line = Field(
        ".", description="folder of runs/ and sweeps/; by default SA_ROOT, else the current folder"
    )
    description: Text = Field(None, description="words for the report")
    sizes: dict[str, Any] = Field(
        default_factory=dict,
        description="an experiment's: {quick: {KEY: [VALUES]}, full: {...}}, what -m sweeps, and "
        "what size=full or another name changes",
    )
    expectations: list[Any] = Field(
        default_factory=list,
        description="what an experiment expects, judged in its report (sa/sweep/expectation.py)",
    )
    figure: Figures = Field(
        None,
        description="kinds drawn at the end, and {kind: lines, x:, y:, hue:, panels:}; null = what "
        "a sweep measured, [] = none",
    )
    sweep: Sweep = Field(default_factory=Sweep, description="what a sweep as a whole does")
    processes: Count | None = Field(
        None,
        description="processes on one node that share each step's rows; null = one",
    )
    threads: Count = Field(
        1, description="CPU threads; one is fastest for small networks and repeatable bit for bit"
    )
    memory: Count = Field(
        134217728, description="bytes that one evaluation may use for intermediate results"
    )
    checkpoint_seconds: Annotated[float, Ge(0)] = Field(
        5, description="seconds between checkpoints of a training"
    )
    progress: bool = Field(True, description="true = progress bars on a terminal")
    experiment: str | None = Field(None, description="study that the run belongs to")


def read(config: Mapping[str, Any]) -> Settings:
    """Return the settings of a resolved configuration.

    Raises:
        UsageError: a setting does not exist, or its value is not of its type and range.

    """
    for key in config:
        if key not in top():
            close = nearest(key, top())
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(f"{key}: there is no such setting{hint}\n{HELP}")
    try:
        made = Settings(**{k: config[k] for k in Settings.model_fields if k in config})
    except ValidationError as error:
        where = [[str(x) for x in one["loc"]] for one in error.errors()]
        names = [".".join(loc[:2] if loc[0] == "sweep" else loc[:1]) for loc in where]
        raise UsageError("\n".join(_refused(k, config) for k in dict.fromkeys(names))) from error
    for kind in made.figure or []:
        _drawable(kind)
    return made


def _drawable(kind: str | Mapping[str, Any]) -> None:
    """Raise UsageError for an unknown kind of figure."""
    if isinstance(kind, Mapping):
        hued = str(kind.get("kind")) in re.findall(r"\w+_\w+", HUED)
        form, least = (HUED, ["hue"]) if hued else (LINES, ["x", "y"])
        known = set(re.findall(r"(\w+):", form))
        if not (hued or kind.get("kind") == "lines") or not set(least) <= set(kind) <= known:
            raise UsageError(
                f"figure={typed(dict(kind))}: expected {form}, at least {' and '.join(least)}"
            )
    elif study := drawn_as_lines(kind):
        file = f"conf/experiment/{study}.yaml"
        raise UsageError(f"figure={kind}: it is drawn by kind: lines now; see figure in {file}")
    elif kind not in figures():
        there = ", ".join([*figures(), LINES, HUED])
        raise UsageError(f"figure={kind}: there is no such figure; there are: {there}")


def explained() -> dict[str, tuple[str, str]]:
    """Return every setting: name -> (type and range in words, meaning)."""
    found = {}
    for prefix, model in (("", Settings), ("sweep.", Sweep)):
        for name, field in model.model_fields.items():
            hint = (
                Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            )
            found[prefix + name] = (words(hint), field.description or "")
    return found


def _refused(key: str, config: Mapping[str, Any]) -> str:
    """Return the message for a setting whose value is not of its type and range."""
    above, _, name = key.rpartition(".")
    value = config[above][name] if above else config[name]
    return f"{key}={typed(value)}: expected {explained()[key][0]}"
