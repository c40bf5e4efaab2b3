"""Forwards: they compute the outputs and the row losses of a network, or of any function of rows.

`Forward` is the interface that the loss, its evaluation and a training use; its defaults are those
of a plain function of rows. The final classes are `NetworkForward`, `RowFunction` in
`sa.objective.function` and, for many networks, `StackedForward` in `sa.training.replicas`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from sa import surrogate
from sa.network import codes
from sa.network.layers import Activation, Affine, QuantizedLayer
from sa.network.read import describe, latent_weights, layer_trace
from sa.network.structure import LayerTrace, Structure
from sa.network.traits import Gating, LayerQuantizer, component
from sa.objective.criterion import CRITERIA
from sa.objective.gradient_noise import seed
from sa.objective.modes import (
    drawing,
    keepers,
    norms_use,
    observing,
    settings,
    statistics,
    watched,
)
from sa.objective.numerics import Numerics
from sa.params import stream
from sa.types import Batch, Params


@dataclass(kw_only=True, eq=False)
class Forward:
    """Computes outputs and row losses; the defaults are those of a plain function.

    Args:
        structure: the structure of the network.
        width: how many numbers one row keeps in memory during one evaluation. It decides the sizes
            of chunks.
        numerics: precision, device and memory.
        coupled: True if the loss of a row depends on the other rows. A batch is then never split.
        vectorized: True if ``torch.func.vmap`` may compute many points at once.
        kind: the criterion: ``mse``, ``ce`` or ``value``.
        network: the network, in evaluation mode. Its buffers are used, its parameters are not. An
            empty module for a plain function.
        frozen: the parameters of the network that do not move.

    """

    structure: Structure = Structure()
    width: int = 1
    numerics: Numerics = Numerics()
    coupled: bool = False
    vectorized: bool = True
    kind: str = "value"
    network: nn.Module = field(default_factory=nn.Module)
    frozen: Params = field(default_factory=dict)

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point."""
        return self.row_losses(self.outputs(params, batch.inputs), batch.targets)

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Return the outputs (n, ...) for back-propagation, in the dtype of the inputs.

        These outputs use the settings ``autocast`` and ``compile``; those of `run` do not.
        """
        products: Any = nullcontext()
        if self.numerics.autocast:
            products = torch.autocast(self.numerics.device.partition(":")[0], torch.bfloat16)
        with products:
            call = compiled() if self.numerics.compile else functional_call
            return self._call(params, inputs, "train", call).to(inputs.dtype)

    def run(self, params: Params, inputs: Tensor, use: str) -> Tensor:
        """Return the outputs (n, ...) in one of four modes.

        Args:
            params: the point.
            inputs: (n, ...).
            use: ``train`` computes the loss that is studied, ``eval`` an evaluation. ``batch``
                takes BatchNorm's statistics from the batch; ``track`` also updates the running
                ones.

        """
        return self._call(params, inputs, use, functional_call)

    def _call(
        self, params: Params, inputs: Tensor, use: str, call: Callable[..., Tensor]
    ) -> Tensor:
        """Return the outputs in a mode; ``call`` is ``functional_call``, maybe compiled."""
        raise ValueError("a plain function has no outputs; make the loss of a network instead")

    def chunk_sizes(self, rows: int, points: int, width: int) -> tuple[int, int]:
        """Return (points, rows): how many of them fit into memory together.

        Args:
            rows: number of rows of the batch.
            points: number of points to evaluate.
            width: how many numbers one row keeps in memory at one point.

        """
        room = max(1, self.numerics.memory // (8 * max(1, width)))  # point-rows in the budget
        together = min(rows, room) if self.splits else rows
        return max(1, min(points, room // together)), together

    @property
    def splits(self) -> bool:
        """True if the rows of a batch may be evaluated in parts."""
        return not self.coupled

    def at(self, seed: int, step: int) -> "Forward":
        """Return the same with the random numbers that layers draw in a step of a training."""
        return self

    @property
    def replicas(self) -> int | None:
        """Number of networks that every tensor stacks; None for a single network."""
        return None

    @property
    def buffers(self) -> Params:
        """The buffers of the network (such as running statistics), by name."""
        return dict(self.network.named_buffers())

    @cached_property
    def norms(self) -> dict[str, _BatchNorm]:
        """The BatchNorm layers, by name."""
        return {k: m for k, m in self.network.named_modules() if isinstance(m, _BatchNorm)}

    @property
    def steady(self) -> bool:
        """True if the outputs are the same in training and in evaluation."""
        return False

    @property
    def latent(self) -> list[str]:
        """Names of the weights that a quantizer is applied to."""
        return latent_weights(self.network)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the row losses (n,) of outputs; (n, networks) for replicas."""
        return CRITERIA[self.kind](outputs, targets)

    def per_network(self, params: Params, batch: Batch, total: Tensor) -> Tensor:
        """Return the loss of each network on a batch, (networks,) float64; ``total`` is their sum.

        Networks other than replicas return ``total`` without a new forward.
        """
        return total.reshape(1)

    def seeds(self, step: int) -> Callable[[torch.Generator], Sequence[int]]:
        """Return a function that draws one seed for each network from a generator.

        The seeds are those of the noise of gradient quantizers.
        """
        return lambda generator: [seed(generator)]

    def double(self) -> "Forward | None":
        """Return a copy in float64; None if this forward is in float64 or has no other dtype."""
        return None

    def opened(self, params: Params) -> "tuple[Forward, Params]":
        """Return a forward that takes quantized weights as parameters, and those of a point."""
        return self, params

    def states(self, params: Params, batch: Batch) -> list[Tensor]:
        """Return the output of every activation quantizer, in the order of the forward."""
        return []

    def trace(self, params: Params, batch: Batch) -> list[LayerTrace]:
        """Return inputs, outputs and weights of every layer, in the order of the forward."""
        return []

    def keeps(self, params: Params) -> Params:
        """Return the share of channels that the gates of each layer keep, by parameter name."""
        return {}

    def asleep(self) -> list[str]:
        """Return the layers whose quantizer is still the identity because it saw only zeros."""
        return [
            name.removesuffix(".quantize")
            for name, m in self.network.named_modules()
            if isinstance(m, LayerQuantizer) and m.asleep
        ]

    def observe(self, params: Params, inputs: Tensor) -> None:
        """Set the ranges and step sizes that start from data, by a forward of the inputs."""

    def track(self, params: Params, inputs: Tensor) -> None:
        """Update running statistics and stored ranges, if there are any, by one forward."""

    def first_bad(self, params: Params, batch: Batch) -> str:
        """Return the name of the first parameter or layer whose values are not all finite."""
        bad = [name for name, p in params.items() if not p.isfinite().all()]
        return bad[0] if bad else "the gradient"


@dataclass(kw_only=True, eq=False)
class NetworkForward(Forward):
    """The forward of one network with a criterion.

    Args:
        example: a few inputs. `describe` needs them to read a network that is not a `Network`.
        training: True if layers are in training mode in the loss that is studied, and draw or
            normalise differently there. Rows are then never split, so that draws do not depend on
            memory.
        draws: the key of their random numbers; all points of a step share them.

    """

    example: Tensor | None = None
    training: bool = False
    draws: int = 0

    @cached_property
    def gates(self) -> dict[str, Gating]:
        """The gates on channels, by the name of their parameter."""
        return {
            f"{name}.quantize.alpha": gate
            for name, m in self.network.named_modules()
            if isinstance(m, Activation) and isinstance(gate := component(m.quantize), Gating)
        }

    @property
    def steady(self) -> bool:
        """True if the outputs are the same in training and in evaluation."""
        norms = self.norms and self.numerics.batchnorm == "batch"
        other = self.structure.stochastic or self.gates or self.numerics.autocast or self.training
        return not (norms or keepers(self.network) or other)

    @property
    def splits(self) -> bool:
        """True if the rows of a batch may be evaluated in parts."""
        return not (self.coupled or self.training)

    def at(self, seed: int, step: int) -> Forward:
        """Return the same with the random numbers that layers draw in a step of a training."""
        return replace(self, draws=key(seed, step)) if self.training else self

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point, with the penalty of gates."""
        each = super().rows(params, batch)
        return each + self._penalty(params) if self.gates else each

    def _call(
        self, params: Params, inputs: Tensor, use: str, call: Callable[..., Tensor]
    ) -> Tensor:
        with self._modes(use) as kept:
            return call(self.network, self.frozen | kept | params, (inputs,))

    @contextmanager
    def _modes(self, use: str, norms: str | None = None) -> Iterator[Params]:
        """Put the layers into a mode inside; yield copies of buffers that a forward may change."""
        with ExitStack() as stack:
            norms = norms or norms_use(self.numerics, use)
            stack.enter_context(statistics([*self.norms.values()], norms))
            stack.enter_context(settings(self.network, use == "train"))
            if not self.training or use == "eval":
                yield {}
                return
            stack.enter_context(drawing(self.network, self.draws, self.numerics.device))
            yield {} if use == "track" else {k: b.clone() for k, b in self.buffers.items()}

    def _penalty(self, params: Params) -> Tensor:
        """Return the penalty, 0-dim, for channels that gates keep above their budget."""
        spec = next(iter(self.gates.values()))
        return spec.owed(torch.cat(list(self.keeps(params).values())))

    def keeps(self, params: Params) -> Params:
        """Return the share of channels that the gates of each layer keep, by parameter name."""
        every = self.frozen | params
        return {name: spec.keep(every[name]) for name, spec in self.gates.items()}

    def double(self) -> Self | None:
        """Return a copy in float64, for differences of nearly equal losses.

        None if this forward is in float64 already.
        """
        if self.numerics.dtype == "float64":
            return None
        network = copy.deepcopy(self.network).double()
        frozen = {k: p.double() for k, p in self.frozen.items()}
        statistics = dict(network.named_buffers())
        return replace(
            self,
            network=network,
            frozen=frozen,
            structure=replace(self.structure, frozen=frozen, statistics=statistics),
            numerics=replace(self.numerics, dtype="float64", autocast=None, compile=False),
        )

    def opened(self, params: Params) -> tuple[Forward, Params]:
        """Return a forward without weight quantizers, and the quantized weights of a point.

        Scales of weights are still applied after products, so the loss at the point is the same.
        """
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.frozen | params, strict=False)
        for m in network.modules():
            if isinstance(m, Affine) and m.quantize:
                with torch.no_grad():
                    terms = surrogate.weights(partial(codes.of, m.quantize), m.weight)
                    m.weight.copy_(codes.decoded(terms))
                scale = terms[0].scale if len(terms) == 1 else None
                del m.quantize
                m.quantize = None if scale is None else codes.Rescaled(scale)
        named = {k: p.detach() for k, p in network.named_parameters()}
        frozen = {k: p for k, p in named.items() if k not in params}
        criterion, quadratic = self.structure.criterion, self.structure.quadratic
        batchnorm = self.numerics.batchnorm
        structure = describe(network, frozen, batchnorm, criterion, quadratic, self.example)
        mine = replace(self, network=network, frozen=frozen, structure=structure)
        return mine, {k: named[k] for k in params if k in named}

    def states(self, params: Params, batch: Batch) -> list[Tensor]:
        """Return the output of every activation quantizer, in the order of the forward."""
        found: list[Tensor] = []
        layers = {k: m for k, m in self.network.named_modules() if isinstance(m, Activation)}
        with watched(layers, lambda name, layer, inputs, out: found.append(out)):
            self.run(params, batch.inputs, self.numerics.batchnorm)
        return found

    def trace(self, params: Params, batch: Batch) -> list[LayerTrace]:
        """Return inputs, outputs and weights of every layer with parameters or a quantizer.

        Layers come in the order of the forward. A batch of one row has no statistics, so BatchNorm
        then takes the running ones.
        """
        found: list[LayerTrace] = []
        named = dict(self.network.named_modules())
        layers = {
            k: m
            for k, m in named.items()
            if isinstance(m, QuantizedLayer) or any(True for _ in m.parameters(recurse=False))
            # a module inside a quantized layer is its quantizer, not a layer
            if not (k and isinstance(named[k.rpartition(".")[0]], QuantizedLayer))
        }
        norms = "running" if batch.rows == 1 else self.numerics.batchnorm
        look = lambda *of: found.append(layer_trace(*of))  # noqa: E731
        with self._modes("train", norms) as kept, watched(layers, look):
            functional_call(self.network, self.frozen | kept | params, (batch.inputs,))
        return found

    @torch.no_grad()
    def observe(self, params: Params, inputs: Tensor) -> None:
        """Set the ranges and step sizes that start from data, by a forward of the inputs."""
        with observing(self.network) as observers:
            if observers:
                self.run(params, inputs, "train")

    @torch.no_grad()
    def track(self, params: Params, inputs: Tensor) -> None:
        """Update running statistics and stored ranges, if there are any, by one forward.

        The forward has the whole batch, even if it needs more than ``memory``: statistics of a
        batch are not sums over its parts.
        """
        with observing(self.network) as observers:
            if self.norms or observers or self.training:
                self.run(params, inputs, "track")

    @torch.no_grad()
    def first_bad(self, params: Params, batch: Batch) -> str:
        """Return the name of the first parameter or layer whose values are not all finite."""
        for name, p in params.items():
            if not p.isfinite().all():
                return name
        found: list[str] = []

        def look(name: str, layer: nn.Module, inputs: Any, out: Any) -> None:
            if not all(x.isfinite().all() for x in tree_leaves(out) if isinstance(x, Tensor)):
                found.append(name)

        with watched({k: m for k, m in self.network.named_modules() if k}, look):
            self.run(params, batch.inputs, "train")
        return found[0] if found else "the gradient"


def key(seed: int, step: int) -> int:
    """Return the number that keys what layers draw in a step of a training."""
    return stream(seed, "draws", step).initial_seed()


@lru_cache(maxsize=1)
def compiled() -> Callable[..., Tensor]:
    """Return a compiled ``functional_call``; it compiles at the first call with a new shape."""
    return torch.compile(functional_call)
