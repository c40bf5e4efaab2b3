"""The criteria: losses of single rows, from outputs and targets."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Row losses (n,): the squared error averaged over outputs; both are (n, outputs)."""
    return (outputs - targets).square().mean(1)


def ce(outputs: Tensor, targets: Tensor) -> Tensor:
    """Row losses (n,): cross entropy in nats of logits (n, classes) and class indices (n,)."""
    return F.cross_entropy(outputs, targets, reduction="none")


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    """Row losses (n,): the outputs (n, 1) themselves, of a model that is a loss."""
    return outputs[:, 0]


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "ce": ce,
    "value": value,
}
