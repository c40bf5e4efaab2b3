"""Context managers that set how a forward treats BatchNorm and the quantizers of layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sa.network.traits import LayerQuantizer


@contextmanager
def statistics(norms: Sequence[_BatchNorm], use: str) -> Iterator[None]:
    """Choose, inside the context, the statistics that BatchNorm normalises with.

    Args:
        norms: the BatchNorm layers.
        use: ``running`` takes the running statistics. ``batch`` takes those of the batch. ``track``
            takes those of the batch and updates the running ones; a probe must not use it, because
            it changes the network, and it does not work under vmap.

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
    """Let quantizers use their settings for training, or for evaluation, inside the context.

    Args:
        network: the network.
        train: True for the settings ``train``, False for the settings ``eval``.

    """
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
    """Let quantizers update the ranges that they store, inside the context; yield them."""
    observers = [m for m in keepers(network) if m.observes]
    for m in observers:
        m.observing = True
    try:
        yield observers
    finally:
        for m in observers:
            m.observing = False


def keepers(network: nn.Module) -> list[LayerQuantizer]:
    """Return the quantizers of layers that store numbers from data or have parameters."""
    return [m for m in network.modules() if isinstance(m, LayerQuantizer)]
