"""The loss on a plane through the run's point."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis._view import DERIVATIVES, VALUES, check, seen
from sa.types import (
    STRICT,
    Estimate,
    Numbers,
    Objective,
    Params,
    Structure,
    flatten,
    unflatten,
)


@dataclass(frozen=True, config=STRICT)
class Surface:
    """L(w + a d1 + b d2) over all rows, a and b at ``points`` even values in [-reach, reach].

    axes ``random``: normal draws, each filter (row of a tensor) scaled to the norm of the point's,
    tensors of one dimension left alone (Li et al. 2018), d2 made orthogonal to d1;
    ``eigenvectors``: the Hessian's first two, of the norm of the point, which need derivatives.
    view: ``latent``, ``quantized`` or ``smoothed`` (mean of ``draws`` points under gaussian noise
    of sigma, the same draws at every point).

    ``losses``, b by b (row by row, a fastest), ``at`` the values of a and of b, ``least`` and
    ``most`` of the losses, ``centre`` the loss at the point; ``lambda_1``, ``lambda_2`` of
    eigenvectors.
    """

    axes: Literal["random", "eigenvectors"] = "random"
    view: Literal["latent", "quantized", "smoothed", "discrete"] = "latent"
    points: Annotated[int, Ge(3)] = 21
    reach: Annotated[float, Gt(0)] = 1.0
    sigma: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Gt(0)] = 16

    @model_validator(mode="after")
    def _odd(self) -> "Surface":
        if self.points % 2 == 0:
            raise ValueError(f"points={self.points}: take an odd number, the point is the middle")
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where the view has no meaning, naming what has."""
        needs = {"latent": VALUES, "quantized": VALUES, "smoothed": VALUES}
        if self.axes == "eigenvectors":
            needs = {"latent": DERIVATIVES, "quantized": DERIVATIVES}
        check(structure, self.view, needs, f"a surface along axes={self.axes}")

    def __call__(
        self, objective: Objective, params: Params, estimate: Estimate, generator: torch.Generator
    ) -> Numbers:
        """Flat numbers and curves under ``surface/``."""
        mine, point = seen(objective, params, self.view)
        w, out = flatten(point), {}
        if self.axes == "eigenvectors":
            got = mine.curvature(point).top(2, generator)
            d1, d2 = got.vectors * w.norm()
            out = {"lambda_1": float(got.values[0]), "lambda_2": float(got.values[1])}
        else:
            d1, d2 = filtered(point, generator), filtered(point, generator)
            d2 = d2 - (d1 @ d2) / (d1 @ d1) * d1
        ticks = torch.linspace(-self.reach, self.reach, self.points, dtype=w.dtype).to(w)
        grid = (
            w
            + ticks[None, :, None] * d1  # a fastest
            + ticks[:, None, None] * d2
        ).flatten(0, 1)
        losses = torch.zeros(len(grid), dtype=torch.float64)
        noises = torch.zeros(1, len(w)).to(w)
        if self.view == "smoothed":
            shape = self.draws, len(w)
            noises = torch.randn(shape, generator=generator, dtype=w.dtype, device=w.device)
        for noise in noises:
            losses += mine.values(unflatten(grid + self.sigma * noise, point)).cpu() / len(noises)
        return {
            "surface/losses": losses.tolist(),
            "surface/at": ticks.tolist(),
            "surface/least": float(losses.min()),
            "surface/most": float(losses.max()),
            "surface/centre": float(losses[len(losses) // 2]),
            **{f"surface/{k}": v for k, v in out.items()},
        }


def filtered(point: Params, generator: torch.Generator) -> Tensor:
    """A random direction (D,), each row of a matrix or filter as long as the point's."""
    parts = []
    for p in point.values():
        draw = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        rows, like = (draw.flatten(1), p.flatten(1)) if p.dim() > 1 else (draw[None], p[None])
        scale = like.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
        alone = p.dim() < 2 and len(point) > 1
        parts.append((torch.zeros_like(rows) if alone else rows * scale).flatten())
    return torch.cat(parts)
