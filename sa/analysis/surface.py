"""The loss on a plane through the run's point."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis import _finite
from sa.analysis._view import DERIVATIVES, VALUES, check, viewed
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Surface:
    """L(w + a d1 + b d2) over all rows, a and b at ``points`` even values in [-reach, reach].

    - ``losses``, row by row for each b, and ``at``, the values of a and of b
    - ``least`` and ``most`` of the finite losses; ``nonfinite`` counts the others
    - ``centre``, the loss at the point
    - with axes=eigenvectors: ``lambda_1`` and ``lambda_2``
    - with axes=pca: ``path/a`` and ``path/b``, the saved points projected on the plane; ``share_1``
      and ``share_2`` of their variance, and ``share``, the sum

    The axes of ``pca`` leave out biases before BatchNorm. Before a training has saved three points
    there is no plane, and no result.

    Args:
        axes: ``random``: normal draws with each filter (row of a tensor) scaled to the norm of that
            of the point, without tensors of one dimension, and d2 made orthogonal to d1 (Li et al.,
            NeurIPS 2018). ``eigenvectors``: the first two of the Hessian, scaled to the norm of the
            point; needs derivatives. ``pca``: the first two principal components of the points that
            the training saved (`snapshot_every`), as long as the way from the first of them (Li et
            al. 2018).
        view: numbers that the loss is a function of: ``latent``, the weights that are trained;
            ``quantized``, the quantized weights as if they were free; ``smoothed``, the mean loss
            under gaussian noise on the latent weights.
        points: values of a and of b, an odd number, 3 or more; the plane has points^2 losses.
        reach: largest a and b, in lengths of d1 and d2.
        sigma: standard deviation of the noise with view=smoothed, in the units of the weights.
        draws: draws of the noise with view=smoothed, the same ones at every point.

    """

    axes: Literal["random", "eigenvectors", "pca"] = "random"
    view: Literal["latent", "quantized", "smoothed", "discrete"] = "latent"
    points: Annotated[int, Ge(3)] = 21
    reach: Annotated[float, Gt(0)] = 1.0
    sigma: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Gt(0)] = 16

    @model_validator(mode="after")
    def _odd(self) -> "Surface":
        if self.points % 2 == 0:
            raise ValueError(
                f"points={self.points}: take an odd number, so that the point is in the middle"
            )
        return self

    @property
    def follows(self) -> bool:
        """Return whether it needs the points that a training saved."""
        return self.axes == "pca"

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if the surface has no meaning in the view."""
        needs = {"latent": VALUES, "quantized": VALUES, "smoothed": VALUES}
        if self.axes != "eigenvectors":
            return check(structure, self.view, needs, f"a surface along axes={self.axes}")
        needs = {"latent": DERIVATIVES, "quantized": DERIVATIVES}
        try:
            check(structure, self.view, needs, "a surface along axes=eigenvectors")
        except ValueError as error:
            raise ValueError(
                f"{error}; or other axes: axes=random and axes=pca take no derivatives"
            ) from error

    def fits(self, params: Params, memory: int) -> None:
        """Raise ValueError if too few parameters move for a plane."""
        least, d = (3 if self.axes == "pca" else 2), size(params)
        if d < least:
            raise ValueError(
                f"{', '.join(params)}: {d} parameters, and a plane has two directions; let more "
                "parameters move, e.g. moving=all"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``surface/``."""
        whole, point = viewed(objective, params, self.view)
        if self.axes != "pca":
            self.fits(params, 0)
        w = flatten(point)
        out: Numbers = {}
        if self.axes == "pca":
            way = self._way(objective, params, w)
            if len(way) < 3:
                return {}
            d1, d2, out = principal(way)
        elif self.axes == "eigenvectors":
            pairs = whole.curvature(point).top(2, generator)
            d1, d2 = pairs.vectors * w.norm()
            out = {"lambda_1": float(pairs.values[0]), "lambda_2": float(pairs.values[1])}
        else:
            d1, d2 = filtered(point, generator), filtered(point, generator)
            d2 = d2 - (d1 @ d2) / (d1 @ d1) * d1
        ticks = torch.linspace(-self.reach, self.reach, self.points, dtype=w.dtype).to(w)
        noises = torch.zeros(1, len(w)).to(w)
        if self.view == "smoothed":
            shape = self.draws, len(w)
            noises = torch.randn(shape, generator=generator, dtype=w.dtype, device=w.device)
        losses = torch.zeros(self.points, self.points, dtype=torch.float64)
        for row, b in zip(losses, ticks, strict=True):  # one b at a time: a grid is many points
            line = w + ticks[:, None] * d1 + b * d2
            for noise in noises:
                row += whole.values(unflatten(line + self.sigma * noise, point)).cpu() / len(noises)
        return {
            "surface/losses": losses.flatten().tolist(),
            "surface/at": ticks.tolist(),
            "surface/least": -_finite.most(-losses.flatten()),
            "surface/most": _finite.most(losses.flatten()),
            **{f"surface/{k}": v for k, v in _finite.counted(losses).items()},
            "surface/centre": float(losses[self.points // 2, self.points // 2]),
            **{f"surface/{k}": v for k, v in out.items()},
        }

    def _way(self, objective: Objective, params: Params, w: Tensor) -> Tensor:
        """Return the saved points and the point, (t, D), each less the point."""
        assert objective.evaluation is not None
        path = objective.evaluation.path()
        saved = [{k: p.to(params[k]) for k, p in x.items() if k in params} for x in path]
        before = [flatten(viewed(objective, params | x, self.view)[1]) for x in saved]
        return torch.stack([*before, w]) - w

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the range of the losses in words."""
        if "surface/centre" not in result:
            return []
        least, most, centre = (number(result[f"surface/{k}"]) for k in ("least", "most", "centre"))
        text = f"losses {least} to {most} around {centre}"
        if "surface/share" in result:
            text += f"; it holds {number(result['surface/share'])} of the way's variance"
        return [("surface", text)]


def principal(way: Tensor) -> tuple[Tensor, Tensor, Numbers]:
    """Return two principal components (D,) of a way (t, D) that ends at 0, and its path on them.

    The length of each is the distance from the first point to the last. Its sign makes the
    coordinate of largest size on the path positive.

    Raises:
        ValueError: nothing moved.

    """
    far = way[0].norm()
    if not far > 0:
        raise ValueError(
            "axes=pca: the training ended where it began, so it has no plane; use axes=random"
        )
    _, scales, vectors = torch.linalg.svd(way - way.mean(0), full_matrices=False)
    two, shares = vectors[:2], scales.square() / scales.square().sum()
    path = way @ two.T  # (t, 2)
    largest = path.gather(0, path.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(way)
    d1, d2 = two * signs.T * far
    a, b = (path * signs / far).T.tolist()
    first, second = shares[:2].tolist()
    out: Numbers = {"path/a": a, "path/b": b, "share_1": first, "share_2": second}
    return d1, d2, out | {"share": first + second}


def filtered(point: Params, generator: torch.Generator) -> Tensor:
    """Return a random direction (D,) with each row of a matrix or filter as long as the point's."""
    parts = []
    for p in point.values():
        draw = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        count = len(p) if p.dim() > 1 else 1
        rows, like = (x.reshape(count, x.numel() // max(1, count)) for x in (draw, p))
        scale = like.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
        alone = p.dim() < 2 and len(point) > 1
        parts.append((torch.zeros_like(rows) if alone else rows * scale).flatten())
    return torch.cat(parts)
