"""What can be typed: the catalogue read from conf/, and every check made before any work."""

import difflib
import fnmatch
import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sa.record import LATER, read_manifest, sweeps

_HERE = Path(__file__).resolve().parent
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if (p / "config.yaml").is_file())
"""The folder of every knob: inside the package in a wheel, beside it in a checkout."""

ROOMS = ("dataset", "model", "quantizer", "estimator", "analysis")
_COMPONENT = re.compile(rf"sa\.(?:{'|'.join(ROOMS)})\.[a-z][a-z0-9_]*\.[A-Z]\w*")
_OTHERS = (
    "sa.types.Slots",
    "sa.tracker.Wandb",
    "sa.schedule.Annealed",
    "sa.schedule.Stairs",
    "sa.average.Average",
    "sa.optimizer.Muon",
)
_GROUPS = (
    "experiment",
    "estimator",
    "model",
    "dataset",
    "quantizer",
    "quantizer/weight",
    "quantizer/activation",
    "quantizer/gradient",
    "analysis",
    "optimizer",
    "schedule",
    "average",
    "init",
    "tracker",
    "hydra/launcher",
)

USAGE = """\
sa: a laboratory for gradients of networks that have none.

  python -m sa.run                                         probe one gradient, with the defaults
  python -m sa.run estimator=nes estimator.sigma=0.01      one word, one number
  python -m sa.run experiment=digits_ste                   train on real data
  python -m sa.run -m experiment=descent_dims              a study: many runs, tables, figures
  python -m sa.run -m dim=8,16,32 estimator=cdg,nes seed=0,1,2
  python -m sa.run -m experiment=descent_dims size=full sweep.dry_run=true
  python -m sa.sweep status|collect|retry|report NAME      follow and read

-m sweeps over comma-separated values; write it first. `--cfg job` prints the whole configuration.
"""


Config = dict[str, Any]
_HELP = "settings and groups: python -m sa.run --help"


_TEMPERATURE = (
    "a temperature cannot change hard states, P(y > 1/2) = p for every one: it acts in a relaxed "
    "backward only (gumbel, st_gumbel, rebar, sr_ste_relaxed)"
)


class UsageError(Exception):
    """Something typed that cannot run: what was wrong, what was expected, what to type."""


class NoData(UsageError):
    """The files of the dataset are not on this machine."""


def options(group: str) -> dict[str, str]:
    """Name -> one line of description, of every option of a group, from the folder."""
    found = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        lines = [x[1:].strip() for x in file.read_text().splitlines() if x.startswith("#")]
        about = next((x for x in lines if not x.startswith("@package")), "")
        if group == "experiment":
            about = re.search(r"^description: *(.*)$", file.read_text(), re.M).group(1)  # type: ignore[union-attr]
        found[file.stem] = about
    return found


@dataclass(frozen=True)
class Member:
    """What the catalogue says of an estimator: all of it read from its YAML and its docstrings.

    about: one line with source and year. target, evals: of the class' ``target`` and ``__call__``.
    theorem: the first sentence of the class.
    """

    about: str
    target: str
    evals: str
    theorem: str


def estimators() -> dict[str, Member]:
    """Every option of ``estimator=``, from the folders; nothing of them is imported."""
    import ast

    found = {}
    for name, about in options("estimator").items():
        text = (CONF / "estimator" / f"{name}.yaml").read_text()
        _, _, file, cls = re.search(r"^_target_: (\S+)$", text, re.M).group(1).split(".")  # type: ignore[union-attr]
        body = ast.parse((_HERE / "estimator" / f"{file}.py").read_text()).body
        (node,) = (x for x in body if isinstance(x, ast.ClassDef) and x.name == cls)
        docs = {x.name: _sentence(x) for x in node.body if isinstance(x, ast.FunctionDef)}
        fixed = [
            x.value.value
            for x in node.body
            if isinstance(x, ast.AnnAssign)
            and isinstance(x.target, ast.Name)
            and x.target.id == "target"
            and isinstance(x.value, ast.Constant)
        ]
        target = str(fixed[0]) if fixed else docs["target"].removeprefix("What it estimates: ")
        found[name] = Member(about, target, docs["__call__"], _sentence(node))
    return found


def _sentence(node: Any) -> str:
    """The first paragraph of a docstring, up to the end of its first sentence."""
    import ast

    first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s+(?=[A-Z])|; (?=draws)", first)[0].rstrip(".")


def page() -> str:
    """The catalogue of estimators as Markdown; makes each of them, to ask it for its target."""
    import yaml

    lines = [
        "# Estimators",
        "",
        "Made by `python -m sa.run --catalogue`, from `conf/estimator/` and the docstrings of",
        "`sa/estimator/`. Evals are forward-equivalents, a backward counts 2; N is `samples`,",
        "D the parameters that move. Estimates of different targets are different gradients.",
        "",
        "| `estimator=` | what it is | target | evals | theorem |",
        "|---|---|---|---|---|",
    ]
    for name, m in estimators().items():
        node = yaml.safe_load((CONF / "estimator" / f"{name}.yaml").read_text())
        target = _make("estimator", node).target
        cells = (f"`{name}`", m.about, target, m.evals, m.theorem)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def figures() -> list[str]:
    """The figure kinds: the files of their room, read without importing them."""
    return sorted({p.stem for p in (_HERE / "figure").glob("[a-z]*.py")} - {"draw"})


def catalogue() -> str:
    """The help page: usage, every group's options, the loop's settings; imports nothing heavy."""
    out = [USAGE]
    for group in _GROUPS:
        out.append(f"{group}=")
        if group == "estimator":
            for name, m in estimators().items():
                out.append(f"  {name:<18} {m.about}")
                out.append(f"  {'':<18}   target: {m.target}; {m.evals}")
            continue
        for name, about in options(group).items():
            out.append(f"  {name:<18} {about}")
    out.append("\nsettings (KEY=VALUE), with their defaults:")
    for line in (CONF / "config.yaml").read_text().splitlines():
        if line.startswith("figure:"):
            line = line.split("#")[0] + "# drawn at the end: " + ", ".join(figures())
        if re.match(r"(  )?[a-z_]+: +[^#]", line) and not line.startswith(("defaults", "  dir")):
            key, rest = line.split(":", 1)
            if key.strip() in ("output_subdir", "chdir"):
                continue
            value, _, about = rest.partition("#")
            key = f"sweep.{key.strip()}" if key.startswith("  ") else key
            out.append(f"  {key + '=' + value.strip():<28} {about.strip()}")
    out.append(
        "\nA component's own settings: conf/<group>/<name>.yaml, e.g. estimator.samples=5000"
    )
    return "\n".join(out)


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class Components:
    """A configuration made into objects, all of them validated."""

    task: Any
    estimator: Any
    optimizer: Callable[..., Any]
    recipe: Any
    analyses: dict[str, Any]
    tracker: Any


TYPED: list[str] = []
"""The words of the command line as they were typed."""

HELD: list[str] = []
"""Words of ``-m`` kept from Hydra, which would try them on the defaults first: for the sweeper."""


def hold(argv: list[str]) -> list[str]:
    """The words of a multirun that Hydra itself needs, ``-m`` first; the others go to HELD.

    Hydra composes the defaults with every word that lists no values, so that `estimator.samples=20`
    is refused beside `estimator=nes,cdg` although every swept estimator may have it.
    """
    TYPED[:] = argv
    HELD.clear()
    argv = sized(argv)
    if not {"-m", "--multirun"} & set(argv):
        return argv
    rest = [x for x in argv if x not in ("-m", "--multirun")]
    if any(x.startswith("hydra/sweeper=") for x in rest):
        return ["-m", *rest]
    own = re.compile(r"[~+]*(hydra[./]|hydra=|experiment=)|-|[^=]*$")
    HELD.extend(x for x in rest if not own.match(x))
    return ["-m", *(x for x in rest if own.match(x))]


def sized(argv: list[str]) -> list[str]:
    """The words with ``size=full`` replaced by what the experiment's ``full`` lists.

    A word of its list yields to a typed one of the same key. ``size=quick`` is the experiment as it
    is. Raises UsageError for another size, or where there is no experiment that has it.
    """
    rest = [x for x in argv if not re.match(r"\+*size=", x)]
    if rest == argv:
        return argv
    size = next(x.lstrip("+") for x in reversed(argv) if x not in rest)
    study = next((x.partition("=")[2] for x in rest if x.startswith("experiment=")), None)
    if size == "size=quick" and study:
        return rest
    if size != "size=full" or not full(study):
        there = ", ".join(x for x in options("experiment") if full(x))
        raise UsageError(f"{size}: there are size=quick and size=full, of experiment={{{there}}}")
    typed = {x.lstrip("+~").partition("=")[0] for x in rest}
    return [*(w for w in full(study) if w.lstrip("+~").partition("=")[0] not in typed), *rest]


def full(experiment: str | None) -> list[str]:
    """What ``size=full`` types of an experiment; empty where it has one size."""
    return [str(word) for word in _experiment(experiment).get("full") or []]


def _experiment(name: str | None) -> dict[str, Any]:
    import yaml

    path = CONF / "experiment" / f"{name}.yaml"
    return yaml.safe_load(path.read_text()) or {} if path.is_file() else {}


def swept(experiment: str | None) -> list[str]:
    """The settings that an experiment's own sweep varies."""
    node = _experiment(experiment)
    return list(((node.get("hydra") or {}).get("sweeper") or {}).get("params") or {})


@cache
def _top() -> frozenset[str]:
    """The top-level keys of a configuration."""
    import yaml

    whole = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = {k for x in whole["defaults"] if isinstance(x, dict) for k in x}
    return frozenset({*whole, *groups, "experiment"} - {"defaults", "hydra", "_self_"})


def build(config: dict[str, Any], here: bool = True) -> Components:
    """Validate a resolved configuration and make its components; UsageError, no side effects.

    here: whether it will run on this machine.
    """
    for key in config:
        if key not in _top():
            close = _close(key, _top())
            hint = f"; did you mean {close}?" if close else ""
            raise UsageError(f"{key}: there is no such setting{hint}\n{_HELP}")
    _scalars(config)
    for key, value in leaves(config):
        if key.rsplit(".", 1)[-1] == "_target_":
            _allowed(key, value)
    from sa.task import Mismatch, Task
    from sa.types import MissingData

    made = {k: _make(k, config[k]) for k in ("model", "dataset", "estimator", "optimizer")}
    analyses = {k: _make(f"analysis.{k}", v) for k, v in (config.get("analysis") or {}).items()}
    keys = "criterion moving batch_size batchnorm dtype device memory progress".split()
    known = {k: config[k] for k in keys}
    known |= {k: config[k] for k in ("autocast", "compile") if config.get(k) is not None}
    try:
        task = Task(model=made["model"], dataset=made["dataset"], **known)
    except ValueError as error:
        raise UsageError(invalid("", config, error)) from error
    try:
        task.check(here)
    except Mismatch as error:
        raise UsageError(f"{error.key}: {error}") from error
    except MissingData as error:
        raise NoData(f"dataset: {error}") from error
    except ValueError as error:
        raise UsageError(f"model: {error}") from error  # of the layers it is built of
    try:
        structure = task.structure()
        if structure.gradients and not _backpropagates(made["estimator"]):
            raise ValueError(
                "it back-propagates nothing that quantizer.gradient could quantize; set "
                "quantizer/gradient=none, or take an estimator of the straight-through family"
            )
        if hasattr(made["estimator"], "requires"):
            made["estimator"].requires(structure)
        if hasattr(made["estimator"], "fits"):
            made["estimator"].fits(task.point())
        if hasattr(made["estimator"], "trains"):
            optimizer = str(config["optimizer"]["_target_"]).rpartition(".")[2]
            asked = config["steps"], optimizer, config["optimizer"], config["batch_size"]
            made["estimator"].trains(*asked)
    except ValueError as error:
        raise UsageError(f"estimator: {error}") from error
    for name, analysis in analyses.items():
        try:
            if hasattr(analysis, "requires"):
                analysis.requires(structure)
            if hasattr(analysis, "fits"):
                analysis.fits(task.point(), config["memory"])
        except ValueError as error:
            raise UsageError(f"analysis.{name}: {error}") from error
    if config.get("init"):
        if config.get("init_seed") is not None:
            raise UsageError("init_seed: the run starts where its parent ended; set init=none")
        _parent(config, here)
    _ends(config, analyses, here)
    _paths(config, analyses)
    for key, analysis in analyses.items():
        try:
            getattr(analysis, "takes", lambda _: None)(made["dataset"])
        except ValueError as error:
            raise UsageError(f"analysis.{key}: {error}") from error
    recipe = _recipe(config, task)
    if config.get("replicas") is not None:
        _replicas(config, task, made["estimator"])
    for key in ("autocast", "compile", "processes"):
        if config.get(key):
            _faster(key, config, made["estimator"])
    if config.get("processes"):
        _processes(config, task, here)
    tracker = _make("tracker", config["tracker"])
    return Components(task, made["estimator"], made["optimizer"], recipe, analyses, tracker)


def _recipe(config: Config, task: Any) -> Any:
    """What the training has beside its optimizer, and whether this network and budget have it."""
    from sa.train import Recipe

    keys = "until recalibrate clip decay_all quantizer_lr".split()
    plain: Config = {k: config[k] for k in keys if config.get(k) is not None}
    stored = config.get("stored")
    if stored and not isinstance(stored, Mapping):
        raise UsageError(
            f"stored={stored}: expected a quantizer; type +quantizer/weight@stored=fixed_point"
        )
    made = {k: _make(k, config[k]) for k in ("schedule", "average", "stored") if config.get(k)}
    try:
        recipe = Recipe(**plain, **made)
        recipe.check(config["steps"])
        if recipe.clip and not task.latent():
            raise ValueError("clip: no layer has quantized weights; take e.g. quantizer=bwba")
        if any(k.endswith("accuracy") for k in recipe.until or {}) and not task.dataset.classes:
            raise ValueError("until: accuracies need classes; take train/loss or test/loss")
    except ValueError as error:
        raise UsageError(invalid("", config, error).removeprefix(": ")) from error
    if recipe.until and not (config["steps"] and config["evaluate_every"]):
        raise UsageError(
            "until: goals are looked at when a training is evaluated: set steps or epochs, the "
            "most it may take, and evaluate_every"
        )
    if config.get("init_average") and not (config.get("init") or {}).get("average"):
        raise UsageError("init_average: the parent averages nothing; set init.average")
    return recipe


_COUPLED = ("Adafactor", "LBFGS", "Muon")
"""Optimizers whose step of one number depends on the others': not for stacked networks."""


def _replicas(config: Config, task: Any, estimator: Any) -> None:
    """Refuse what is not, for networks trained together, what it is for each alone."""
    if not (estimator.target == "surrogate" and hasattr(estimator, "surrogate")):
        raise UsageError(
            "replicas: they are trained by one back-propagation through all of them; take "
            "estimator=ste, ste_clipped or another slope, or sweep over seed instead"
        )
    seen = (("analysis", "analysis=[]"), ("init", "init=none"), ("stored", "stored=null"))
    for key, instead in seen:
        if config.get(key):
            raise UsageError(f"replicas: {key} looks at one network; set {instead}")
    if config.get("init_seed") is not None:
        raise UsageError("replicas: each has a start of its own seed; set init_seed=null")
    if not config["steps"]:
        raise UsageError("replicas: they are for trainings; set steps or epochs")
    if task.keeps():
        raise UsageError(
            "replicas: a quantizer of this network keeps a range or levels from the data, for one "
            "network at a time; take another quantizer, or sweep over seed instead"
        )
    name = str(config["optimizer"]["_target_"]).rpartition(".")[2]
    if name in _COUPLED:
        raise UsageError(f"replicas: {name} does not step element by element; take sgd or adam")


def _faster(key: str, config: Config, estimator: Any) -> None:
    """Refuse what makes back-propagation alone faster where something else is done."""
    if estimator.target != "surrogate":
        raise UsageError(
            f"{key}: it is for trainings by back-propagation alone; take estimator=ste, "
            f"ste_clipped or another slope, or {key}={_typed(_off(key))} (differences, samples and "
            "seeds are computed in parallel by a sweep: -m ... hydra/launcher=local)"
        )
    if not config["steps"]:
        raise UsageError(f"{key}: it is for trainings; set steps or epochs")
    if config.get("analysis"):
        raise UsageError(f"{key}: analyses measure the exact loss in one process; set analysis=[]")
    if config.get("replicas") and key != "autocast":
        raise UsageError(f"{key}: replicas are one computation already; set replicas=null")


def _off(key: str) -> Any:
    return False if key == "compile" else None


def _processes(config: Config, task: Any, here: bool) -> None:
    """Refuse losses that are no sums over rows, and devices that there are too few of."""
    world, who = config["processes"], task.coupling()
    if who[0]:
        raise UsageError(f"processes: {who[0]} normalises rows together; set {who[1]}")
    rows = config["batch_size"] or task.dataset.rows
    if rows < world:
        raise UsageError(f"processes={world}: a step has {rows} rows; set processes={rows} or less")
    if str(config["device"]).startswith("cuda:"):
        raise UsageError("processes: each takes a GPU of its own; set device=cuda, not a number")
    if here and config["device"] == "cuda":
        import torch

        if torch.cuda.device_count() < world:
            many = torch.cuda.device_count()
            raise UsageError(
                f"processes={world}: each takes a GPU of its own, and there are {many}"
            )


def resolve(config: Config) -> Config:
    """The configuration with ``epochs`` told in ``steps`` and ``ends`` looked up."""
    config = _with_ends(config)
    if isinstance(config.get("init"), Mapping):
        config = {**config, "init": _estimating(config["init"], "init")}
    epochs, rows = config.get("epochs"), config.get("batch_size")
    if epochs is None:
        return config
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise UsageError(f"epochs={_typed(epochs)}: expected a whole number >= 1")
    steps = epochs * max(1, _make("dataset", config["dataset"]).rows // rows if rows else 1)
    if config["steps"] not in (0, steps):
        raise UsageError(
            f"epochs={epochs} is {steps} steps and steps={config['steps']} is another budget; "
            f"give one of them: steps=0 epochs={epochs}, or epochs=null"
        )
    return {**config, "steps": steps}


def _backpropagates(estimator: Any) -> bool:
    return estimator.target in ("surrogate", "stochastic") or bool(
        getattr(estimator, "surrogate", None)
    )


def parent(config: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of the run this one starts from, or None.

    ``init`` replaces top-level entries of this configuration; analyses are left out, so that
    every study starting the same way shares one parent.
    """
    init = config.get("init")
    if not init:
        return None
    loop: Config = {"analysis": {}, "analyse_every": None, "evaluate_every": None, "moving": "all"}
    loop |= dict.fromkeys((*LATER, "epochs"))
    return {**config, **loop, "init": None, "figure": [], **init}


def ends(config: Config) -> list[Config]:
    """The configurations of the trainings whose end points this run looks at; each as `parent`."""
    made = []
    for end in config.get("ends") or []:
        if isinstance(end, str):  # a run that is there
            made.append(_recorded(config, end))
        else:
            one = parent({**config, "init": end})
            assert one is not None
            made.append({**one, "root": config["root"]})
    return made


def _recorded(config: Config, run: str) -> Config:
    """The configuration of a finished run; UsageError where there is none."""
    import yaml

    root = Path(config["root"]).expanduser()
    path = root / "runs" / run / "config.yaml"
    if not re.fullmatch(r"\w+", run) or not (path.parent / "result.json").is_file():
        there = sorted(p.parent.name for p in root.glob("runs/*/checkpoint.pt"))
        told = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise UsageError(
            f"ends: there is no finished run and no sweep '{run}' in {root}; trainings: "
            f"{told or 'none'}"
        )
    return {**yaml.safe_load(path.read_text()), "root": config["root"]}


_OF_ENDS = "dim model dataset quantizer criterion dtype batchnorm seed device autocast".split()
"""What a run that looks at two finished trainings takes over from the first of them."""


def _with_ends(config: Config) -> Config:
    """The configuration with what ``ends`` names looked up: a sweep as its runs, a run's settings.

    Trainings that this run describes itself stay as they are; two may be named ``first`` and
    ``second``, so that a word can set one of them.
    """
    given = config.get("ends")
    if not given:
        return config
    if isinstance(given, Mapping) and set(given) == {"first", "second"}:
        given = [given["first"], given["second"]]
    names: list[Any] = []
    for one in [given] if isinstance(given, str | dict) else given:
        if isinstance(one, str) and one in sweeps(config["root"]):
            names += [point["run_id"] for point in read_manifest(config["root"], one)[1]]
        else:
            names.append(_estimating(one, "ends") if isinstance(one, Mapping) else one)
    if len(names) != 2:
        told = ", ".join(map(str, names[:8]))
        raise UsageError(f"ends: expected two trainings, there are {len(names)}: {told}")
    there = {x: _recorded(config, x) for x in names if isinstance(x, str)}
    for x, found in there.items():
        if not found["steps"] or found.get("replicas"):
            what = "a probe" if not found["steps"] else "of many networks at once"
            raise UsageError(f"ends: run {x} is {what}; name a training of one network")
    first, second = (there[x] if isinstance(x, str) else config for x in names)
    for key in ("model", "quantizer"):
        sides = [{f"{key}.{k}": str(v) for k, v in leaves(x[key] or {})} for x in (first, second)]
        apart = sorted(dict(set(sides[0].items()) ^ set(sides[1].items())))
        if apart:
            told = " and ".join(x if isinstance(x, str) else "this command" for x in names)
            raise UsageError(
                f"ends: {told} differ in {', '.join(apart)}; between different networks there is "
                "no line: name two trainings of one"
            )
    if any(isinstance(x, dict) for x in names):
        return {**config, "ends": names}
    return {**config, **{k: first[k] for k in _OF_ENDS if k in first}, "ends": names}


def _estimating(training: Mapping[str, Any], key: str) -> Config:
    """A training of ``init`` or ``ends`` with ``estimator: NAME`` as that option's settings."""
    import yaml

    name = training.get("estimator")
    if not isinstance(name, str):
        return dict(training)
    if name not in options("estimator"):
        raise UsageError(f"{key}: {_no_option('estimator', name)}")
    text = (CONF / "estimator" / f"{name}.yaml").read_text()
    return {**training, "estimator": yaml.safe_load(text)}


def _ends(config: Config, analyses: Mapping[str, Any], here: bool) -> None:
    """Refuse ends that cannot be looked at, and analyses of two trainings without them."""
    wanted = [k for k, a in analyses.items() if getattr(a, "between", False)]
    if not config.get("ends"):
        if wanted:
            raise UsageError(
                f"analysis.{wanted[0]}: it is of two trainings; name them: 'ends=[RUN,RUN]', or "
                "ends=SWEEP of two runs"
            )
        return
    if config["steps"] or config["moving"] != "all":
        key = "steps" if config["steps"] else "moving"
        only = "steps=0" if config["steps"] else "moving=all"
        raise UsageError(f"{key}: a run that looks at ends is a probe of all of it; set {only}")
    for end in config["ends"]:
        if isinstance(end, dict):
            try:
                _parent({**config, "init": end}, here)
            except UsageError as error:
                told = re.sub(r"^init(?= \(|\.|:)", "ends", str(error))
                raise UsageError(
                    told.replace("init.", "its ").replace("parent run", "training")
                ) from error


def _paths(config: Config, analyses: Mapping[str, Any]) -> None:
    """Refuse analyses of the way that a training took where it keeps too few points of it."""
    wanted = [k for k, a in analyses.items() if getattr(a, "follows", False)]
    if not wanted:
        return
    trains = config if config["steps"] else resolve(parent(config) or config)
    key = "snapshot_every" if trains["steps"] and config["steps"] else "init.snapshot_every"
    every = trains.get("snapshot_every")
    there = f"it keeps {-(-trains['steps'] // every) + 1}" if every else "it keeps none"
    if not every or trains["steps"] <= every:
        raise UsageError(
            f"analysis.{wanted[0]}: it is of the points that a training kept, three or more, and "
            f"{there if trains['steps'] else 'there is no training'}; set {key}=STEPS (of a probe, "
            "steps=0, of the training it starts from: init=ste_500 +init.snapshot_every=50)"
        )


_REPLACES = {
    "batch_size", "batchnorm", "criterion", "estimator", "evaluate_every", "moving", "optimizer",
    "seed", "steps",
} | LATER - {"init_average", "replicas", "ends"}  # fmt: skip
"""What ``init`` may say of the parent: no setting that others are made from, as dim is."""


def _parent(config: dict[str, Any], here: bool) -> None:
    unknown = sorted(set(config["init"]) - _REPLACES)
    if unknown:
        known = ", ".join(sorted(_REPLACES))
        raise UsageError(f"init.{unknown[0]}: init sets no such thing; it sets any of: {known}")
    made = parent(config)
    assert made is not None
    if made["steps"] == 0:
        raise UsageError("init.steps=0: a parent run has to train; set init.steps to 1 or more")
    try:
        build(made, here)
    except UsageError as error:
        raise UsageError(f"init (the parent run): {error}") from error


def _scalars(config: dict[str, Any]) -> None:
    ranges = {
        "dim": 1, "seed": 0, "steps": 0, "threads": 1, "memory": 1, "batch_size": 1,
        "evaluate_every": 1, "analyse_every": 1, "replicas": 1, "processes": 1,
        "snapshot_every": 1, "init_seed": 0,
    }  # fmt: skip
    free = ("batch_size", "evaluate_every", "analyse_every", "replicas", "processes",
            "snapshot_every", "init_seed")  # fmt: skip
    for key, least in ranges.items():
        value = config.get(key)
        if value is None and key in free:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{key}={value}: expected a whole number >= {least}")
    how = config["sweep"]
    for key in ("dry_run", "replace", "canary", "wait", "snapshot"):
        if not isinstance(how.get(key), bool):
            raise UsageError(f"sweep.{key}={how.get(key)}: expected true or false")
    most = how["max_failures"]
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UsageError(f"sweep.max_failures={_typed(most)}: expected a whole number >= 1 or null")
    for key in ("recalibrate", "decay_all", "init_average", "compile"):
        if config.get(key) not in (True, False, None):
            raise UsageError(f"{key}={config[key]}: expected true or false")
    for key in ("zip", "points", "exclude"):
        if not isinstance(how[key], list):
            raise UsageError(f"sweep.{key}={how[key]}: expected a list, e.g. 'sweep.{key}=[...]'")
    seconds = config["checkpoint_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise UsageError(f"checkpoint_seconds={seconds}: expected a number >= 0")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(config["device"])):
        raise UsageError(f"device={config['device']}: expected cpu, cuda or cuda:NUMBER")
    moving = config["moving"]
    if moving != "all" and not (isinstance(moving, list) and moving):
        raise UsageError(
            f"moving={moving}: expected all, or a list of name patterns and quantized-layer "
            "numbers, e.g. 'moving=[fc1.*]' or 'moving=[1,-1]'"
        )
    kinds = config["figure"]
    if not isinstance(kinds, list):
        raise UsageError(f"figure={kinds}: expected a list, e.g. figure=[lr_decrease]")
    there = figures()
    for kind in kinds:
        if kind not in there:
            raise UsageError(
                f"figure={kind}: there is no such figure; there are: {', '.join(there)}"
            )


def _allowed(key: str, target: Any) -> type:
    """The class a ``_target_`` names, if it is one of ours or an optimizer of torch."""
    if isinstance(target, str):
        if _COMPONENT.fullmatch(target) or target in _OTHERS:
            module, _, name = target.rpartition(".")
            return _load(key, module, name)
        if re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
            found = _load(key, "torch.optim", target.rpartition(".")[2])
            if issubclass(found, importlib.import_module("torch").optim.Optimizer):
                return found
    raise UsageError(
        f"{key}={target}: refused; a configuration may only name classes of sa's rooms "
        f"(sa.{{{','.join(ROOMS)}}}.<file>.<Class>) and optimizers of torch.optim"
    )


@cache
def _load(key: str, module: str, name: str) -> type:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}={module}.{name}: there is no such class ({error})") from error
    if not isinstance(found, type) or (module.startswith("sa.") and found.__module__ != module):
        raise UsageError(f"{key}={module}.{name}: refused; the class is not defined there")
    return found


_MADE: dict[str, Any] = {}


def _make(key: str, node: Any) -> Any:
    """One component, made once a process: components are frozen, and a plan repeats them."""
    name = json.dumps([key, node], sort_keys=True, default=str)
    if name not in _MADE:
        _MADE[name] = _instantiate(key, node)
    return _MADE[name]


def _instantiate(key: str, node: Any) -> Any:
    """Instantiate one component; every problem becomes a UsageError naming the dotted key."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(f"{key}: expected a component (a mapping with _target_), got {node!r}")
    try:
        made = instantiate(dict(node), _convert_="all")
        if key == "optimizer":
            import torch

            made([torch.zeros(1, requires_grad=True)])  # torch checks ranges at construction
    except InstantiationException as error:
        inner = error.__cause__ or error
        at = re.search(r"full_key: ?(\S+)", str(error))
        path = f"{key}.{at.group(1)}" if at else key
        raise UsageError(invalid(path, node, inner)) from error
    except (ValueError, TypeError) as error:
        raise UsageError(invalid(key, node, error)) from error
    for name, value in node.items():  # pydantic takes true for 1
        got = getattr(made, name, value)
        if isinstance(value, bool) and not isinstance(got, bool):
            raise UsageError(f"{key}.{name}={_typed(value)}: expected a number")
    return made


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def invalid(key: str, node: Mapping[str, Any], error: BaseException) -> str:
    """One line a person can act on, from pydantic's or torch's complaint."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        if key != "optimizer":
            return f"{key}: {error}"
        mine = ", ".join(f"{k}={_typed(v)}" for k, v in node.items() if not k.startswith("_"))
        if "unexpected keyword" in str(error):
            return f"{key}: {error}; take away what it does not know, e.g. ~optimizer.momentum"
        return f"{key}: {error} (given: {mine})"
    lines: list[str] = []
    # of a setting of several kinds there is an error a kind, with the kind, dict[...], in its place
    told_of = [[str(x) for x in one["loc"] if "[" not in str(x)] for one in error.errors()]
    for one, names in zip(error.errors(), told_of, strict=True):
        if any(names == more[: len(names)] and len(more) > len(names) for more in told_of):
            continue  # it is of the kind that goes deeper
        path = ".".join([key, *names]).strip(".")
        given, told = one["input"], one["msg"].removeprefix("Value error, ")
        told = told.replace("a valid tuple", "a list, [A,B]")
        if one["type"] == "unexpected_keyword_argument":
            known = [k for k in node if k != "_target_" and k not in names]
            lines.append(f"{path}: no such setting; there are: {', '.join(known) or 'none'}")
            if path == "estimator.temperature":
                lines.append(_TEMPERATURE)
        elif names:
            through = " (dim sets it)" if names[-1] == "dim" else ""
            words = f"{path}={_typed(given)}: {told[0].lower()}{told[1:]}{through}"
            if lines and lines[-1].startswith(f"{path}="):
                lines[-1] += f", or {told.removeprefix('Input should be ')}"
            else:
                lines.append(words)
        else:
            lines.append(f"{path}: {told}")
    return "\n".join(lines)


def explain(error: Exception, argv: list[str]) -> str | None:
    """A one-screen message for an error of Hydra's, with what there is and what was meant."""
    text = str(error)
    missing = getattr(error, "missing_cfg_file", None)
    if not missing:
        found = re.search(r"In '[^']*': Could not find '([^']+)'", text)
        missing = found.group(1) if found else None
    if missing:
        group, _, name = str(missing).rpartition("/")
        return _no_option(group, name)
    key = re.search(r"Could not (?:override|delete) '([^']+)'", text) or re.search(
        r"Key '([^']+)' (?:is )?not in", text
    )
    if text.startswith("Ambiguous value for argument"):
        given = text.splitlines()[0].partition("'")[2].rstrip("'")
        return f"{given} lists several values: write -m to sweep over them, or KEY=[A,B] for a list"
    if key and "No match in the defaults list" not in text:
        return _no_key(key.group(1), argv)
    if "No match in the defaults list" in text:
        name = key.group(1) if key else "?"
        if name in _GROUPS:
            return f"{name}: cannot be taken away; {name}=[] or another option replaces it"
        close = _close(name, _GROUPS)
        hint = f"; did you mean {close}=?" if close else ""
        return f"{name}: there is no such group{hint}\ngroups: {', '.join(_GROUPS)}"
    if type(error).__name__ in ("OverrideParseException", "LexerCanceledException"):
        first = text.splitlines()[0]
        return (
            f"{first}\nwrite KEY=VALUE; quote what holds spaces, commas or brackets: 'KEY=\"a b\"'"
        )
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return text.split("\nSet the environment")[0]
    return None


def _close(name: str, there: Iterable[str]) -> str | None:
    """The one of several names that was probably meant; swapped letters come first."""
    swapped = [x for x in there if sorted(x) == sorted(name)]
    return next(iter(swapped or difflib.get_close_matches(name, list(there), 1)), None)


def _no_option(group: str, name: str) -> str:
    there = list(options(group))
    close = _close(name, there)
    hint = f"; did you mean {group}={close}?" if close else ""
    if not there:
        return f"{group}={name}: there is no such group; groups: {', '.join(_GROUPS)}"
    return f"{group}={name}: there is no such {group}{hint}\nthere are: {', '.join(there)}"


def _no_key(key: str, argv: list[str]) -> str:
    """A key that the chosen options do not have: near misses, and who does have it."""
    group, _, name = key.partition(".")
    for chosen in _choices(argv):  # of a sweep, the first point that lacks the key
        known: list[str] = list(_settings("config", ""))
        for room in chosen:
            if (CONF / room / f"{chosen[room]}.yaml").is_file():
                known += _settings(f"{room}/{chosen[room]}", f"{room}.")
        if key not in known:
            break
    elsewhere = {o: _settings(f"{group}/{o}", "") for o in options(group)} if name else {}
    every = {x for names in elsewhere.values() for x in names}
    meant = difflib.get_close_matches(name, every, 1)
    owners = [o for o, names in elsewhere.items() if meant and meant[0] in names]
    close = _close(key, [x for x in (*known, *_GROUPS) if x != group])
    close = close if not owners or chosen.get(group) in owners else None
    hint = f"; did you mean {close}?" if close else ""
    lines = [f"{key}: there is no such setting{hint}"]
    if name and group in chosen:
        mine = [x.removeprefix(f"{group}.") for x in known if x.startswith(f"{group}.")]
        lines.append(f"{group}={chosen[group]} has: {', '.join(mine) or 'no settings'}")
        if owners and chosen[group] not in owners:
            lines.append(f"'{meant[0]}' is a setting of {group}={'|'.join(owners)}")
    if key == "estimator.temperature":
        lines.append(_TEMPERATURE)
    if key == "until":  # the keys of a mapping: those of another goal are new to it
        lines = ["until: the study has a goal of its own; type another value of that, or add yours"]
        lines.append("beside it: '++until={train/accuracy:0.9}' (the first that is met ends it)")
    lines.append(_HELP)
    return "\n".join(lines)


def _choices(argv: list[str]) -> Iterator[dict[str, str]]:
    """Group -> option, as typed: one for every combination that a sweep makes."""
    import yaml

    defaults: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            defaults |= {k: v for k, v in entry.items() if isinstance(v, str)}
    words = dict(x.lstrip("+").split("=", 1) for x in argv if "=" in x)
    listed: dict[str, list[str]] = {}
    for group, value in words.items():
        if (CONF / group).is_dir():
            inside = re.sub(r"^(choice|glob)\((.*)\)$", r"\2", value)
            names = [n for part in inside.split(",") for n in fnmatch.filter(options(group), part)]
            listed[group] = names or [value]
    for some in itertools.islice(itertools.product(*listed.values()), 1000):
        mine = dict(zip(listed, some, strict=True))
        path = CONF / "experiment" / f"{mine.get('experiment')}.yaml"
        text = path.read_text() if path.is_file() else ""
        yield defaults | dict(re.findall(r"override /(\w+): (\w+)", text)) | mine


def _settings(file: str, prefix: str) -> list[str]:
    import yaml

    content = yaml.safe_load((CONF / f"{file}.yaml").read_text()) or {}
    skip = ("defaults", "hydra", "_target_", "_partial_")
    return [
        f"{prefix}{k}"
        for k, _ in leaves({k: v for k, v in content.items() if k not in skip})
        if not k.endswith(("_target_", "_partial_"))
    ]
