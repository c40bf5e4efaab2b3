"""A sketch of the parameters that keeps distances, to compare trainings step by step."""

from functools import lru_cache
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.objective.objective import Objective
from sa.params import flatten, stream
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Sketch:
    """``point``: the parameters as a signed count-sketch of m numbers (Charikar et al. 2002).

    s_j(w) is the sum of sigma_i w_i over the coordinates i of bucket j. Buckets and signs are drawn
    once from ``seed``, so s is linear and the same in every run of one network. E |s(x) - s(y)|^2 =
    |x - y|^2, with a relative standard deviation of at most sqrt(2/m) (Weinberger et al., ICML
    2009). A sketch takes D additions, and 9 D bytes for all points. A dense projection takes m D
    multiplications and 4 m D bytes.

    Args:
        m: numbers of the sketch.
        seed: seed of the buckets and signs; compare only runs with the same seed.

    """

    m: Annotated[int, Gt(0)] = 500
    seed: Annotated[int, Ge(0)] = 0

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return a curve under ``sketch/``."""
        return {"sketch/point": sketched(flatten(params), self.m, self.seed).tolist()}


def sketched(vector: Tensor, m: int, seed: int) -> Tensor:
    """Return the sketch (m,), float64, of a vector (D,)."""
    buckets, signs = _hash(len(vector), m, seed, str(vector.device))
    out = torch.zeros(m, dtype=torch.float64, device=vector.device)
    return out.index_add_(0, buckets, vector.double() * signs)


@lru_cache(maxsize=2)
def _hash(dim: int, m: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return the bucket (D,) and the sign (D,), int8, of each coordinate."""
    draw = stream(seed, "sketch", dim, device=device)
    buckets = torch.randint(m, (dim,), generator=draw, device=device)
    signs = torch.randint(2, (dim,), generator=draw, device=device, dtype=torch.int8) * 2 - 1
    return buckets, signs
