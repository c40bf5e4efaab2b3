"""How curved the loss is where a run stands: sharpest directions, trace, density, 2/lr."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import Blocks, flatten, grouped, size
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Curvature:
    """The Hessian's k algebraically largest eigenvalues, whole and in each of ``blocks``.

    ``lambda_1`` ... ``lambda_k`` of the network, ``<block>/lambda_i`` of the diagonal blocks;
    ``gap`` lambda_k/lambda_{k+1}; ``edge`` 2/lr, the largest sharpness at which gradient descent
    of rate lr is stable, and ``share`` lambda_1's of it (Cohen et al. 2021); ``headroom``
    edge/lambda_{k+1}, how much faster all but the top k directions may go; ``top_share``, of the
    estimate's squared norm in the top k directions. With draws: ``trace`` and its standard error,
    ``trace_error``, and the density of eigenvalues: ``nodes``, ascending, and their ``weights``,
    of sum 1. ``residual`` is the largest relative residual of a pair: above tol where a search was
    given up.

    ``diverged``: 1, and nothing else, where second derivatives are not finite. Not for quantized
    networks, which have no Hessian.

    Args:
        k: eigenvalues, the algebraically largest.
        blocks: diagonal blocks that have eigenvalues of their own: one a ``module`` or a
            ``tensor``, the whole ``network`` alone, or named lists of patterns, {name:
            [patterns]}.
        draws: random vectors for the trace (Hutchinson) and the density of eigenvalues (stochastic
            Lanczos); 0 for neither.
        steps: steps of stochastic Lanczos.
        rows: rows of the data that are used, the first ones; null for all.
        tol: relative residual |Hx - lambda x|/|lambda| at which an eigenpair is found.
        lr: rate of gradient descent that ``edge`` is of; null for no edge.

    """

    k: Annotated[int, Gt(0)] = 10
    blocks: Blocks = "module"
    draws: Annotated[int, Ge(0)] = 0
    steps: Annotated[int, Gt(1)] = 20
    rows: Annotated[int, Gt(0)] | None = None
    tol: Annotated[float, Gt(0)] = 1e-3
    lr: Annotated[float, Gt(0)] | None = None

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network, naming what to ask instead."""
        if structure.hard:
            raise ValueError(
                f"'{structure.hard[0]}' is quantized: the loss is flat almost "
                "everywhere and has no Hessian to speak of; take analysis=smoothing (its smoothed "
                "losses), estimator=spectral_ste (how a stand-in gradient changes), or the network "
                "in full precision (quantizer=fp)"
            )

    def fits(self, point: Params, memory: int) -> None:
        """Raise ValueError where the patterns of ``blocks`` do not split this network."""
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
        seen = objective.curvature(params, self.rows)
        k = min(self.k, size(params) - 1)
        got = seen.top(k + 1, generator, tol=self.tol)
        values = got.values.tolist()
        out: Numbers = {f"lambda_{i}": v for i, v in enumerate(values[:k], 1)}
        scale = got.values.abs().clamp(min=1e-6 * float(got.values.abs().max()))
        out["diverged"] = 0.0
        share = torch.where(got.residuals == 0, 0.0, got.residuals / scale)
        out["residual"] = float(share.max())
        out["gap"] = values[k - 1] / values[k] if values[k] > 0 else float("inf")
        grad = flatten(estimate.grad)
        top = float((got.vectors[:k] @ grad).double().square().sum())
        whole = float(grad.double().square().sum())
        out["top_share"] = top / whole if whole else float("nan")
        if self.lr is not None:
            edge = 2 / self.lr
            out |= {"edge": edge, "share": values[0] / edge}
            out["headroom"] = edge / values[k] if values[k] > 0 else float("inf")
        groups = grouped(params, self.blocks)
        for block, names in groups.items() if len(groups) > 1 else ():
            if not size({n: params[n] for n in names}):
                continue  # of empty tensors
            most = min(self.k, size({n: params[n] for n in names}))
            mine = seen.within(names).top(most, generator, tol=self.tol)
            out |= {f"{block}/lambda_{i}": v for i, v in enumerate(mine.values.tolist(), 1)}
        if self.draws:
            draws = max(2, self.draws)
            out["trace"], out["trace_error"] = seen.trace(draws, generator)
            nodes, weights = seen.density(self.steps, draws, generator)
            out |= {"nodes": nodes.tolist(), "weights": weights.tolist()}
        out["evals"] = seen.evals
        return {f"curvature/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return the largest eigenvalue and the gap in words."""
        if "curvature/lambda_1" not in result:
            return []
        words = f"lambda_1 {number(result['curvature/lambda_1'])}"
        if "curvature/edge" in result:
            words += f", 2/lr {number(result['curvature/edge'])}"
        return [("curvature", f"{words}, gap {number(result['curvature/gap'])}")]
