"""Quantize any network by the names of its layers, from a script."""

import copy
from collections.abc import Mapping

from torch import nn

from sa.network.quantize import Rule, apply_quantizers
from sa.types import Quantizer


def quantize(
    network: nn.Module,
    rules: Mapping[str, Quantizer | Mapping[str, Quantizer]],
    inplace: bool = False,
) -> nn.Module:
    """Return the network with quantized layers; of several rules for a layer the last one holds.

    >>> from sa.quantizer.uniform import Uniform
    >>> net = quantize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), {"0": Uniform(4)})
    >>> len(net[0].weight.unique()) <= 16
    True

    Args:
        network: any network; load its weights before.
        rules: name pattern of layers -> the quantizer of their weights, or ``{"weight": ...,
            "activation": ..., "gradient": ...}``. The first convolution, the last linear layer and
            1x1 convolutions stay in full precision unless a rule names them in full.
        inplace: whether the network itself is changed; else a copy is.

    Raises:
        ValueError: a pattern matches no layer, or a slot is unknown.

    """
    made = []
    for pattern, what in rules.items():
        slots = dict(what) if isinstance(what, Mapping) else {"weight": what}
        if unknown := sorted(slots.keys() - {"weight", "activation", "gradient"}):
            raise ValueError(
                f"{pattern}: there is no slot '{unknown[0]}'; expected weight, activation, gradient"
            )
        made.append(Rule(pattern, **slots))
    return apply_quantizers(network if inplace else copy.deepcopy(network), made)
