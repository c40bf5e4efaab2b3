"""The other runs of a configuration: the parent it starts from, the trainings it looks at."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sa.config.argv import sets
from sa.config.catalogue import commented, leaves, options, plain, top
from sa.config.data import filled, in_steps
from sa.config.error import HELP, UsageError, renamed, typed
from sa.config.explain import no_option
from sa.record.config import read_config
from sa.record.identity import DEFAULTS, LATER, RENAMED, Config, identity
from sa.record.sweep import read_manifest, sweeps

_MAY_LACK = ("analysis", "schedule", "average", "init", "experiment")
"""Groups that a configuration may leave out."""

_OF_ENDS = "dim model dataset quantizer criterion dtype batchnorm seed device autocast".split()
"""Settings that a run with ``ends`` takes from the first of two finished trainings."""


def resolve(config: Config, words: Sequence[str] = ()) -> Config:
    """Return the configuration with every setting that depends on others or on data filled in.

    `sa.config.data.filled` lists the settings that come from the data.

    Args:
        config: the configuration as Hydra composed it.
        words: the words that were typed.

    Raises:
        UsageError: a setting cannot be used, or a word contradicts a training of ``ends``.

    """
    for old in RENAMED.keys() & config.keys():
        raise UsageError(renamed(f"{old}={typed(config[old])}"))
    root = config.get("root")
    if not isinstance(root, str | int) or isinstance(root, bool):
        raise UsageError(f"root={typed(root)}: expected a folder, e.g. root=results")
    sweep = config.get("sweep")
    if not isinstance(sweep, Mapping):
        raise UsageError(f"sweep={typed(sweep)}: set what is in it, e.g. sweep.name=NAME")
    known = [k.removeprefix("sweep.") for k in commented() if k.startswith("sweep.")]
    for key in sweep:
        if key not in known:
            raise UsageError(
                f"sweep.{key}: there is no such setting; there are: {', '.join(known)}"
            )
    for key in top():
        if key not in config and key not in _MAY_LACK:
            raise UsageError(f"{key}: cannot be taken away; give it another value\n{HELP}")
    name = sweep.get("name")
    if name == "" or isinstance(name, bool) or not isinstance(name, str | int | None):
        raise UsageError(f"sweep.name={typed(name)}: expected a name; sweep.name=null makes one")
    name = None if name is None else str(name)
    if config.get("augment") == "none":
        config = {**config, "augment": None}
    config = {"init": {}, **config, "root": str(root), "sweep": {**sweep, "name": name}}
    data = config.get("dataset")
    if isinstance(data, Mapping) and isinstance(data.get("root"), str):
        # a worker or a retry elsewhere reads the data of the folder where this was typed
        where = Path(data["root"]).expanduser().absolute()
        config["dataset"] = {**data, "root": str(where)}
    config = filled(_with_ends(config, words))
    if isinstance(config.get("init"), Mapping):
        config = {**config, "init": _by_name(config["init"], "init")}
    return in_steps(config)


def parent(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of the parent, the run that this one starts from; None without one.

    ``init`` replaces top-level entries of this configuration. The parent has no analyses, so that
    all studies with the same start share one parent.
    """
    init = config.get("init")
    if not init:
        return None
    loop: Config = {"analysis": {}, "analyse_every": None, "evaluate_every": None, "moving": "all"}
    loop |= dict.fromkeys((*LATER, "epochs")) | DEFAULTS
    return {**config, **loop, "init": None, "figure": [], **init}


def ends(config: Config) -> list[Config]:
    """Return the configurations of the two trainings of ``ends``, whose end points are compared.

    A training is the id of a finished run, or is described as ``init`` describes a parent.
    """
    made = []
    for end in config.get("ends") or []:
        if isinstance(end, str):  # the id of a finished run
            made.append(_recorded(config, end))
        else:
            one = parent({**config, "init": end})
            assert one is not None
            made.append({**one, "root": config["root"]})
    return made


def _with_ends(config: Config, words: Sequence[str]) -> Config:
    """Return the configuration with ``ends`` as two trainings; each is a run id or settings.

    The name of a sweep is replaced by the ids of its two runs. If both trainings are finished runs,
    the configuration takes the settings of `_OF_ENDS` from the first of them. Two trainings that
    are described may be called ``first`` and ``second``, so that a word can set one of them.
    """
    given = config.get("ends")
    if not given:
        return config
    if isinstance(given, Mapping) and set(given) == {"first", "second"}:
        given = [given["first"], given["second"]]
    names: list[Any] = []
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, str) and one in sweeps(config["root"]):
            names += [point["run_id"] for point in read_manifest(config["root"], one)[1]]
        else:
            names.append(_by_name(one, "ends") if isinstance(one, Mapping) else one)
    if len(names) != 2:
        told = ", ".join(map(str, names[:8]))
        raise UsageError(f"ends: expected two trainings, there are {len(names)}: {told}")
    there = {x: _recorded(config, x) for x in names if isinstance(x, str)}
    for x, found in there.items():
        if not found["steps"] or found.get("replicas"):
            what = "a probe" if not found["steps"] else "of many networks at once"
            raise UsageError(f"ends: run {x} is {what}; name a training of one network")
    taken = [k for k in _OF_ENDS if not sets(words, k)] if isinstance(names[0], str) else []
    own = filled({**config, **{k: there[names[0]].get(k) for k in taken}})
    first, second = (there[x] if isinstance(x, str) else own for x in names)
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
    for key in _OF_ENDS:
        if sets(words, key) and identity({key: own.get(key)}) != identity({key: first.get(key)}):
            raise UsageError(
                f"{key}: a run that looks at finished trainings takes it from the first of them, "
                f"{names[0]}; leave it out, or name trainings that have it"
            )
    return {**config, **{k: first[k] for k in _OF_ENDS if k in first}, "ends": names}


def _recorded(config: Config, run: str) -> Config:
    """Return the configuration of a finished run; UsageError if there is no such run."""
    root = Path(config["root"]).expanduser()
    path = root / "runs" / run / "config.yaml"
    if not re.fullmatch(r"\w+", run) or not (path.parent / "result.json").is_file():
        there = sorted(p.parent.name for p in root.glob("runs/*/checkpoint.pt"))
        told = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise UsageError(
            f"ends: there is no finished run and no sweep '{run}' in {root}; trainings: "
            f"{told or 'none'}"
        )
    return {**read_config(path.parent), "root": config["root"]}


def _by_name(training: Mapping[str, Any], key: str) -> Config:
    """Return a training of ``init`` or ``ends`` with settings in place of names of options.

    This holds for its estimator, optimizer, schedule and average: ``estimator: NAME`` becomes the
    settings of NAME.
    """
    found = dict(training)
    for group in ("estimator", "optimizer", "schedule", "average"):
        name = found.get(group)
        if not isinstance(name, str):
            continue
        if name not in options(group):
            raise UsageError(f"{key}: {no_option(group, name)}")
        found[group] = dict(plain(group, name))
    return found
