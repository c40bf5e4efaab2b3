"""Settings that come from the data: the hash of their content, shapes, and steps of epochs."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa.config.component import make
from sa.config.error import NoData, UsageError, typed
from sa.config.rules import resolved


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn the errors of a dataset into errors of the command line, inside a ``with``.

    Raises:
        NoData: its files are not on this machine.
        UsageError: its files cannot be used.

    """
    from sa.types import BadData, MissingData

    try:
        yield
    except MissingData as error:
        raise NoData(f"dataset: {error}") from error
    except BadData as error:
        raise UsageError(f"dataset: {error}") from error


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the settings that come from its data filled in.

    These are ``dataset.sha`` and ``dataset.classes`` of files, ``model.shape`` if it is null,
    ``model.sha`` of a file of weights, and the layers that ``rules`` reach. A path becomes
    absolute, for workers that start in another folder. If the data cannot be read, they stay as
    they are: `sa.config.build.validate` then says why.
    """
    data, model = config.get("dataset"), config.get("model")
    if not (isinstance(data, Mapping) and isinstance(model, Mapping)):
        return config
    hashed = "sha" in data
    data, model = _placed(data), _placed(model)
    shapeless = model.get("shape", ()) is None
    rules, weights = config.get("rules"), "sha" in model and model["path"]
    if not (hashed or shapeless or rules or weights):
        return config
    config = {**config, "dataset": data, "model": model}
    with contextlib.suppress(UsageError), reading():
        dataset = make("dataset", data)
        if hashed:
            config["dataset"] = {**data, **_content(dataset, data)}
        if shapeless:
            config["model"] = model = {**model, "shape": list(dataset.shape)}
        if weights:
            config["model"] = {**model, **_content(make("model", model), model)}
        if rules:
            config["rules"] = resolved(rules, make("model", config["model"]))
    return config


def _placed(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a component with an absolute path, if a file with a hash is named."""
    path = node.get("path")
    if "sha" not in node or not isinstance(path, str) or not path:
        return dict(node)
    return {**node, "path": str(Path(path).expanduser().absolute())}


def in_steps(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with ``epochs`` in ``steps``.

    Raises:
        UsageError: ``epochs`` is no number of epochs, is another budget than ``steps``, or the data
            have no epochs.
        NoData: the files of the dataset are not on this machine.

    """
    from sa.network.hooks import trait

    epochs, rows = config.get("epochs"), config.get("batch_size")
    if epochs is None:
        return config
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise UsageError(f"epochs={typed(epochs)}: expected a whole number >= 1")
    with reading():
        dataset = make("dataset", config["dataset"])
        steps = epochs * max(1, dataset.rows // rows if rows else 1)
    if trait(dataset, "fresh"):
        raise UsageError(
            f"epochs={epochs}: with dataset.fresh=true no row comes twice, so there are no epochs; "
            "set steps"
        )
    if config["steps"] not in (0, steps):
        raise UsageError(
            f"epochs={epochs} is {steps} steps and steps={config['steps']} is another budget; "
            f"type one of them: epochs={epochs}, or steps={config['steps']}"
        )
    return {**config, "steps": steps}


def _content(dataset: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that describe the content of the files of a dataset or a model."""
    from sa.types import Hashed

    if not isinstance(dataset, Hashed) or data["sha"]:
        return {}
    counted = {"classes": dataset.classes} if "classes" in data else {}  # type: ignore[attr-defined]
    return {"sha": dataset.digest(), **counted}
