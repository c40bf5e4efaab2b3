"""Context managers for the modes of a forward: BatchNorm, quantizers of layers, training mode."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sa.network.traits import LayerQuantizer
from sa.objective.numerics import Numerics


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


@contextmanager
def drawing(network: nn.Module, draws: int, device: str) -> Iterator[None]:
    """Put layers into training mode inside the context, with the random numbers of one key.

    Layers like Dropout draw from torch's global generator, whose state is put back afterwards.
    BatchNorm and the quantizers of layers have modes of their own, above.

    Args:
        network: the network, in evaluation mode.
        draws: the key. The same key gives the same random numbers at every point.
        device: device of the network.

    """
    layers = [m for m in network.modules() if not isinstance(m, _BatchNorm | LayerQuantizer)]
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(draws)
        for m in layers:
            m.training = True
        try:
            yield
        finally:
            for m in layers:
                m.training = False


@contextmanager
def watched(layers: Mapping[str, nn.Module], look: Callable[..., None]) -> Iterator[None]:
    """Call ``look(name, layer, inputs, outputs)`` after each forward of a layer in the context."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, outputs: look(name, layer, inputs, outputs)

    hooks = [m.register_forward_hook(hook(k)) for k, m in layers.items()]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()


def norms_use(numerics: Numerics, use: str) -> str:
    """Return the statistics that BatchNorm takes in a mode: ``batch``, ``running`` or ``track``."""
    return {"train": numerics.batchnorm, "eval": "running"}.get(use, use)


def keepers(network: nn.Module) -> list[LayerQuantizer]:
    """Return the quantizers of layers that store numbers from data or have parameters."""
    return [m for m in network.modules() if isinstance(m, LayerQuantizer)]
