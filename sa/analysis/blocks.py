"""How a network splits into blocks, and what their sharpest directions hold of the whole's."""

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
    """The blocks in order: their tensors' shapes, their part of the estimate, their top spaces.

    Of each: ``shapes``, ``parameters``, ``part`` of the estimate's squared norm, ``share`` of that
    part in the block's own top k directions, ``lambda_1`` and ``lambda_k``, the eigenvalues of the
    diagonal block. Of all: ``count`` and ``order``; ``held``, for each of the whole Hessian's top
    k directions the share of it that the union of the blocks' spaces holds, ``held_least`` and
    ``held_mean``.

    A quantized network has no Hessian: then only shapes and parts, and ``note`` says so. The same
    where second derivatives are not finite: then ``diverged`` is 1.

    Args:
        blocks: how the network is split: one block a ``module`` or a ``tensor``, all in one
            (``network``), or named lists of patterns, {name: [patterns]}.
        k: top directions of a block; of a block with fewer parameters, all of them.
        rows: rows of the data that are used, the first ones; null for all.
        tol: relative residual |Hx - lambda x|/|lambda| at which an eigenpair is found.

    """

    blocks: How = "module"
    k: Annotated[int, Gt(0)] = 10
    rows: Annotated[int, Gt(0)] | None = None
    tol: Annotated[float, Gt(0)] = 1e-3

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
        """Return flat numbers, words and a curve under ``blocks/``."""
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
        seen = objective.curvature(params, self.rows)
        k = min(self.k, size(params))
        top = seen.top(k, generator, tol=self.tol).vectors
        out: Numbers = {}
        held = torch.zeros(k, dtype=torch.float64)
        parts = unflatten(top, params)
        for block, names in groups.items():
            if not size({n: params[n] for n in names}):
                continue  # of empty tensors
            most = min(self.k, size({n: params[n] for n in names}))
            got = seen.within(names).top(most, generator, tol=self.tol)
            grad = flatten({n: estimate.grad[n] for n in names})
            out[f"{block}/share"] = float(_within(grad[None], got.vectors) / _squares(grad[None]))
            out[f"{block}/lambda_1"] = float(got.values[0])
            out[f"{block}/lambda_{most}"] = float(got.values[-1])
            mine = flatten({n: parts[n] for n in names}, 1)
            held += _within(mine, got.vectors).cpu()
        out |= {"held": held.tolist(), "held_least": float(held.min())}
        return out | {"held_mean": float(held.mean()), "evals": seen.evals}

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return a row a block, and what the blocks hold of the top directions, in words."""
        rows = []
        for block in [k.split("/")[1] for k in result if re.fullmatch(r"blocks/[^/]+/shapes", k)]:
            many, part, share = (
                result.get(f"blocks/{block}/{k}") for k in ("parameters", "part", "share")
            )
            words = f"{many:g} parameters ({result[f'blocks/{block}/shapes']})"
            words += f", {number(part)} of the gradient"
            if share is not None:
                words += f", of that {number(share)} in its top space"
            rows.append((block, words))
        if "blocks/held_least" in result:
            least, most = number(result["blocks/held_least"]), number(max(result["blocks/held"]))
            rows.append(("blocks hold", f"{least} to {most} of each top direction of the whole"))
        return rows


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square().sum(1)


def _within(rows: Tensor, space: Tensor) -> Tensor:
    """Squared lengths (n,) of the parts of rows (n, D) within a space (k, D)."""
    return _squares(rows @ space.T)
