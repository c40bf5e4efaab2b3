"""A search for a critical point near the run's point, and the kind of point that it finds."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.analysis import _solve
from sa.analysis._view import DERIVATIVES, check, viewed
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

    The Hessian H at the point found has P eigenvalues l_i. An eigenvalue counts as 0 if |l_i| <=
    tau max|l|.

    - ``n_pos``, ``n_zero``, ``n_neg``: how many are positive, 0 and negative, for each of ``taus``
    - ``minimal_ratio`` n_pos/P and ``index`` n_neg/P, for ``tau``
    - ``norm`` |g|, ``norm_start`` and their ratio ``norm_ratio``
    - ``flat`` |Hg|/(max|l| |g|), and ``kernel``, the share of |g|^2 in eigenvectors of eigenvalue 0
    - ``status``: ``critical`` if |g| is at the level of rounding or at most ``far`` times |g| at
      the start; ``stalled`` if half of |g|^2 is in the kernel, where no step lowers it; else
      ``unconverged``. ``critical`` is 1 or 0
    - ``redundant``, how many biases do not change the loss, such as those before BatchNorm, and
      ``left_out``, their names; they do not count in P
    - ``diverged``: 1, without other numbers, if H is not finite

    Args:
        solver: ``gnm`` minimises |g|^2/2 by L-BFGS (Pennington & Bahri, ICML 2017). ``lm``
            minimises it by Levenberg-Marquardt steps on g (Frye et al. 2021). ``newton`` minimises
            L by Newton's method in a trust region (Steihaug 1983) and finds minima only. ``l1``
            minimises L + penalty |w|_1, for reproductions only: at its optimum the gradient is
            -penalty sign(w), not 0. ``none`` stays at the point.
        view: numbers that the loss is a function of: ``latent``, the weights that are trained, or
            ``quantized``, the quantized weights as if they were free.
        steps: largest number of steps of the solver; for ``newton``, of products with H.
        tau: threshold of ``minimal_ratio``, ``index``, ``flat`` and ``kernel``, in (0, 1).
        taus: thresholds at which eigenvalues are counted, each in (0, 1).
        far: a point is critical if |g| is at most so many times that of the start, in (0, 1).
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
        """Raise ValueError if the loss has no derivatives in the view."""
        check(structure, self.view, _NEEDS, "a Hessian")

    def fits(self, point: Params, memory: int) -> None:
        """Raise ValueError if the Hessian does not fit into memory (bytes)."""
        p = size(point)
        need = 4 * 8 * p**2  # the Hessian, its vectors, and their workspace
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
        with surrogate.exact_gradients():  # even if trainings quantize gradients
            out = self._search(objective, params, generator)
        return {f"critical_points/{k}": v for k, v in out.items()}

    def _search(self, objective: Objective, params: Params, generator: torch.Generator) -> Numbers:
        """Return the numbers of the point that the solver finds."""
        whole, start = viewed(objective, params, self.view)
        idle = redundant(whole, start, generator)
        g0 = flatten(whole.value_and_grad(start)[1])
        if self.solver == "l1":
            w, steps = _solve.lasso(whole, start, self.penalty, self.steps)
        elif self.solver == "none":
            w, steps = flatten(start), 0
        else:
            search = {"gnm": _solve.gnm, "lm": _solve.lm, "newton": _solve.newton}[self.solver]
            w, steps = search(whole, start, self.steps)
        point = unflatten(w, start)
        loss, grad = whole.value_and_grad(point)
        used = torch.cat([torch.full((p.numel(),), k not in idle) for k, p in start.items()])
        g, hessian = flatten(grad)[used], _solve.dense(whole, point)[used][:, used]
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
        out |= {"redundant": float((~used).sum()), "left_out": ", ".join(idle)}
        out["norm_ratio"] = norm / first if first else 0.0
        out["distance"] = float((w - flatten(start)).norm())
        if self.solver == "l1":
            on = w[used] != 0
            off = (g + self.penalty * w[used].sign()).abs()[on] <= 0.01 * self.penalty
            out["penalised"] = float(off.double().mean()) if len(off) else 1.0
        return out

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the end of the search and the signs of the Hessian, in words."""
        if "critical_points/status" not in result:
            return []
        keys = ("norm", "norm_start", "loss", "steps", "minimal_ratio", "index")
        one = {k: number(result.get(f"critical_points/{k}")) for k in keys}
        text = f"{result['critical_points/status']}: |g| {one['norm_start']} -> {one['norm']}"
        text += f" in {one['steps']} steps, loss {one['loss']}"
        idle = result["critical_points/redundant"]
        left = f", {idle:g} redundant biases left out" if idle else ""
        hessian = f"minimal ratio {one['minimal_ratio']}, index {one['index']}{left}"
        rows = [("critical point", text), ("  Hessian", hessian)]
        if result["critical_points/solver"] == "l1":
            text = "at the optimum of the L1 penalty the gradient is -penalty sign(w), not 0"
            rows.append(("  WARNING", text))
        return rows


def inertia(hessian: Tensor, g: Tensor, tau: float, taus: tuple[float, ...]) -> Numbers:
    """Return the signs of a symmetric matrix's eigenvalues, and the part of g in its kernel.

    Counts are at each of taus, shares at tau. ``scale`` is the largest absolute eigenvalue.
    """
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    scale = float(values.abs().max())
    squares = (vectors.T @ g).square()
    total = float(squares.sum())

    def counts(t: float) -> tuple[float, float, float]:
        up, down = int((values > t * scale).sum()), int((values < -t * scale).sum())
        return float(up), float(len(values) - up - down), float(down)

    up, zero, down = zip(*(counts(t) for t in taus), strict=True)
    own = counts(tau)
    pull = float((hessian @ g).norm())
    low = float(squares[values.abs() <= tau * scale].sum())
    return {
        "n_pos": list(up), "n_zero": list(zero), "n_neg": list(down),
        "minimal_ratio": own[0] / len(values), "index": own[2] / len(values),
        "flat": pull / (scale * total**0.5) if scale and total else 0.0,
        "kernel": low / total if total else 0.0,
        "lambda_max": float(values[-1]), "lambda_min": float(values[0]), "scale": scale,
    }  # fmt: skip


def redundant(objective: Objective, params: Params, generator: torch.Generator) -> list[str]:
    """Return the names of vectors that do not change the loss, such as biases before BatchNorm.

    Each vector moves up and down by N(0, 1) draws of 1, 30 and 1,000 times that size, because large
    moves wake dead units. It is redundant if no move changes the loss beyond rounding.
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
