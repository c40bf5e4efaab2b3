"""Bits for each layer under a budget: exact for a separable loss, greedy, and annealed.

A choice is a tuple with the index of each layer's bit width, widths ascending. ``prices`` (layers,
widths) holds the price of each layer at each width; the cost of a choice is the sum of its prices.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize

Choice = tuple[int, ...]


class Losses:
    """The loss at a choice, computed once for each; ``asked`` counts all calls."""

    def __init__(self, loss: Callable[[Choice], float]):
        self.loss, self.asked = loss, 0
        self.known: dict[Choice, float] = {}

    def __call__(self, choice: Choice) -> float:
        """Return the loss; infinity, the worst, if it is not finite."""
        self.asked += 1
        if choice not in self.known:
            loss = self.loss(choice)
            self.known[choice] = loss if math.isfinite(loss) else math.inf
        return self.known[choice]


def cost(choice: Choice, prices: np.ndarray) -> float:
    """Return the cost of a choice."""
    return float(sum(row[k] for row, k in zip(prices, choice, strict=True)))


def fits(choice: Choice, prices: np.ndarray, budget: float) -> bool:
    """Return whether a choice is within the budget, up to rounding."""
    return cost(choice, prices) <= budget * (1 + 1e-9)


def even(prices: np.ndarray, budget: float) -> Choice:
    """Return the choice with the most bits among those with the same bits for all layers."""
    alike = [(k,) * len(prices) for k in range(prices.shape[1])]
    return [c for c in alike if fits(c, prices, budget)][-1]


def ilp(curves: np.ndarray, prices: np.ndarray, budget: float) -> Choice:
    """Return the choice with the least sum of curves (layers, widths).

    It solves an integer linear program exactly: min sum_lk c_lk x_lk with one width a layer,
    sum_lk p_lk x_lk <= budget and x binary.
    """
    layers, widths = curves.shape
    sound = np.where(np.isfinite(curves), curves, np.nan)
    worst = np.nanmax(np.abs(sound)) if np.isfinite(sound).any() else 0.0
    c = np.nan_to_num(sound, nan=100 * worst) / (worst or 1.0)  # the solver's tolerances are 1e-6
    one = np.kron(np.eye(layers), np.ones(widths))
    solution = optimize.milp(
        c.flatten(),
        integrality=np.ones(c.size),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one, 1, 1),
            optimize.LinearConstraint(prices.reshape(1, -1) / budget, -np.inf, 1 + 1e-9),
        ],
        options={"mip_rel_gap": 0.0},
    )
    return tuple(int(k) for k in solution.x.reshape(layers, widths).argmax(1))


def greedy(losses: Losses, prices: np.ndarray, budget: float) -> Choice:
    """Return the choice of a greedy search that starts from the most bits.

    Each step takes one width less in the layer with the least rise of the loss per saved price. It
    measures the loss of every candidate without a change of the other layers.
    """
    choice: Choice = (prices.shape[1] - 1,) * len(prices)
    while not fits(choice, prices, budget):
        now = losses(choice)
        steps = [_moved(choice, at, -1) for at, k in enumerate(choice) if k > 0]
        saved = [cost(choice, prices) - cost(s, prices) for s in steps]
        # an infinite loss counts as an infinite rise
        rises = [
            (losses(s) - now) / p if losses(s) < math.inf else math.inf
            for s, p in zip(steps, saved, strict=True)
        ]
        choice = steps[int(np.argmin(rises))]
    return choice


def anneal(
    losses: Losses, prices: np.ndarray, budget: float, start: Choice, steps: int,
    generator: torch.Generator,
) -> Choice:  # fmt: skip
    """Return the best choice of a simulated annealing within the budget (Kirkpatrick et al. 1983).

    A move changes the width of one layer by one, or moves one width from a layer to another. It is
    accepted if the loss falls, else with probability exp(-rise/T). T falls geometrically, to a
    thousandth of the mean rise of the first moves.
    """
    at = best = start
    rises: list[float] = []
    top, device = prices.shape[1] - 1, generator.device
    for step in range(steps):
        a, b, kind = torch.randint(1 << 30, (3,), generator=generator, device=device).tolist()
        new = _moved(at, a % len(at), -1 if kind % 3 else 1)
        if kind % 3 == 1:
            new = _moved(new, b % len(at), 1)
        if min(new) < 0 or max(new) > top or not fits(new, prices, budget):
            continue
        rise = losses(new) - losses(at) if losses(new) < math.inf else math.inf
        rises = [*rises, abs(rise)][:20] if math.isfinite(rise) else rises
        heat = float(np.mean(rises or [0.0])) * 1e-3 ** (step / steps)
        chance = math.exp(-rise / heat) if rise > 0 and heat > 0 else float(rise <= 0)
        if float(torch.rand((), generator=generator, device=device)) < chance:
            at = new
        best = min(best, at, key=losses)
    return best


def _moved(choice: Choice, at: int, by: int) -> Choice:
    return (*choice[:at], choice[at] + by, *choice[at + 1 :])
