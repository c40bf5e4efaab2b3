"""Decides which classes a configuration may name: those of sa, torch.optim and trusted packages.

A configuration may be a stranger's, so nothing in a file grants trust. Trusted packages come from
the installed distributions, from the variable SA_TRUST, and from ``--trust`` on the command line.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from sa.config.error import UsageError
from sa.record import files, provenance, telling

ROOMS = ("dataset", "model", "quantizer", "estimator", "analysis")
VARIABLE = "SA_TRUST"
"""The variable that names trusted packages, MYLAB,OTHER. Workers get it with the environment."""

NOTE = "packages.json"
"""The file beside a planned run's config.yaml, and in a sweep's copy of the code: the foreign
packages. It grants no trust."""

_CODE = Path(__file__).resolve().parents[2]
"""The folder that this sa lies in; if it is a sweep's copy, foreign packages lie there, too."""

MODULE = "sa.model.module.Module"
"""The model whose setting ``target`` names a class, too."""

_COMPONENT = re.compile(rf"sa\.(?:{'|'.join(ROOMS)})\.[a-z][a-z0-9_]*\.[A-Z]\w*")
_OTHERS = (
    "sa.types.Slots",
    "sa.tracking.wandb.Wandb",
    "sa.training.schedule.Annealed",
    "sa.training.schedule.StepDecay",
    "sa.training.average.Average",
    "sa.training.muon.Muon",
)
NEVER = sys.stdlib_module_names | {"sa", "hydra_plugins", "hydra", "torch", "numpy"}
"""Packages that nobody can trust as a whole: their classes can do far more than compute."""


def from_words(argv: Sequence[str]) -> list[str]:
    """Return the words without ``--trust NAME``, and trust the packages that these name.

    Raises:
        UsageError: there is no name behind ``--trust``, or SA_TRUST names no packages.

    """
    words, rest, named = list(argv), list[str](), list[str]()
    while words:
        flag, given, names = words.pop(0).partition("=")
        if flag != "--trust":
            rest.append(f"{flag}{given}{names}")
            continue
        names = names if given or not words else words.pop(0)
        if not _names(names):
            raise UsageError("--trust: expected the name of a package; type --trust mylab")
        named += _names(names, "--trust ")
    known = _names(os.environ.get(VARIABLE, ""), f"{VARIABLE}=")
    if named:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*known, *named]))
    return rest


def _names(text: str, said: str = "") -> list[str]:
    """Return the names of packages in a list with commas.

    Args:
        text: the list.
        said: the word before it, for messages.

    Raises:
        UsageError: a name that no package has, or one that nobody can trust.

    """
    names = [x.strip() for x in text.split(",") if x.strip()]
    for name in names:
        if said and not name.isidentifier():
            raise UsageError(
                f"{said}{text}: '{name}' is not the name of a package; type names with commas "
                f"between them, e.g. {said}mylab,other"
            )
        if said and name in NEVER:
            raise UsageError(
                f"{said}{text}: '{name}' is a library, and its classes can do anything; trust the "
                "package that holds your own classes"
            )
    return names


@cache
def installed() -> dict[str, str]:
    """Return the packages that installed distributions offer to sa: name -> version.

    A distribution offers one by ``[project.entry-points.sa] mylab = "mylab"``. Nothing is imported.
    """
    found = metadata.entry_points(group="sa")
    versions = {x.module.partition(".")[0]: x.dist.version if x.dist else "" for x in found}
    return {k: v for k, v in versions.items() if k not in NEVER}


def trusted() -> dict[str, str]:
    """Return the trusted packages: name -> version if one is installed for sa, else SA_TRUST."""
    return dict.fromkeys(_names(os.environ.get(VARIABLE, "")), VARIABLE) | installed()


def place(package: str) -> Path | None:
    """Return the folder or file of a package; None if Python does not find it. Imports nothing."""
    try:
        spec = util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or [])
    where = folders[0] if folders else spec.origin
    return Path(where).resolve() if where else None


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, class) for every ``_target_``, also inside lists."""
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, Mapping) else []
    items = enumerate(node) if isinstance(node, list | tuple) else items
    for key, value in items:
        inside = f"{path}.{key}" if path else str(key)
        own = key == "target" and value and node.get("_target_") == MODULE
        if key == "_target_" or own:
            yield inside, value
        yield from targets(value, inside)


def packages(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a record says of the foreign packages in a configuration: version, path, commit.

    The version is SA_TRUST for a package that is trusted by its name alone. Of a sweep's copy it
    says what it said of the original.
    """
    roots = {str(t).partition(".")[0] for _, t in targets(config)} & set(trusted())
    copied = files.read_json(_CODE / NOTE) or {}
    found = {}
    for root in sorted(roots):
        path = place(root)
        if path and path.parent == _CODE and root in copied:
            found[root] = copied[root]
            continue
        commit = provenance.commit_of(path) if path else {}
        found[root] = {"version": trusted()[root], "path": str(path) if path else None, **commit}
    return found


def untrusted(config: Mapping[str, Any]) -> set[str]:
    """Return the foreign packages whose classes a configuration names and nobody trusts."""
    named = (x.partition(".")[0] for _, x in targets(config) if isinstance(x, str) and "." in x)
    return set(named) - NEVER - set(trusted())


def allowed(key: str, target: Any) -> type:
    """Return the class that a ``_target_`` names.

    Args:
        key: where the configuration names it, for messages.
        target: its dotted name.

    Raises:
        UsageError: it is no component of sa, no optimizer of torch, and of no trusted package.

    """
    if isinstance(target, str):
        if _COMPONENT.fullmatch(target) or target in _OTHERS:
            return _load(key, target, target.rpartition(".")[0])
        if re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
            found = _load(key, target, "torch")
            if issubclass(found, importlib.import_module("torch").optim.Optimizer):
                return found
        root = target.partition(".")[0]
        if re.fullmatch(r"\w+(\.\w+)+", target) and root not in NEVER:
            if root not in trusted():
                raise UsageError(f"{key}={target}: {_untrusted(root)}")
            _tell_place(root)
            return _load(key, target, root)
    raise UsageError(
        f"{key}={target}: refused; a configuration may only name components of sa, as "
        f"sa.{{{','.join(ROOMS)}}}.FILE.CLASS, optimizers, as torch.optim.CLASS, and classes of "
        "packages that you trust"
    )


def _untrusted(root: str) -> str:
    return (
        f"'{root}' is not trusted. A configuration never says whom to trust: you do, with "
        f"{VARIABLE}={root}, --trust {root}, or by installing a distribution of it that has "
        f'[project.entry-points.sa] {root} = "{root}"'
    )


def _tell_place(root: str) -> None:
    """Print where a package of SA_TRUST lies, once, if that is below the current folder.

    ``python -m`` looks in the current folder first, so that another package of the name would run.
    """
    path = place(root) if trusted()[root] == VARIABLE else None
    if path and path.is_relative_to(Path.cwd()):
        telling.note_once(f"{VARIABLE}: '{root}' is {path}")


@cache
def _load(key: str, target: str, within: str) -> type:
    """Return a class; UsageError if it does not exist, or is defined outside of a package.

    Args:
        key: where the configuration names it, for messages.
        target: its dotted name.
        within: the package or module that has to define it.

    """
    module, _, name = target.rpartition(".")
    try:
        found = vars(importlib.import_module(module)).get(name)
    except Exception as error:  # a package of others may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == within:
            raise UsageError(
                f"{key}={target}: '{within}' is trusted, but Python does not find it here; install "
                "it in this environment, or name its folder in PYTHONPATH"
            ) from error
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{key}={target}: there is no such class ({why})") from error
    if found is None:
        raise UsageError(f"{key}={target}: there is no such class in {module}")
    if not isinstance(found, type) or not f"{found.__module__}.".startswith(f"{within}."):
        raise UsageError(f"{key}={target}: refused; name a class by the file that defines it")
    return found
