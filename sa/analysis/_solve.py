"""Searches for points without a gradient, and the Hessian as a matrix: for small networks."""

import torch
from torch import Tensor

from sa.types import Objective, Params, flatten, unflatten


def dense(objective: Objective, params: Params) -> Tensor:
    """The Hessian (D, D) of the loss, by its products with every coordinate."""
    w = flatten(params)
    eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
    return objective.curvature(params).product(eye)


def _slope(objective: Objective, w: Tensor, like: Params) -> Tensor:
    return flatten(objective.value_and_grad(unflatten(w, like))[1])


def gnm(objective: Objective, params: Params, steps: int) -> tuple[Tensor, int]:
    """Least |g|^2/2, whose gradient is Hg, by L-BFGS; the point (D,) and the steps taken."""
    w = flatten(params).clone()
    best, least = w.clone(), float("inf")
    optimizer = torch.optim.LBFGS(
        [w], max_iter=steps, max_eval=2 * steps, history_size=50,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        nonlocal best, least
        point = unflatten(w.detach(), params)
        g = objective.value_and_grad(point)[1]
        w.grad = flatten(objective.hvp(point, g))
        q = float(flatten(g).square().sum()) / 2
        if q < least:
            best, least = w.detach().clone(), q
        return q

    optimizer.step(closure)
    return best, int(optimizer.state[w].get("n_iter", 0))


def lm(objective: Objective, params: Params, steps: int) -> tuple[Tensor, int]:
    """Steps -(H^2 + mu I)^-1 H g, mu lowered where |g| fell and raised where not."""
    w = flatten(params).clone()
    g = _slope(objective, w, params)
    mu, done = -1.0, 0
    while done < steps:
        values, vectors = torch.linalg.eigh(dense(objective, unflatten(w, params)))
        scale = float(values.abs().max()) ** 2
        mu = 1e-3 * scale if mu < 0 else mu
        there = vectors.T @ g
        while done < steps:
            done += 1
            step = vectors @ (values * there / (values.square() + mu))
            new = _slope(objective, w - step, params)
            if float(new.norm()) < float(g.norm()):
                w, g, mu = w - step, new, mu / 5
                break
            mu *= 5
            if mu > 1e12 * scale or not scale:  # no step lowers |g|
                return w, done
    return w, done


def lasso(objective: Objective, params: Params, penalty: float, steps: int) -> tuple[Tensor, int]:
    """Least L + penalty |w|_1, by proximal gradient steps that halve until they descend."""
    w, rate = flatten(params).clone(), 1.0
    for done in range(steps):
        loss, grad = objective.value_and_grad(unflatten(w, params))
        g = flatten(grad)
        while True:
            new = w - rate * g
            new = new.sign() * (new.abs() - rate * penalty).clamp(min=0)
            move = new - w
            model = loss + g @ move + move.square().sum() / (2 * rate)
            if float(objective.value(unflatten(new, params))) <= float(model) + 1e-15:
                break
            rate /= 2
            if rate < 1e-12:
                return w, done
        if not bool(move.any()):
            return w, done
        w, rate = new, 1.2 * rate
    return w, steps
