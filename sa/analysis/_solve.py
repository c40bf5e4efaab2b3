"""Searches for points where the gradient vanishes, and the dense Hessian: for small networks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Diverged, Params


def dense(objective: Objective, params: Params) -> Tensor:
    """Return the Hessian (D, D) of the loss, by its products with every coordinate.

    Raises:
        Diverged: the Hessian is not finite.

    """
    w = flatten(params)
    eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
    hessian = objective.curvature(params).product(eye)
    if not hessian.isfinite().all():
        raise Diverged("the second derivatives of the loss are not finite at this point")
    return hessian


def _gradient(objective: Objective, w: Tensor, like: Params) -> Tensor:
    """Return the gradient (D,) at w (D,)."""
    return flatten(objective.value_and_grad(unflatten(w, like))[1])


def gnm(objective: Objective, params: Params, steps: int) -> tuple[Tensor, int]:
    """Minimise |g|^2/2, with gradient Hg, by L-BFGS; return the point (D,) and the steps taken."""
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
    """Take steps -(H^2 + mu I)^-1 H g; return the point (D,) and the steps taken.

    mu falls after a step that lowers |g|, and rises otherwise.
    """
    w = flatten(params).clone()
    g = _gradient(objective, w, params)
    mu, done = -1.0, 0
    while done < steps:
        values, vectors = torch.linalg.eigh(dense(objective, unflatten(w, params)))
        scale = float(values.abs().max()) ** 2
        mu = 1e-3 * scale if mu < 0 else mu
        there = vectors.T @ g
        while done < steps:
            done += 1
            step = vectors @ (values * there / (values.square() + mu))
            new = _gradient(objective, w - step, params)
            if float(new.norm()) < float(g.norm()):
                w, g, mu = w - step, new, mu / 5
                break
            mu *= 5
            if mu > 1e12 * scale or not scale:  # no step lowers |g|
                return w, done
    return w, done


def newton(objective: Objective, params: Params, products: int) -> tuple[Tensor, int]:
    """Minimise L by Newton in a trust region; return the point of least |g| and the products.

    Each step minimises the quadratic model by conjugate gradients, and goes to the edge of the
    region if the model has negative curvature (Steihaug 1983). So it ends at a minimum.

    Args:
        objective: the loss L.
        params: the start.
        products: largest number of products with H; a step takes at most 100, and at most 2 D.

    """
    w, radius, spent = flatten(params).clone(), 1.0, 0
    loss, grad = objective.value_and_grad(params)
    best, g = w, flatten(grad)
    least = float(g.norm())
    while spent < products and bool(g.any()) and radius > 1e-14:
        hessian = objective.curvature(unflatten(w, params))
        most = min(100, 2 * len(w), products - spent)
        step, curved, used, edge = _within(hessian.product, g, radius, most)
        spent += used
        gain = -float(g @ step + step @ curved / 2)  # as the model predicts
        value, grad = objective.value_and_grad(unflatten(w + step, params))
        new = flatten(grad)
        share = float(loss - value) / gain if gain > 0 else 0.0
        # If the losses differ by rounding alone, compare gradients.
        if share > 0.1 or (gain < 1e-13 * abs(float(loss)) and float(new.norm()) < float(g.norm())):
            w, g, loss = w + step, new, value
            radius *= 2 if share > 0.75 and edge else 0.5 if share < 0.25 else 1
        else:
            radius = float(step.norm()) / 4
        if float(g.norm()) < least:
            best, least = w, float(g.norm())
    return best, spent


def _within(
    product: Callable[[Tensor], Tensor], g: Tensor, radius: float, most: int
) -> tuple[Tensor, Tensor, int, bool]:
    """Minimise g.z + z.Hz/2 over |z| <= radius, roughly; return z, Hz, products and edge.

    ``edge`` is True if z lies on the edge of the region.
    """
    z, hz, r = torch.zeros_like(g), torch.zeros_like(g), g.clone()
    d, goal = -r, min(0.5, float(g.norm()) ** 0.5) * float(g.norm())
    for used in range(1, most + 1):
        hd = product(d[None])[0]
        curve, long = float(d @ hd), float(d @ d)
        a = float(r @ r) / curve if curve > 1e-16 * long else math.inf
        if a == math.inf or float((z + a * d).norm()) >= radius:
            along = float(z @ d)
            room = max(along**2 + long * (radius**2 - float(z @ z)), 0.0)
            a = (math.sqrt(room) - along) / long
            return z + a * d, hz + a * hd, used, True
        z, hz, new = z + a * d, hz + a * hd, r + a * hd
        if float(new.norm()) < goal:
            break
        d, r = -new + float(new @ new) / float(r @ r) * d, new
    return z, hz, used, False


def lasso(objective: Objective, params: Params, penalty: float, steps: int) -> tuple[Tensor, int]:
    """Minimise L + penalty |w|_1 by proximal gradient steps; return the point (D,) and the steps.

    The rate is halved until the loss falls.
    """
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
