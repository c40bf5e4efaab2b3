"""Where a gradient vanishes near a run's point, and which kind of point it is."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.analysis import _solve
from sa.analysis._view import DERIVATIVES, check, seen
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params

Share = Annotated[float, Gt(0), Lt(1)]

_NEEDS = {"latent": DERIVATIVES, "quantized": DERIVATIVES}


@dataclass(frozen=True, config=STRICT)
class CriticalPoints:
    """A search for a critical point from the run's point, over all rows, in float64.

    With eigenvalues l_i of the Hessian H and P of them: ``n_pos``, ``n_zero``, ``n_neg`` at each of
    ``taus``, those above tau max|l|, within, and below; at ``tau`` ``minimal_ratio`` n_pos/P and
    ``index`` n_neg/P. ``norm`` |g| there, ``norm_start``, ``norm_ratio``; ``flat`` |Hg|/(max|l|
    |g|) and ``kernel``, the share of |g|^2 where |l| <= tau max|l|. ``status``: ``critical`` (then
    ``critical`` is 1, else 0) where |g| is rounding, or at most ``far`` of the start's; ``stalled``
    where half of |g|^2 is in the kernel, so that no step lowers it; else ``unconverged``.
    ``diverged``: 1, and nothing else, where H is not finite. ``redundant``: how many biases (as
    those before BatchNorm) move nothing, ``left_out`` which; they are no part of P.

    Args:
        solver: ``gnm``: least |g|^2/2 by L-BFGS (Pennington & Bahri 2017). ``lm``: the same by
            Levenberg-Marquardt steps on g (Frye et al. 2021). ``newton``: least L by Newton's
            method in a trust region (Steihaug 1983), which finds minima alone. ``l1``: least L +
            penalty |w|_1, kept to be reproduced: at its optimum the gradient is -penalty sign(w),
            not 0. ``none`` stays at the point.
        view: what the loss is a function of: ``latent``, the weights that are trained, or
            ``quantized``, the quantized weights as if they were free.
        steps: steps of the solver, at most; of ``newton`` products with H.
        tau: an eigenvalue l counts as 0 where |l| is at most so many times the largest, in
            ``minimal_ratio``, ``index``, ``flat`` and ``kernel``.
        taus: values of tau at which eigenvalues are counted.
        far: a point is critical where |g| is at most so many times that of the start.
        penalty: weight of |w|_1 with solver=l1.

    """

    solver: Literal["gnm", "lm", "newton", "l1", "none"] = "gnm"
    view: Literal["latent", "quantized", "smoothed", "discrete"] = "latent"
    steps: Annotated[int, Gt(0)] = 300
    tau: Share = 1e-7
    taus: Annotated[tuple[Share, ...], Len(1)] = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
    far: Share = 1e-4
    penalty: Annotated[float, Ge(0)] = 1e-3

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where the view has no derivatives, naming what has."""
        check(structure, self.view, _NEEDS, "a Hessian")

    def fits(self, point: Params, memory: int) -> None:
        """Raise ValueError where the Hessian is too large for so many bytes."""
        p = size(point)
        need = 4 * 8 * p**2  # itself, its vectors, and their workspace
        if need > memory:
            raise ValueError(
                f"the Hessian of {p} parameters is {p} x {p}, {8 * p**2 / 2**20:.0f} MiB, and its "
                f"eigenvalues need four times that; set memory={need}, study fewer (moving=[...]), "
                "or take the leading eigenvalues by Lanczos: analysis=curvature"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``critical_points/``."""
        with surrogate.exact_gradients():  # of the loss, whatever trainings quantize
            out = self._search(objective, params, generator)
        return {f"critical_points/{k}": v for k, v in out.items()}

    def _search(self, objective: Objective, params: Params, generator: torch.Generator) -> Numbers:
        mine, start = seen(objective, params, self.view)
        idle = redundant(mine, start, generator)
        g0 = flatten(mine.value_and_grad(start)[1])
        if self.solver == "l1":
            w, steps = _solve.lasso(mine, start, self.penalty, self.steps)
        elif self.solver == "none":
            w, steps = flatten(start), 0
        else:
            search = {"gnm": _solve.gnm, "lm": _solve.lm, "newton": _solve.newton}[self.solver]
            w, steps = search(mine, start, self.steps)
        point = unflatten(w, start)
        loss, grad = mine.value_and_grad(point)
        kept = torch.cat([torch.full((p.numel(),), k not in idle) for k, p in start.items()])
        g, hessian = flatten(grad)[kept], _solve.dense(mine, point)[kept][:, kept]
        norm, first = float(g.norm()), float(g0.norm())
        out = inertia(hessian, g, self.tau, self.taus)
        noise = 100 * torch.finfo(w.dtype).eps * float(out.pop("scale")) * float(w.norm())  # type: ignore[arg-type]
        out["status"] = "unconverged"
        if not math.isfinite(norm):
            pass
        elif norm <= noise:
            out["status"] = "critical"
        elif float(out["kernel"]) >= 0.5:  # type: ignore[arg-type]
            out["status"] = "stalled"
        elif norm <= self.far * first:
            out["status"] = "critical"
        out["critical"], out["diverged"] = float(out["status"] == "critical"), 0.0
        out |= {"loss": float(loss), "norm": norm, "norm_start": first, "steps": float(steps)}
        out |= {"parameters": float(len(g)), "taus": list(self.taus), "solver": self.solver}
        out |= {"redundant": float((~kept).sum()), "left_out": ", ".join(idle)}
        out["norm_ratio"] = norm / first if first else 0.0
        out["distance"] = float((w - flatten(start)).norm())
        if self.solver == "l1":
            on = w[kept] != 0
            off = (g + self.penalty * w[kept].sign()).abs()[on] <= 0.01 * self.penalty
            out["penalised"] = float(off.double().mean()) if len(off) else 1.0
        return out

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return how the search ended and what the Hessian is there, in words."""
        if "critical_points/status" not in result:
            return []
        keys = ("norm", "norm_start", "loss", "steps", "minimal_ratio", "index")
        one = {k: number(result.get(f"critical_points/{k}")) for k in keys}
        words = f"{result['critical_points/status']}: |g| {one['norm_start']} -> {one['norm']}"
        words += f" in {one['steps']} steps, loss {one['loss']}"
        idle = result["critical_points/redundant"]
        left = f", {idle:g} redundant biases left out" if idle else ""
        hessian = f"minimal ratio {one['minimal_ratio']}, index {one['index']}{left}"
        rows = [("critical point", words), ("  Hessian", hessian)]
        if result["critical_points/solver"] == "l1":
            words = "at the optimum of the L1 penalty the gradient is -penalty sign(w), not 0"
            rows.append(("  WARNING", words))
        return rows


def inertia(hessian: Tensor, g: Tensor, tau: float, taus: tuple[float, ...]) -> Numbers:
    """Signs of the eigenvalues of a symmetric matrix (P, P), and how far g (P,) is in its kernel.

    At each of taus, and at tau the shares; ``scale`` is the largest absolute eigenvalue.
    """
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    scale = float(values.abs().max())
    there = (vectors.T @ g).square()
    total = float(there.sum())

    def counts(t: float) -> tuple[float, float, float]:
        up, down = int((values > t * scale).sum()), int((values < -t * scale).sum())
        return float(up), float(len(values) - up - down), float(down)

    up, zero, down = zip(*(counts(t) for t in taus), strict=True)
    mine = counts(tau)
    pull = float((hessian @ g).norm())
    low = float(there[values.abs() <= tau * scale].sum())
    return {
        "n_pos": list(up), "n_zero": list(zero), "n_neg": list(down),
        "minimal_ratio": mine[0] / len(values), "index": mine[2] / len(values),
        "flat": pull / (scale * total**0.5) if scale and total else 0.0,
        "kernel": low / total if total else 0.0,
        "lambda_max": float(values[-1]), "lambda_min": float(values[0]), "scale": scale,
    }  # fmt: skip


def redundant(objective: Objective, params: Params, generator: torch.Generator) -> list[str]:
    """The vectors that may move without the loss changing, as biases before BatchNorm, by name.

    Found by moving each up and down by N(0, 1) draws, 30 and 1,000 times as far too, which wakes
    dead units: a change beyond rounding, in any, tells.
    """
    loss = float(objective.value(params))
    found = []
    for name, p in params.items():
        if p.dim() != 1 or len(params) == 1:
            continue
        draws = torch.randn(3, *p.shape, generator=generator, device=p.device).to(p)
        draws *= draws.new_tensor([1, 30, 1000])[:, None]
        moved = objective.values({name: p + torch.cat([draws, -draws])}, params)
        if float((moved - loss).abs().max()) <= 1e-11 * max(abs(loss), 1e-300):
            found.append(name)
    return found
