"""Modes of a network's forward: BatchNorm's statistics, and what quantizers keep from data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def statistics(norms: Sequence[_BatchNorm], use: str) -> Iterator[None]:
    """BatchNorm uses the batch's statistics (``batch``, ``track``) or the ``running`` ones.

    Only ``track`` updates the running ones: in a probe their update would be a side effect, and
    under vmap it is impossible.
    """
    for m in norms:
        m.training = use != "running"
        m.track_running_stats = use != "batch"
    try:
        yield
    finally:
        for m in norms:
            m.training, m.track_running_stats = False, True


@contextmanager
def settings(network: nn.Module, train: bool) -> Iterator[None]:
    """Quantizers of layers use their settings of training, or those of evaluation."""
    mine = keepers(network)
    for m in mine:
        m.training = train
    try:
        yield
    finally:
        for m in mine:
            m.training = False


@contextmanager
def observing(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Quantizers of layers that keep something from data do so; yields them."""
    mine = [m for m in network.modules() if getattr(m, "observes", False)]
    for m in mine:
        setattr(m, "observing", True)  # noqa: B010
    try:
        yield mine
    finally:
        for m in mine:
            setattr(m, "observing", False)  # noqa: B010


def keepers(network: nn.Module) -> list[nn.Module]:
    """Return the quantizers of layers that keep something from data, or learn."""
    return [m for m in network.modules() if hasattr(m, "observing")]
