"""Principal components of the points that the trainings of a sweep went through."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sa.record import files as files_
from sa.record import run

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = 10
"""So many shares are told."""


class Trajectory(NamedTuple):
    """The points of one training: ``steps`` (t,), and by parameter ``weights`` (t, d)."""

    name: str
    steps: list[int]
    weights: dict[str, np.ndarray]


def trajectories(root: Path, points: Sequence[dict[str, Any]]) -> list[Trajectory]:
    """What the runs of a sweep kept; of replicas, each.

    Left out: what is no parameter (BatchNorm's statistics), and biases before BatchNorm, on which
    no loss depends. Raises RecordError where a run kept none, or lacks one in the middle.
    """
    found = []
    for point in points:
        folder = root / "runs" / point["run_id"]
        files = run.snapshots(folder)
        if not files:
            raise files_.RecordError(
                f"run {folder.name} kept no points; train it with snapshot_every=STEPS"
            )
        several: dict[str, list[np.ndarray]] = {}
        for path in files.values():
            with np.load(path) as kept:
                left_out = set(kept["redundant"].tolist())
                for key in kept.files:
                    kind, _, name = key.partition("/")
                    if kind == "params" and name not in left_out:
                        several.setdefault(name, []).append(kept[key])
        stacks = {k: np.stack(v).astype(np.float64) for k, v in several.items()}
        meta = files_.read_json(folder / "meta.json") or {}
        many = (meta.get("hashed") or {}).get("replicas")
        label = " ".join(point["overrides"]) or folder.name
        for r in range(many or 1):
            mine = {k: v[:, r] if many else v for k, v in stacks.items()}
            flat = {k: v.reshape(len(v), -1) for k, v in mine.items()}
            found.append(Trajectory(f"{label} #{r}" if many else label, list(files), flat))
    shapes = [{k: v.shape[1] for k, v in t.weights.items()} for t in found]
    for t, shape in zip(found, shapes, strict=True):
        if shape != shapes[0]:
            raise files_.RecordError(
                f"'{t.name}' and '{found[0].name}' are different networks, whose weights share no "
                "plane; take runs of one model"
            )
    return found


def of(found: Sequence[Trajectory], layer: str | None) -> list[np.ndarray]:
    """The points (t, D) of each training: of the whole model, or of a layer (a pattern).

    Raises RecordError, which names the layers, where there is none or it has too few numbers.
    """
    names = list(found[0].weights)
    mine = [n for n in names if layer is None or _matches(n, layer)]
    size = sum(found[0].weights[n].shape[1] for n in mine)
    if size < 3:
        what = (
            f"has {size} parameters, a plane has two directions: it would show all"
            if mine
            else ("is no layer of these networks")
        )
        raise files_.RecordError(f"layer={layer} {what}; there are: {', '.join(names)}")
    return [np.concatenate([t.weights[n] for n in mine], axis=1) for t in found]


def _matches(name: str, layer: str) -> bool:
    return fnmatch.fnmatchcase(name, layer) or fnmatch.fnmatchcase(name, f"{layer}.*")


def components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, k) and explained shares (k,) of points (n, D) about their mean, k <= n - 1.

    By the eigenvectors of the n x n products, so that D may be large. Components that carry less
    than 1e-12 of the variance are rounding, and are none.
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
    """The control: from the same starts, steps as long as each training's, in random directions.

    Antognini & Sohl-Dickstein (2018): the components of a random walk in many dimensions already
    look like a path that turns.
    """
    draw = np.random.default_rng(seed)
    out = []
    for mine in points:
        steps = np.diff(mine, axis=0)
        ways = draw.normal(size=steps.shape)
        ways *= np.linalg.norm(steps, axis=1, keepdims=True) / np.linalg.norm(
            ways, axis=1, keepdims=True
        )
        out.append(np.concatenate([mine[:1], mine[:1] + np.cumsum(ways, axis=0)]))
    return out


def table(root: Path, points: Sequence[dict[str, Any]], layer: str | None = None) -> "pd.DataFrame":
    """Scores and explained shares of whole model and layer, in every way of centring.

    scope: ``whole`` or the layer (by default the largest). view: ``joint``, all points about their
    mean; ``centred``, every training from its own start; ``own``, each training alone; ``walk``,
    ``walk centred`` and ``walk own``, their controls. A row a point, with ``pc1`` and ``pc2``, and
    (what = share) a row a component with its ``share``; alone the mean over trainings.
    """
    import pandas as pd

    found = trajectories(root, points)
    largest = max(found[0].weights, key=lambda n: found[0].weights[n].shape[1])
    rows: list[dict[str, Any]] = []
    for scope in (None, layer or largest):
        real = of(found, scope)
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
