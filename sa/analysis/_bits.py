"""Declared bits of numbers, and the multiply-accumulates of one row in every affine map."""

from typing import NamedTuple

import torch

from sa.network.structure import LayerTrace
from sa.network.traits import traits
from sa.types import Quantizer


def declared(quantize: Quantizer | None, full: int) -> int:
    """Return the bits of a number that a quantizer yields; ``full`` if it declares none."""
    bits = traits(quantize).bits
    return full if bits is None else bits


class Price(NamedTuple):
    """The price of an affine map: multiply-accumulates of one row, bits of weights and inputs."""

    macs: int
    weight_bits: int
    input_bits: int


def prices(layers: list[LayerTrace], full: int) -> dict[str, Price]:
    """Return the price of every affine map in the forward of one row, by the name of its layer.

    Inputs have the bits of the last quantized activation if all of them are values of it, else
    ``full`` bits. After padding, flattening and maxima they still are; after an average they are
    not.
    """
    found, last = {}, None
    for layer in layers:
        if layer.weight is None:
            last = layer if layer.quantize is not None else last
            continue
        exact = last is not None and bool(torch.isin(layer.inputs, last.outputs).all())
        found[layer.name] = Price(
            layer.outputs.numel() * layer.weight[0].numel(),
            declared(layer.quantize, full),
            declared(last.quantize, full) if exact and last else full,
        )
    return found
