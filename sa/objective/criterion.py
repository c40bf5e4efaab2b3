"""The criteria: functions that compute the loss of each row from outputs and targets."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of each row, (n,), averaged over the outputs.

    Args:
        outputs: (n, outputs).
        targets: (n, outputs).

    """
    return (outputs - targets).square().mean(1)


def ce(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each row, (n,), in nats.

    Args:
        outputs: logits, (n, classes).
        targets: class indices, (n,).

    """
    return F.cross_entropy(outputs, targets, reduction="none")


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the outputs (n, 1) themselves as row losses, (n,), for a model that is a loss."""
    return outputs[:, 0]


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "ce": ce,
    "value": value,
}
