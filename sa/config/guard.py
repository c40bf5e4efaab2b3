"""Refuses what Hydra itself would run from a file: callbacks, loggers, classes, shell text.

Settings of a launcher become lines of a job's shell script. So a file may set numbers there, and
the words in `_PLAIN`. All other settings, e.g. ``setup`` and ``extra``, are taken from three
places only: words that a person types, files of sa and Hydra, and files inside a package that the
person trusts. sa cannot tell who wrote any other file, so it refuses them there, also in a folder
that is named by ``--config-dir``. Such a file names no package to search for options either,
because Hydra imports it.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sa.config.error import UsageError, typed
from sa.config.search import CONF
from sa.config.trust import place, targets, trusted

_PLUGINS = re.compile(r"hydra_plugins\.[\w.]+|hydra\._internal\.core_plugins\.[\w.]+")
_PARTS = re.compile(r"optuna\.samplers\.[A-Z]\w*")
"""Classes that the settings of a plugin may name."""

_PLAIN = ("_target_", "partition", "qos", "account", "constraint", "gres")
"""Settings of a launcher that any file may set to a word. (`check` looks at _target_.)"""

_WORD = re.compile(r"[\w.:,@&|*+-]*")


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Check every configuration that Hydra composes inside of the ``with``, before Hydra uses it.

    Hydra has no hook between composing and using: it builds callbacks, loggers, the sweeper and the
    launcher from the configuration at once. So its function that composes is wrapped.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose, load = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl._load_single_config
    search = ConfigLoaderImpl._process_config_searchpath

    def searched(self: Any, *args: Any, **kwargs: Any) -> Any:
        name, _, repo = args
        found = repo.load_config(config_path=name) if name else None
        if found and not _is_trusted(found.path):
            check_searchpath(found.config, found.path)
        return search(self, *args, **kwargs)

    def loaded(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = load(self, *args, **kwargs)
        if not _is_trusted(found.path):
            check_file(found.config, found.path)
        return found

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = compose(self, *args, **kwargs)
        check(config.hydra)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    ConfigLoaderImpl._load_single_config = loaded  # type: ignore[method-assign]
    ConfigLoaderImpl._process_config_searchpath = searched  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]
        ConfigLoaderImpl._load_single_config = load  # type: ignore[method-assign]
        ConfigLoaderImpl._process_config_searchpath = search  # type: ignore[method-assign]


def _is_trusted(source: str) -> bool:
    """Return whether options come from sa, Hydra, or a package that the person trusts.

    Args:
        source: where Hydra found them: file://FOLDER, pkg://PACKAGE, or structured:// for the
            plugins of Hydra.

    """
    scheme, _, rest = source.partition("://")
    if scheme == "file":
        homes = [CONF, *(found for name in trusted() if (found := place(name)))]
        return any(Path(rest).resolve().is_relative_to(home) for home in homes)
    return scheme == "structured" or rest.partition(".")[0] in {"hydra", *trusted()}


def check_searchpath(config: Any, source: str) -> None:
    """Raise UsageError if a file that nobody trusts names a package, which Hydra would import."""
    from omegaconf import OmegaConf

    for name in OmegaConf.select(config, "hydra.searchpath") or []:
        if str(name).startswith("pkg:") and not _is_trusted(str(name)):
            raise UsageError(
                f"hydra.searchpath: refused, a file in {source.partition('://')[2]} names {name}, "
                "and Hydra would run that package to look for options; if you want it, type "
                f"'hydra.searchpath=[{name}]'"
            )


def check_file(config: Any, source: str) -> None:
    """Raise UsageError if a file that nobody trusts sets text that a shell or Python would run.

    Args:
        config: the content of the file, with its place in the whole configuration.
        source: where Hydra found it.

    """
    from omegaconf import OmegaConf

    whole = OmegaConf.to_container(config, resolve=False)
    hydra = whole.get("hydra") if isinstance(whole, dict) else None
    parts = {k: hydra.get(k) for k in ("launcher", "sweeper")} if isinstance(hydra, dict) else {}
    if isinstance(hydra, str):
        parts = {"launcher": hydra}
    launcher = parts.get("launcher")
    launcher = {"": launcher} if isinstance(launcher, str) else launcher or {}
    refused = [k for k, v in launcher.items() if not _is_plain(str(k), v)]
    found = {f"hydra.launcher.{k}".rstrip("."): launcher[k] for k in refused}
    sweeper = parts.get("sweeper")
    if isinstance(sweeper, dict) and sweeper.get("custom_search_space"):  # Optuna's calls it
        found["hydra.sweeper.custom_search_space"] = sweeper["custom_search_space"]
    for key, value in found.items():
        raise UsageError(
            f"{key}: refused, a file in {source.partition('://')[2]} sets it to text that would "
            "run as code, and sa cannot tell who wrote that file. If you want it, type "
            f"'{key}={typed(value)}', or keep the file in a package that you trust"
        )


def _is_plain(key: str, value: Any) -> bool:
    """Return whether a file that nobody trusts may give a launcher this setting."""
    if isinstance(value, str):
        return key in _PLAIN and bool(_WORD.fullmatch(value))
    return not value or isinstance(value, int | float)


def check(hydra: Any) -> None:
    """Raise UsageError if the section ``hydra`` of a configuration would run code of its own."""
    from omegaconf import OmegaConf

    if hydra.callbacks:
        raise UsageError(
            "hydra.callbacks: refused, a configuration may not say what code runs; leave it out"
        )
    if hydra.job.env_set:
        raise UsageError(
            "hydra.job.env_set: refused, a configuration may not change the environment; write "
            "NAME=VALUE before the command"
        )
    for key in ("job_logging", "hydra_logging"):
        given = OmegaConf.to_container(hydra[key], resolve=False) if hydra[key] else {}
        if isinstance(given, dict) and given.get("root"):
            raise UsageError(
                f"hydra.{key}: refused, loggers may run any code, and sa writes a log of its own; "
                "leave it out"
            )
    for key in ("launcher", "sweeper"):
        given = OmegaConf.to_container(hydra[key], resolve=True) if hydra[key] else {}
        for path, target in targets(given, f"hydra.{key}"):
            good = _PLUGINS if path == f"hydra.{key}._target_" else _PARTS
            if not (isinstance(target, str) and good.fullmatch(target)):
                raise UsageError(f"{path}={target}: refused, no plugin of Hydra; leave it out")
        for path, text in _texts(given, f"hydra.{key}"):
            if "${" in text:
                raise UsageError(f"{path}: refused, a text that is computed twice; write it out")
            if key == "launcher" and not text.isprintable():
                raise UsageError(
                    f"{path}={text!r}: refused, the line break in it would start a new line in "
                    "the script of a job; write one line"
                )


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for every text, keys of mappings included."""
    if isinstance(node, str):
        yield path, node
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else []
    for key, value in enumerate(node) if isinstance(node, list) else items:
        yield from _texts(value, f"{path}.{key}")
        yield f"{path}.{key}", str(key)
