"""Curvature of the loss at the run's point: leading eigenvalues, trace, density, 2/lr."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.analysis._hessian import refuse_quantized, residual
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import Blocks, flatten, grouped, size
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Curvature:
    """The k algebraically largest eigenvalues of the Hessian, whole and in diagonal blocks.

    - ``lambda_1`` to ``lambda_k`` of the network, ``<block>/lambda_i`` of the diagonal blocks
    - ``gap`` lambda_k/lambda_{k+1}
    - ``edge`` 2/lr, the largest sharpness at which gradient descent of rate lr is stable, and
      ``share``, lambda_1/edge (Cohen et al., ICLR 2021)
    - ``headroom`` edge/lambda_{k+1}: the largest stable factor of the rate outside the top k
      directions
    - ``top_share``: the share of the estimate's squared norm in the top k directions
    - with draws: ``trace`` and its standard error ``trace_error``; the density of eigenvalues as
      ``nodes``, ascending, and ``weights``, of sum 1
    - ``residual``: the largest relative residual of a pair; above tol if a search was given up
    - ``diverged``: 1, without other numbers, if second derivatives are not finite

    Quantized networks have no Hessian and are refused.

    Args:
        k: how many eigenvalues; at most D - 1 are computed.
        blocks: diagonal blocks with eigenvalues of their own: one for each ``module`` or
            ``tensor``, the whole ``network`` alone, or named lists of patterns, {name: [patterns]}.
        draws: random vectors for the trace (Hutchinson) and the density of eigenvalues (stochastic
            Lanczos); 0 for neither, else at least 2 are used.
        steps: steps of stochastic Lanczos, 2 or more.
        rows: use only the first so many rows of the data; null for all.
        tol: an eigenpair is found if |Hx - lambda x| <= tol |lambda|.
        lr: rate of gradient descent, for ``edge``; null for no edge.

    """

    k: Annotated[int, Gt(0)] = 10
    blocks: Blocks = "module"
    draws: Annotated[int, Ge(0)] = 0
    steps: Annotated[int, Gt(1)] = 20
    rows: Annotated[int, Gt(0)] | None = None
    tol: Annotated[float, Gt(0)] = 1e-3
    lr: Annotated[float, Gt(0)] | None = None

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
        """Return flat numbers and curves under ``curvature/``."""
        hessian = objective.curvature(params, self.rows)
        k = min(self.k, size(params) - 1)
        pairs = hessian.top(k + 1, generator, tol=self.tol)
        values = pairs.values.tolist()
        out: Numbers = {f"lambda_{i}": v for i, v in enumerate(values[:k], 1)}
        out["diverged"] = 0.0
        out["residual"] = residual(pairs)
        out["gap"] = values[k - 1] / values[k] if values[k] > 0 else float("inf")
        grad = flatten(estimate.grad)
        top = float((pairs.vectors[:k] @ grad).double().square().sum())
        whole = float(grad.double().square().sum())
        out["top_share"] = top / whole if whole else float("nan")
        if self.lr is not None:
            edge = 2 / self.lr
            out |= {"edge": edge, "share": values[0] / edge}
            out["headroom"] = edge / values[k] if values[k] > 0 else float("inf")
        groups = grouped(params, self.blocks)
        for block, names in groups.items() if len(groups) > 1 else ():
            most = min(self.k, size({n: params[n] for n in names}))
            if not most:
                continue  # the block has no parameters
            own = hessian.within(names).top(most, generator, tol=self.tol)
            out |= {f"{block}/lambda_{i}": v for i, v in enumerate(own.values.tolist(), 1)}
        if self.draws:
            draws = max(2, self.draws)
            out["trace"], out["trace_error"] = hessian.trace(draws, generator)
            nodes, weights = hessian.density(self.steps, draws, generator)
            out |= {"nodes": nodes.tolist(), "weights": weights.tolist()}
        out["evals"] = hessian.evals
        return {f"curvature/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the largest eigenvalue and the gap in words."""
        if "curvature/lambda_1" not in result:
            return []
        text = f"lambda_1 {number(result['curvature/lambda_1'])}"
        if "curvature/edge" in result:
            text += f", 2/lr {number(result['curvature/edge'])}"
        return [("curvature", f"{text}, gap {number(result['curvature/gap'])}")]
