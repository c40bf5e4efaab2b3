"""The best of many points at one distance: the search a gradient's descent is read against."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class BestOf:
    """-d, d the best of N displacements of length rho: argmin f(w + d) ("NES max point").

    Where the N unit directions lie depends on how many slopes ``surrogates`` names. None: uniform
    on the sphere. One: around the surrogate's descent direction v, that is v + kappa_n u made unit,
    u uniform, kappa_n from 0 to kappa in even steps; the first is v itself, so on its own batch the
    best is never worse than the surrogate's step of length rho. Several: uniform on the sphere of
    the span of their gradients, after the descent direction of each.

    A direction and a distance, no gradient (target ``none``): a step of learning rate 1 against it
    lands on the best point. It does not scale with the loss, and on a linear loss the expected
    cosine at N uniform draws is about sqrt(2 log(N)/D). ``decrease``, in the loss's own units, is
    below 0 where no point is better than w. A point whose loss is not finite is never the best;
    ``nonfinite`` counts them.

    Args:
        rho: distance of every tried point from w, in the units of the weights.
        samples: N, points tried a call.
        surrogates: slopes of `ste` whose descent directions guide the search: [] for none, or a
            list of names.
        kappa: with one surrogate, the largest weight of the random part beside its direction.

    """

    target: ClassVar[str] = "none"
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

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """N + 1 evals, or N + 3 a surrogate. Memory holds one block of directions."""
        got = [_guide.gradient(objective, params, name, generator) for name in self.surrogates]
        value = got[0][0] if got else objective.value(params)
        w = flatten(params)
        leads = -_guide.unit(torch.stack([g for _, g in got])) if got else w.new_zeros(0, len(w))
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
        evals = self.samples + max(1.0, 3.0 * len(got))
        info: Numbers = {"decrease": float(value - lowest)} | _finite.counted(left_out)
        return Estimate(value, unflatten(-best, params), evals, info=info)

    def _units(
        self, leads: Tensor, dim: int, generator: torch.Generator, like: Tensor
    ) -> Iterator[Tensor]:
        """Blocks (n, D) of unit displacements, N in all."""
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
