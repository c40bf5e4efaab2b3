"""Guided ES: antithetic pairs drawn mostly from the span of recent surrogate gradients."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class GuidedES(Method):
    """beta/(2 P sigma^2) sum (f(w + e) - f(w - e)) e (Maheswaranathan et al., 2018; ICML 2019).

    e ~ N(0, sigma^2 S) with S = (alpha/D) I + ((1 - alpha)/k) U U'. The k rows of U' are an
    orthonormal basis of the last k surrogate gradients, the current one included. S has trace 1, so
    sigma is the root mean square *length* of e, not the size of one coordinate. On a locally linear
    loss with gradient g the mean is beta S g: a preconditioned gradient, biased (target ``none``;
    ``gaussian`` at alpha = 1). Its projection on g, <mean, g>/|g|^2, is beta (alpha/D + (1 - alpha)
    c^2/k) with c^2 = |U'g|^2/|g|^2.

    Paper: Maheswaranathan, Metz, Tucker, Choi & Sohl-Dickstein, "Guided evolutionary strategies",
    ICML 2019.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> got = sa.GuidedES(samples=5)(bowl, seed=0)
    >>> got.evals, got.info["subspace"]
    (13.0, 1.0)

    Args:
        surrogate: slope of the surrogate gradients that guide the search, one of the names of
            `ste`.
        sigma: root mean square length of a displacement e, in the units of the weights; not the
            size of one coordinate.
        samples: P, antithetic pairs a call.
        alpha: share of the variance in the whole space, in [0, 1]: 1 for plain evolution
            strategies, 0 for the subspace alone.
        k: surrogate gradients remembered, the dimension of the subspace; ``subspace`` is how many
            of them are independent, at most D.
        beta: scale of the estimate; null for 1/(alpha/D + (1 - alpha)/k). With it the mean within
            the subspace is that of g, so the projection is 1 if the guides span g (c = 1) and
            smaller otherwise. beta = D makes it 1 on average over random guides.

    """

    surrogate: _slopes.Name = "clipped"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 50
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    k: Annotated[int, Gt(0)] = 1
    beta: Annotated[float, Gt(0)] | None = None

    @property
    def target(self) -> str:
        """Return the target: ``none``, a preconditioned gradient; ``gaussian`` at alpha = 1."""
        return "gaussian" if self.alpha == 1 else "none"

    def init(self, params: Params) -> State:
        """Return a state without surrogate gradients."""
        return {"recent": flatten(params).new_zeros(0, size(params))}

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2P + 3 evals."""
        value, guide = _guide.gradient(objective, params, self.surrogate, generator)
        recent = _guide.recent(state, guide, self.k)
        basis, dim = _guide.orthonormal(recent), len(guide)
        k, alpha = len(basis), self.alpha if len(basis) else 1.0
        across = alpha / max(1, dim)  # eigenvalues of S: off the subspace, and in it
        within = across + (1 - alpha) / max(k, 1)
        total, sound = torch.zeros_like(guide), 0
        for z in _directions.gaussian(self.samples, dim, generator, guide):
            e = math.sqrt(across) * z
            e += (math.sqrt(within) - math.sqrt(across)) * (z @ basis.T) @ basis
            up, down = _guide.pair_losses(objective, params, self.sigma * e)
            gap, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(e.dtype))
            total, sound = total + gap @ e, sound + int(ok.sum())
        beta = 1 / within if self.beta is None else self.beta
        grad = unflatten(_finite.mean(total * beta, sound), params)
        evals = 2.0 * self.samples + 3
        info = {"subspace": float(k)} | _finite.counted(self.samples - sound)
        return Estimate(value, grad, evals, {"recent": recent}, info)
