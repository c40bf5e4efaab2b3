"""Blocks of a network, and the share of its sharpest directions that their top spaces hold."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.objective.objective import Objective
from sa.params import Blocks as How
from sa.params import flatten, grouped, size, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Blocks:
    """The blocks in order: shapes of their tensors, parts of the estimate, top spaces.

    Each block has:

    - ``shapes`` of its tensors and the number of ``parameters``
    - ``part``: its share of the estimate's squared norm
    - ``share``: the share of that part in the top k directions of the block
    - ``lambda_1`` and ``lambda_k``: eigenvalues of the diagonal block of the Hessian

    The network has:

    - ``count`` and ``order`` of the blocks
    - ``held``: for each of the top k directions of the whole Hessian, its share in the union of the
      blocks' spaces; ``held_least`` and ``held_mean``: the least and the mean of these shares

    A quantized network has no Hessian, so it gets shapes and parts only, and a ``note``. The same
    holds if second derivatives are not finite; then ``diverged`` is 1.

    Args:
        blocks: split of the network: one block for each ``module`` or ``tensor``, one for all
            (``network``), or named lists of patterns, {name: [patterns]}.
        k: top directions of a block; all of them if it has fewer parameters.
        rows: use only the first so many rows of the data; null for all.
        tol: an eigenpair is found if |Hx - lambda x| <= tol |lambda|.

    """

    blocks: How = "module"
    k: Annotated[int, Gt(0)] = 10
    rows: Annotated[int, Gt(0)] | None = None
    tol: Annotated[float, Gt(0)] = 1e-3

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
        """Return flat numbers, texts and a curve under ``blocks/``."""
        groups = grouped(params, self.blocks)
        whole = float(flatten(estimate.grad).double().square().sum())
        out: Numbers = {"count": float(len(groups)), "order": ",".join(groups), "diverged": 0.0}
        for block, names in groups.items():
            part = flatten({n: estimate.grad[n] for n in names}).double().square().sum()
            shapes = ["x".join(map(str, params[n].shape)) or "1" for n in names]
            out[f"{block}/shapes"] = ", ".join(shapes)
            out[f"{block}/parameters"] = float(size({n: params[n] for n in names}))
            out[f"{block}/part"] = float(part) / whole if whole else float("nan")
        if objective.structure.hard:
            out["note"] = "a quantized network has no Hessian: shapes and parts only"
        else:
            try:
                out |= self._spectra(objective, params, estimate, generator, groups)
            except Diverged:
                out["diverged"] = 1.0
        return {f"blocks/{k}": v for k, v in out.items()}

    def _spectra(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        groups: dict[str, list[str]],
    ) -> Numbers:
        """Return the numbers that need the Hessian."""
        hessian = objective.curvature(params, self.rows)
        k = min(self.k, size(params))
        top = hessian.top(k, generator, tol=self.tol).vectors
        out: Numbers = {}
        held = torch.zeros(k, dtype=torch.float64)
        parts = unflatten(top, params)
        for block, names in groups.items():
            most = min(self.k, size({n: params[n] for n in names}))
            if not most:
                continue  # the block has no parameters
            own = hessian.within(names).top(most, generator, tol=self.tol)
            grad = flatten({n: estimate.grad[n] for n in names})
            out[f"{block}/share"] = float(_within(grad[None], own.vectors) / _squares(grad[None]))
            out[f"{block}/lambda_1"] = float(own.values[0])
            out[f"{block}/lambda_{most}"] = float(own.values[-1])
            held += _within(flatten({n: parts[n] for n in names}, 1), own.vectors).cpu()
        out |= {"held": held.tolist(), "held_least": float(held.min())}
        return out | {"held_mean": float(held.mean()), "evals": hessian.evals}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return a line for each block, and the share of the top directions that they hold."""
        rows = []
        for block in [k.split("/")[1] for k in result if re.fullmatch(r"blocks/[^/]+/shapes", k)]:
            many, part, share = (
                result.get(f"blocks/{block}/{k}") for k in ("parameters", "part", "share")
            )
            text = f"{many:g} parameters ({result[f'blocks/{block}/shapes']})"
            text += f", {number(part)} of the gradient"
            if share is not None:
                text += f", of that {number(share)} in its top space"
            rows.append((block, text))
        if "blocks/held_least" in result:
            least, most = number(result["blocks/held_least"]), number(max(result["blocks/held"]))
            rows.append(("blocks hold", f"{least} to {most} of each top direction of the whole"))
        return rows


def _squares(rows: Tensor) -> Tensor:
    """Return the squared lengths (n,) of rows (n, D)."""
    return rows.double().square().sum(1)


def _within(rows: Tensor, space: Tensor) -> Tensor:
    """Return the squared lengths (n,) of rows (n, D) projected on a space (k, D)."""
    return _squares(rows @ space.T)
