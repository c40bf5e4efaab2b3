"""What a number costs: declared bits, and the steps one row takes through a network."""

from typing import Any, NamedTuple

import torch

from sa.network.structure import Layer


def declared(quantize: Any, full: int) -> int:
    """Bits of a number that a quantizer yields; ``full`` of one in full precision."""
    return getattr(getattr(quantize, "spec", quantize), "bits", full)


class Price(NamedTuple):
    """An affine map: multiply-accumulates of one row, and bits of each of its two factors."""

    macs: int
    weight_bits: int
    input_bits: int


def prices(layers: list[Layer], full: int) -> dict[str, Price]:
    """The price of every affine map, by the layer's name, of the forward of one row.

    Inputs have the bits of the last quantized activation where every one of them is among its
    values (padding, flattening and the maximum keep that, an average does not), else ``full``.
    """
    found, last = {}, None
    for layer in layers:
        if layer.weight is None:
            last = layer if layer.quantize is not None else last
            continue
        kept = last is not None and bool(torch.isin(layer.inputs, last.outputs).all())
        found[layer.name] = Price(
            layer.outputs.numel() * layer.weight[0].numel(),
            declared(layer.quantize, full),
            declared(last.quantize, full) if kept and last else full,
        )
    return found
