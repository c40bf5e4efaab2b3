"""Checks that the quantizers of a network are used, and where."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sa.network.layers import Activation
from sa.network.patch import PatchedWeight, uses
from sa.network.traits import LayerQuantizer, for_layer
from sa.types import Quantizer


def check_uses(network: nn.Module, example: Tensor) -> None:
    """Raise ValueError if a quantizer is never used in a forward, or stands at several places.

    Args:
        network: a network with quantized layers.
        example: a few inputs.

    """
    if not any(isinstance(m, Activation | PatchedWeight) for m in network.modules()):
        return
    counts = uses(network, example)
    named = dict(network.named_modules())
    for name, m in named.items():
        if isinstance(m, Activation):
            where = name.removesuffix(".quantize")
            times = counts.get(m, 0)
            _check_calls(where, times, m.quantize)
        elif isinstance(m, PatchedWeight):
            owner, _, rest = name.partition("parametrizations.")
            layer = named[owner.removesuffix(".")]
            if not (counts.get(m) or counts.get(layer)):
                where = f"{owner}{rest.partition('.')[0]}"
                raise ValueError(
                    f"'{where}' is quantized, and no forward uses it; leave it out of the rule"
                )


def check_places(order: Sequence[str], outputs: Mapping[str, Quantizer | None]) -> None:
    """Raise ValueError if a traced forward calls a layer with quantized outputs never or too often.

    Args:
        order: names of the layers that the forward calls. The layers inside one of torch's own,
            such as a TransformerEncoderLayer, are not listed: they are called with it.
        outputs: the layers whose outputs are quantized -> the quantizer of activations, or None.

    """
    for name, activation in outputs.items():
        times = sum(name == x or name.startswith(f"{x}.") for x in order)
        _check_calls(name, times, activation and for_layer(activation))


def _check_calls(name: str, times: int, quantizer: object) -> None:
    """Raise ValueError if a layer with quantized outputs is called never or too often."""
    if not times:
        raise ValueError(
            f"the outputs of '{name}' are quantized, and no forward calls that layer; leave it "
            "out of the rule"
        )
    if times > 1 and isinstance(quantizer, LayerQuantizer):
        raise ValueError(
            f"layer '{name}' is called at {times} places, and its quantizer keeps one range; give "
            "every place a layer of its own, or take a quantizer that reads its range from the "
            "tensor"
        )
