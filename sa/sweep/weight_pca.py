"""Principal components of the parameters along the trainings of a sweep."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sa.record import files as files_
from sa.record.snapshots import snapshots

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = 10
"""The number of explained shares in tables and on the terminal."""


class Trajectory(NamedTuple):
    """The snapshots of one training.

    Args:
        name: id of the run.
        steps: steps at which the snapshots were taken (t,).
        weights: the values (t, d) of each parameter tensor.

    """

    name: str
    steps: list[int]
    weights: dict[str, np.ndarray]


def trajectories(root: Path, points: Sequence[dict[str, Any]]) -> list[Trajectory]:
    """Return the snapshots of each training of a sweep; each replica counts as a training.

    BatchNorm's statistics are left out. So are biases before BatchNorm, because no loss depends on
    them.

    Raises:
        RecordError: a run has no snapshots, or the networks differ.

    """
    found = []
    for point in points:
        folder = root / "runs" / point["run_id"]
        files = snapshots(folder)
        if not files:
            raise files_.RecordError(
                f"run {folder.name} has no snapshots; train it with snapshot_every=STEPS"
            )
        arrays: dict[str, list[np.ndarray]] = {}
        for path in files.values():
            with np.load(path) as snapshot:
                left_out = set(snapshot["redundant"].tolist())
                for key in snapshot.files:
                    kind, _, name = key.partition("/")
                    if kind == "params" and name not in left_out:
                        arrays.setdefault(name, []).append(snapshot[key])
        stacks = {k: np.stack(v).astype(np.float64) for k, v in arrays.items()}
        meta = files_.read_json(folder / "meta.json") or {}
        replicas = (meta.get("hashed") or {}).get("replicas")
        label = " ".join(point["overrides"]) or folder.name
        for r in range(replicas or 1):
            single = {k: v[:, r] if replicas else v for k, v in stacks.items()}
            flat = {k: v.reshape(len(v), -1) for k, v in single.items()}
            found.append(Trajectory(f"{label} #{r}" if replicas else label, list(files), flat))
    shapes = [{k: v.shape[1] for k, v in t.weights.items()} for t in found]
    for t, shape in zip(found, shapes, strict=True):
        if shape != shapes[0]:
            raise files_.RecordError(
                f"'{t.name}' and '{found[0].name}' are different networks, so their weights have "
                "no common plane; use runs of one model"
            )
    return found


def points_of(found: Sequence[Trajectory], layer: str | None) -> list[np.ndarray]:
    """Return the points (t, D) of each training, of the whole model or of one layer.

    Args:
        found: the snapshots of each training.
        layer: a pattern of parameter names; None for the whole model.

    Raises:
        RecordError: there is no such layer, or it has fewer than three parameters. The message
            names the layers.

    """
    names = list(found[0].weights)
    chosen = [n for n in names if layer is None or _matches(n, layer)]
    size = sum(found[0].weights[n].shape[1] for n in chosen)
    if size < 3:
        few = f"has {size} parameters, and a plane needs at least 3"
        why = few if chosen else "is no layer of these networks"
        scope = f"--layer {layer}" if layer else "the model"
        raise files_.RecordError(f"{scope} {why}; choose one of: {', '.join(names)}")
    return [np.concatenate([t.weights[n] for n in chosen], axis=1) for t in found]


def _matches(name: str, layer: str) -> bool:
    """Return whether a parameter belongs to a layer."""
    return fnmatch.fnmatchcase(name, layer) or fnmatch.fnmatchcase(name, f"{layer}.*")


def components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (n, k) and explained shares (k,) of points (n, D) about their mean, k < n.

    They come from the eigenvectors of the n x n products, so D may be large. Components with less
    than 1e-12 of the variance are rounding and are left out.
    """
    centred = points - points.mean(0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    total = values.clip(0).sum()
    if total <= 0:
        return np.zeros((len(points), 0)), np.zeros(0)
    k = int((values > 1e-12 * total).sum())
    return vectors[:, :k] * np.sqrt(values[:k]), values[:k] / total


def walks(points: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """Return random walks from the same starts, with steps as long as each training's.

    They are the control: the components of a random walk in many dimensions already look like a
    path that turns (Antognini & Sohl-Dickstein 2018, NeurIPS).
    """
    rng = np.random.default_rng(seed)
    out = []
    for path in points:
        steps = np.diff(path, axis=0)
        ways = rng.normal(size=steps.shape)
        ways *= np.linalg.norm(steps, axis=1, keepdims=True) / np.linalg.norm(
            ways, axis=1, keepdims=True
        )
        out.append(np.concatenate([path[:1], path[:1] + np.cumsum(ways, axis=0)]))
    return out


def table(root: Path, points: Sequence[dict[str, Any]], layer: str | None = None) -> "pd.DataFrame":
    """Return scores and explained shares of the whole model and of a layer, by view.

    Rows with ``what`` = point have ``pc1`` and ``pc2``; rows with ``what`` = share have a
    component and its explained ``share``. ``scope`` is ``whole`` or the layer. ``view``:

    - ``joint``: all points about their mean;
    - ``centred``: every training relative to its own start;
    - ``own``: each training alone; shares are means over trainings;
    - ``walk``, ``walk centred``, ``walk own``: the same of random walks, as controls.

    Args:
        root: the folder above runs/.
        points: points of the sweep.
        layer: a pattern of parameter names; by default the largest tensor.

    """
    import pandas as pd

    found = trajectories(root, points)
    largest = max(found[0].weights, key=lambda n: found[0].weights[n].shape[1])
    rows: list[dict[str, Any]] = []
    for scope in (None, layer or largest):
        real = points_of(found, scope)
        control = walks(real)
        views = {
            "joint": real, "centred": [x - x[0] for x in real],
            "walk": control, "walk centred": [x - x[0] for x in control],
        }  # fmt: skip
        for view, several in views.items():
            scores, shares = components(np.concatenate(several))
            rows += _points(scope, view, found, _pair(scores)) + _shares(scope, view, shares)
        for view, several in (("own", real), ("walk own", control)):
            alone = [components(x) for x in several]
            rows += _points(scope, view, found, np.concatenate([_pair(s) for s, _ in alone]))
            even = [np.pad(s, (0, max(0, COMPONENTS - len(s))))[:COMPONENTS] for _, s in alone]
            rows += _shares(scope, view, np.mean(even, axis=0))
    return pd.DataFrame(rows)


def _pair(scores: np.ndarray) -> np.ndarray:
    return np.pad(scores[:, :2], ((0, 0), (0, max(0, 2 - scores.shape[1]))))


def _points(
    scope: str | None, view: str, found: Sequence[Trajectory], scores: np.ndarray
) -> list[dict[str, Any]]:
    where = [(t.name, step) for t in found for step in t.steps]
    return [
        {"what": "point", "scope": scope or "whole", "view": view, "run": name, "step": step,
         "pc1": x, "pc2": y}
        for (name, step), (x, y) in zip(where, scores.tolist(), strict=True)
    ]  # fmt: skip


def _shares(scope: str | None, view: str, shares: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"what": "share", "scope": scope or "whole", "view": view, "component": i, "share": s}
        for i, s in enumerate(shares.tolist(), 1)
    ]
