"""The best of many points at one distance: a yardstick for the descent of a gradient."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.estimator._base import DISPLACEMENT, Laws, Method
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class BestOf(Method):
    """-d, d the best of N displacements of length rho: argmin f(w + d) ("NES max point").

    ``surrogates`` decides where the N unit directions lie:

    - no slope: uniform on the sphere
    - one slope: v + kappa_n u scaled to length 1, v the surrogate's descent direction, u uniform,
      kappa_n from 0 to kappa in even steps. The first is v itself, so on its own batch the best is
      never worse than the surrogate's step of length rho
    - several slopes: the descent direction of each, then uniform on the unit sphere of their span

    The estimate is a displacement, not a gradient (target ``none``): a step of learning rate 1
    against it lands on the best point. It does not scale with the loss. On a linear loss the
    expected cosine of N uniform draws is about sqrt(2 log(N)/D). ``decrease``, in units of the
    loss, is below 0 if no point is better than w. A point whose loss is not finite is never the
    best; ``nonfinite`` counts such points.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.BestOf(rho=0.1, samples=20)(bowl, seed=0)
    >>> round(float(got.grad["w"].norm()), 4), got.info["decrease"] > 0
    (0.1, True)

    Args:
        rho: distance of every tried point from w, in the units of the weights.
        samples: N, points tried in a call; at least as many as there are surrogates.
        surrogates: slopes of `ste` whose descent directions guide the search; [] for none.
        kappa: with one surrogate, the largest weight of the random part.

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = DISPLACEMENT
    rho: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 500
    surrogates: tuple[_slopes.Name, ...] = ()
    kappa: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _room(self) -> "BestOf":
        if self.samples < len(self.surrogates):
            raise ValueError(
                f"samples={self.samples} must be at least the number of surrogates, "
                f"{len(self.surrogates)}"
            )
        return self

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in N + 1 evals, or N + 3 for each surrogate.

        Only one chunk of directions is in memory.
        """
        guides = [_guide.gradient(objective, params, name, generator) for name in self.surrogates]
        value = guides[0][0] if guides else objective.value(params)
        w = flatten(params)
        leads = w.new_zeros(0, len(w))
        if guides:
            leads = -_guide.unit(torch.stack([g for _, g in guides]))
        best, lowest = torch.full_like(w, torch.nan), torch.full_like(value, torch.inf)
        left_out = 0
        for u in self._units(leads, size(params), generator, w):
            losses = objective.values(unflatten(w + self.rho * u, params))
            ok = losses.isfinite()
            left_out += int((~ok).sum())
            losses = torch.where(ok, losses, torch.inf)
            least = losses.argmin()
            if losses[least] < lowest:
                best, lowest = self.rho * u[least], losses[least]
        evals = self.samples + max(1.0, 3.0 * len(guides))
        info: Numbers = {"decrease": float(value - lowest)} | _finite.counted(left_out)
        return Estimate(value, unflatten(-best, params), evals, info=info)

    def _units(
        self, leads: Tensor, dim: int, generator: torch.Generator, like: Tensor
    ) -> Iterator[Tensor]:
        """Yield chunks (n, D) of unit directions, N in all."""
        if len(leads) < 2:
            start, lead = 0, leads.sum(0)
            for e in _directions.gaussian(self.samples, dim, generator, like):
                u = _guide.unit(e)
                if len(leads):
                    n = torch.arange(start, start + len(u), device=u.device, dtype=u.dtype)
                    u = _guide.unit(lead + self.kappa / max(1, self.samples - 1) * n[:, None] * u)
                yield u
                start += len(u)
            return
        yield leads
        basis = _guide.orthonormal(leads)
        for e in _directions.gaussian(self.samples - len(leads), len(basis), generator, like):
            yield _guide.unit(e @ basis)
