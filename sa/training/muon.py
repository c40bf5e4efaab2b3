"""Muon for every parameter of a network; torch.optim has it for matrices only."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of a polynomial. Iterated, it takes values in (0, 1] to about 0.7 ... 1.2."""


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix nearest to the momentum: w <- w - lr sqrt(max(1, n/m)) O.

    b <- momentum b + g. O is the orthogonal polar factor of g + momentum b, which is (n, m);
    ``iterations`` of Newton-Schulz compute it nearly (Jordan et al. 2024). It is the direction of
    steepest descent in the spectral norm (Bernstein & Newhouse 2024).

    A kernel is a matrix (out, rest). A vector is a matrix of one column, so O is its unit vector;
    for a single number O is the sign. torch.optim.Muon takes matrices only. Settings out of their
    range raise ValueError.

    Args:
        lr: learning rate, >= 0.
        momentum: share of the buffer b that stays at every step, >= 0 and < 1.
        iterations: steps of Newton-Schulz, >= 1; with more of them O is more nearly orthogonal.

    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, iterations: int = 5
    ):
        if not (lr >= 0 and 0 <= momentum < 1 and iterations >= 1):
            raise ValueError("expected lr >= 0, 0 <= momentum < 1 and iterations >= 1")
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold; ``closure`` is not called."""
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                u = p.grad + group["momentum"] * buffer
                u = u.flatten(1) if u.dim() > 1 else u.reshape(-1, 1)
                n, m = u.shape
                move = orthogonalised(u, group["iterations"])
                p.sub_(group["lr"] * max(1.0, n / m) ** 0.5 * move.view(p.shape))


def orthogonalised(matrix: Tensor, iterations: int) -> Tensor:
    """Return nearly the polar factor U V' of matrix = U S V': S becomes about 1, but 0 stays 0."""
    a, b, c = _QUINTIC
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-30)
    if len(x) == 1:  # a vector: its direction
        return x.view(matrix.shape)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
