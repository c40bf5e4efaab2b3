"""Reads the file of an experiment before Hydra does: its sizes, as words to type."""

import re
from collections.abc import Mapping
from typing import Any

from sa.config.error import UsageError, typed
from sa.config.search import find


def sizes(experiment: str | None) -> dict[str, dict[str, Any]]:
    """Return the sizes of an experiment by their names: quick, which -m sweeps, and others.

    Args:
        experiment: its name; None for no experiment.

    Raises:
        UsageError: ``sizes`` is not a mapping of names in small letters to mappings.

    """
    found = read(experiment).get("sizes") or {}
    known = isinstance(found, Mapping) and all(isinstance(v, Mapping) for v in found.values())
    if not known or not all(re.fullmatch(r"[a-z]\w*", str(k)) for k in found):
        form = "sizes: {quick: {seed: [0, 1]}, full: {seed: range(5), steps: 1000}}"
        raise UsageError(f"experiment={experiment}: sizes has another form; write e.g. {form}")
    return {str(k): dict(v) for k, v in found.items()}


def read(experiment: str | None) -> dict[str, Any]:
    """Return the content of an experiment's file; {} if there is no file.

    Raises:
        UsageError: the file is no YAML mapping, or has an older form.

    """
    import yaml

    path = find("experiment", experiment) if experiment else None
    try:
        node = (yaml.safe_load(path.read_text()) or {}) if path else {}
    except yaml.YAMLError as error:
        raise UsageError(f"experiment={experiment}: {path} is not YAML: {error}") from error
    if not isinstance(node, dict):
        raise UsageError(f"experiment={experiment}: {path}: expected lines KEY: VALUE")
    if node.get("full"):
        form = "sizes: {full: {KEY: VALUE, KEY: [VALUE, VALUE]}}"
        raise UsageError(f"experiment={experiment}: the setting full is gone; write {form}")
    return dict(node)


IMAGES: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "fashion_mnist": {"dataset.size": 32, "dataset.channels": 3},
}
"""Images that a study can take -> settings that give them the shape of CIFAR-10, (3, 32, 32)."""


def with_images(size: Mapping[str, Any], images: str) -> dict[str, Any]:
    """Return a size that takes other images in place of CIFAR-10; the same if it has none.

    ``cifar10_5k`` becomes ``fashion_mnist_5k``. The networks do not change.

    Args:
        size: the settings of a size.
        images: a name of `IMAGES`.

    """

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"^cifar10(?=$|_\d+k$)", images, value)
        if isinstance(value, Mapping):
            return {k: replaced(v) for k, v in value.items()}
        return [replaced(v) for v in value] if isinstance(value, list) else value

    made, own = replaced(size), IMAGES[images]
    if made == size:
        return dict(size)
    return {k: v for k, v in made.items() if k.lstrip("~") not in own} | own


def takes_images(experiment: str) -> bool:
    """Return whether a study's size=full has CIFAR-10, which other images can replace."""
    full = sizes(experiment).get("full", {})
    return with_images(full, "fashion_mnist") != full


def words(size: Mapping[str, Any]) -> list[str]:
    """Return the settings of a size as the words to type; a list lists the values to sweep over.

    A single value that is a list stands in a list: ``model.shape: [[3, 32, 32]]``. The settings of
    ``sweep`` are lists anyway. ``~KEY: null`` takes a setting away.
    """
    return [_size_word(k, v) for k, v in size.items()]


def word(key: str, value: Any) -> str:
    """Return KEY=VALUE as it is typed. Text is not quoted, so it may list values or be a number.

    In a file a backslash stands before ``${seed}``, so that each point reads its own seed; here it
    is removed.
    """
    return f"{key}={_typed(value)}"


def _size_word(key: str, value: Any) -> str:
    if not re.fullmatch(r"[+~]{0,2}(?!hydra\b)\w[\w./@:-]*", key):
        raise UsageError(
            f"sizes: {key}: a size cannot set it; a size has settings of runs and of sweep, and "
            "those of hydra are typed beside -m"
        )
    if key.startswith("~") and value is None:
        return key
    if not isinstance(value, list) or key.startswith("sweep."):
        return word(key, _quoted(value))
    if not value:
        raise UsageError(
            f"sizes: {key}: [] has no values to sweep over; for an empty list write [[]]"
        )
    return f"{key}={','.join(_typed(_inside(v)) for v in value)}"


def _quoted(value: Any) -> Any:
    """Return the value with quotes around each text that a typed word needs them for."""
    if isinstance(value, dict):
        return {k: _inside(v) for k, v in value.items()}
    return [_inside(v) for v in value] if isinstance(value, list) else value


def _inside(value: Any) -> Any:
    if isinstance(value, str) and re.search(r"[\[\],!=~#]", value) and "${" not in value:
        return f"'{value}'"
    return _quoted(value)


def _typed(value: Any) -> str:
    return typed(value).replace("\\${", "${")
