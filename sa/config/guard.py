"""Refuses what Hydra itself would run from a file: callbacks, loggers, classes of plugins."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sa.config.error import UsageError
from sa.config.trust import targets

_PLUGINS = re.compile(r"hydra_plugins\.[\w.]+|hydra\._internal\.core_plugins\.[\w.]+")
_PARTS = re.compile(r"optuna\.samplers\.[A-Z]\w*")
"""Classes that the settings of a plugin may name."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Check every configuration that Hydra composes inside of the ``with``, before Hydra uses it.

    Hydra has no hook between composing and using: it builds callbacks, loggers, the sweeper and the
    launcher from the configuration at once. So its function that composes is wrapped.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose = ConfigLoaderImpl.load_configuration

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = compose(self, *args, **kwargs)
        check(config.hydra)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


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
        if key_of_text := _interpolated(given, f"hydra.{key}"):
            raise UsageError(f"{key_of_text}: refused, a text that is computed twice; write it out")


def _interpolated(node: Any, path: str) -> str:
    """Return the dotted name of a text that Hydra would interpolate again; '' without one."""
    if isinstance(node, str):
        return path if "${" in node else ""
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else []
    items = enumerate(node) if isinstance(node, list) else items
    return next((x for k, v in items if (x := _interpolated(v, f"{path}.{k}"))), "")
