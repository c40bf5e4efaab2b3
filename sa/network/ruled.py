"""A model whose layers are quantized by rules."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sa.network.hooks import trait
from sa.network.quantize import Rule, apply_quantizers
from sa.types import Model


@dataclass(frozen=True)
class Ruled:
    """Another model, with quantizers that rules give to its layers.

    Args:
        model: builds the network.
        rules: the rules, as in `sa.network.quantize`.

    """

    model: Model
    rules: Sequence[Rule]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.model.shape

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.model.outputs

    @property
    def criterion(self) -> str | None:
        """The criterion that the model demands; None if it demands none."""
        wanted: str | None = trait(self.model, "criterion")
        return wanted

    def __hash__(self) -> int:
        return hash((self.model, tuple(map(str, self.rules))))

    def build(self, generator: torch.Generator) -> nn.Module:
        """Return the network with its quantizers. Its start depends on the generator alone."""
        network = self.model.build(generator)
        with warnings.catch_warnings():  # runs print the quantized layers
            warnings.simplefilter("ignore", UserWarning)
            return apply_quantizers(network, self.rules, example(self.model, network))


def example(model: Model, network: Any) -> Tensor:
    """Return two inputs of zeros for the network of a model, in its dtype."""
    like = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float64)
    return torch.zeros(2, *model.shape, dtype=like)
