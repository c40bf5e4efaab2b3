"""Modes of a network's forward: BatchNorm's statistics, and what quantizers keep from data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sa.network.traits import LayerQuantizer


@contextmanager
def statistics(norms: Sequence[_BatchNorm], use: str) -> Iterator[None]:
    """Let BatchNorm normalise with some statistics inside the context.

    Args:
        norms: the BatchNorm layers.
        use: ``running`` takes the running statistics, ``batch`` those of the batch; ``track`` takes
            those of the batch and updates the running ones. In a probe that update would be a side
            effect, and under vmap it is impossible.

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
    """Let quantizers of layers use their settings of training, or of evaluation, inside."""
    own = keepers(network)
    for m in own:
        m.training = train
    try:
        yield
    finally:
        for m in own:
            m.training = False


@contextmanager
def observing(network: nn.Module) -> Iterator[list[LayerQuantizer]]:
    """Let quantizers update what they keep from data (ranges) inside; yield those quantizers."""
    observers = [m for m in keepers(network) if m.observes]
    for m in observers:
        m.observing = True
    try:
        yield observers
    finally:
        for m in observers:
            m.observing = False


def keepers(network: nn.Module) -> list[LayerQuantizer]:
    """Return the quantizers of layers that keep numbers from data, or learn."""
    return [m for m in network.modules() if isinstance(m, LayerQuantizer)]
