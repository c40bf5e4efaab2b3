"""Top Hessian eigenvectors: their share in each block, and how far they move in a training."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis._hessian import refuse_quantized, residual
from sa.curvature.solve import overlap
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import Blocks, flatten, grouped, size, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class Eigenvectors:
    """The eigenvectors u_1, ..., u_k of the k algebraically largest eigenvalues of the Hessian.

    - ``<block>/shares``: the part of |u_i|^2 in each block, for each i, and ``<block>/share``,
      their mean; for a random direction it is ``<block>/size``, the block's share of the parameters
    - ``participation``: 1/(D sum_j u_ij^4) for each i, in (0, 1], with D parameters, and its mean
      ``participation_mean``. It is 1/D if u_i is one coordinate, 1 if all its coordinates are
      equally large, and about 1/3 for a random direction
    - ``displacement`` of the space of u_1, ..., u_k since the last analysis of the training,
      ``since`` steps ago: 1 - |U V'|_F^2/k, in [0, 1]. It is 0 if the space is the same, and 1 -
      k/D on average for a random space. The first analysis of a training has none
    - ``values``, the eigenvalues, and ``gap``, lambda_k/lambda_{k+1}. Without a gap, directions
      change places across the border of the space, and the displacement is large
    - ``order`` of the blocks; ``residual``: the largest relative residual of a pair

    Quantized networks have no Hessian and are refused.

    Args:
        k: how many eigenvectors; at most D, the number of parameters, are computed.
        blocks: parts of the network: one for each ``module`` or ``tensor``, the whole ``network``,
            or named lists of patterns, {name: [patterns]}.
        rows: use only the first so many rows of the data; null for all.
        tol: an eigenpair is found if |Hx - lambda x| <= tol |lambda|.

    """

    remembers: ClassVar[bool] = True
    k: Annotated[int, Gt(0)] = 10
    blocks: Blocks = "module"
    rows: Annotated[int, Gt(0)] | None = None
    tol: Annotated[float, Gt(0)] = 1e-3

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network."""
        refuse_quantized(structure)

    def fits(self, point: Params, memory: int) -> None:
        """Raise ValueError if the patterns of ``blocks`` do not split this network."""
        grouped(point, self.blocks)

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers, texts and curves under ``eigenvectors/``, without a displacement."""
        return self.after({}, objective, params, estimate, generator, at)[0]

    def after(
        self,
        earlier: State,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> tuple[Numbers, State]:
        """Return the numbers, and the state that the next analysis of this training gets.

        Args:
            earlier: the state that the analysis before returned; {} for the first one.
            objective: the loss.
            params: the point.
            estimate: not used.
            generator: draws the start of the search.
            at: the moment of the training.

        """
        hessian = objective.curvature(params, self.rows)
        k = min(self.k, size(params))
        pairs = hessian.top(min(k + 1, size(params)), generator, tol=self.tol)
        values, top = pairs.values.tolist(), pairs.vectors[:k]
        out: Numbers = {"values": values[:k], "residual": residual(pairs)}
        out["gap"] = values[k - 1] / values[k] if max(values[k:], default=0) > 0 else float("inf")
        part = participation(top)
        out |= {"participation": part.tolist(), "participation_mean": float(part.mean())}
        groups, rows = grouped(params, self.blocks), unflatten(top, params)
        out["order"] = ",".join(groups)
        for block, names in groups.items():
            shares = flatten({n: rows[n] for n in names}, 1).double().square().sum(1)
            out[f"{block}/shares"], out[f"{block}/share"] = shares.tolist(), float(shares.mean())
            out[f"{block}/size"] = size({n: params[n] for n in names}) / size(params)
        if earlier:
            out["displacement"] = 1 - overlap(earlier["vectors"], top)
            out["since"] = float(at.step - earlier["step"])
        out |= {"diverged": 0.0, "evals": hessian.evals}
        state = {"vectors": top.clone(), "step": at.step}  # without the spare vector's storage
        return {f"eigenvectors/{k}": v for k, v in out.items()}, state

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return a line for each block, and lines for participation and displacement."""
        rows = []
        for block in [m[1] for k in result if (m := re.fullmatch(r"eigenvectors/(.+)/shares", k))]:
            share, part = (number(result[f"eigenvectors/{block}/{k}"]) for k in ("share", "size"))
            rows.append((block, f"{share} of the top eigenvectors, {part} of the parameters"))
        if each := result.get("eigenvectors/participation"):
            text = f"{number(min(each))} to {number(max(each))} of the coordinates"
            rows.append(("participation", text))
        if "eigenvectors/displacement" in result:
            text = f"{number(result['eigenvectors/displacement'])} of the top space in "
            rows.append(("displacement", f"{text}{result['eigenvectors/since']:g} steps"))
        return rows


def participation(rows: Tensor) -> Tensor:
    """Return the participation ratio 1/(D sum_j u_j^4), (k,), of each unit vector of rows (k, D).

    >>> participation(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, -0.5, 0.5]])).tolist()
    [0.25, 1.0]
    """
    return 1 / (rows.shape[1] * rows.double().pow(4).sum(1))
