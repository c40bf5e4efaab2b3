"""How a network, or any function of rows, gives outputs and row losses at a point.

`Forward` is what the loss, its evaluation and a training ask for; what a plain function of rows
does not have, it leaves out. The final classes are `RowFunction`, `NetworkForward` and, for many
networks at once, `sa.training.replicas.StackedForward`.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from sa import surrogate
from sa.network import codes
from sa.network.layers import Activation, Affine, QuantizedLayer
from sa.network.read import describe, latent_weights, weights
from sa.network.structure import LayerTrace, Structure
from sa.network.traits import Gating, LayerQuantizer, component, traits
from sa.objective.criterion import CRITERIA
from sa.objective.gradient_noise import seed
from sa.objective.modes import keepers, observing, settings, statistics
from sa.objective.numerics import Numerics
from sa.types import Batch, Params, RowLoss


@dataclass(kw_only=True, eq=False)
class Forward:
    """What a loss is computed with; the defaults are those of a plain function.

    Args:
        structure: what the network is made of.
        width: numbers that one row keeps alive in one evaluation, for the sizes of chunks.
        numerics: precision, device, memory.
        coupled: whether the loss of a row depends on the other rows, which are then never split.
        vectorized: whether ``torch.func.vmap`` may run over points.
        kind: the criterion: mse, ce or value.
        network: in evaluation mode; its parameters are not read, its buffers are. Empty for a plain
            function.
        frozen: its parameters that do not move.

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
        """Return the outputs (n, ...) that are back-propagated, in the dtype of the inputs."""
        products: Any = nullcontext()
        if self.numerics.autocast:
            products = torch.autocast(self.numerics.device.partition(":")[0], torch.bfloat16)
        with products:
            call = compiled() if self.numerics.compile else functional_call
            return self._call(params, inputs, "train", call).to(inputs.dtype)

    def run(self, params: Params, inputs: Tensor, use: str) -> Tensor:
        """Return the outputs (n, ...) in a mode: ``train``, ``eval``, ``batch`` or ``track``.

        ``train`` is the loss that is studied; ``batch`` takes BatchNorm's statistics from the batch
        and ``track`` also updates the running ones.
        """
        return self._call(params, inputs, use, functional_call)

    def _call(
        self, params: Params, inputs: Tensor, use: str, call: Callable[..., Tensor]
    ) -> Tensor:
        """The outputs in a mode; call: ``functional_call``, or what it was compiled to."""
        raise ValueError("a plain function has no outputs; make the loss of a network instead")

    def chunk_sizes(self, rows: int, points: int, width: int) -> tuple[int, int]:
        """Return how many of so many points and rows to evaluate together, within memory.

        Args:
            rows: of the batch.
            points: that are wanted.
            width: numbers that one row keeps alive at one point.

        """
        room = max(1, self.numerics.memory // (8 * max(1, width)))  # point-rows in the budget
        together = rows if self.coupled else min(rows, room)
        return max(1, min(points, room // together)), together

    @property
    def replicas(self) -> int | None:
        """How many networks every tensor is a stack of; None for one network."""
        return None

    @property
    def buffers(self) -> Params:
        """What the network keeps beside parameters (running statistics), by name."""
        return dict(self.network.named_buffers())

    @cached_property
    def norms(self) -> dict[str, _BatchNorm]:
        """The BatchNorm layers, by name."""
        return {k: m for k, m in self.network.named_modules() if isinstance(m, _BatchNorm)}

    @property
    def steady(self) -> bool:
        """Whether outputs are the same in training and in evaluation."""
        return False

    @property
    def latent(self) -> list[str]:
        """The weights that a quantizer stands before, by name."""
        return latent_weights(self.network)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (n,) of outputs; of replicas (n, networks)."""
        return CRITERIA[self.kind](outputs, targets)

    def per_network(self, params: Params, batch: Batch, total: Tensor) -> Tensor:
        """Return the loss (networks,), float64, of each network on a batch; total: their sum."""
        return total.reshape(1)

    def seeds(self, step: int) -> Callable[[torch.Generator], Sequence[int]]:
        """Return what draws one seed for each network, of the noise of gradient quantizers."""
        return lambda generator: [seed(generator)]

    def double(self) -> "Forward | None":
        """Return the same in float64, or None where there is no other precision."""
        return None

    def opened(self, params: Params) -> "tuple[Forward, Params]":
        """Return the loss as a function of the quantized weights, and those of a point."""
        return self, params

    def states(self, params: Params, batch: Batch) -> list[Tensor]:
        """Return what every activation quantizer puts out, in the order of the forward."""
        return []

    def trace(self, params: Params, batch: Batch) -> list[LayerTrace]:
        """Return what every layer does with a batch, in the order of the forward."""
        return []

    def keeps(self, params: Params) -> Params:
        """Return the share of channels that each layer's gates keep, by its parameter."""
        return {}

    def asleep(self) -> list[str]:
        """Return quantizers that are the identity for now, having seen only zeros, by layer."""
        return [
            name.removesuffix(".quantize")
            for name, m in self.network.named_modules()
            if isinstance(m, LayerQuantizer) and m.asleep
        ]

    def observe(self, params: Params, inputs: Tensor) -> None:
        """Let what starts from data (ranges, step sizes) see its first inputs."""

    def track(self, params: Params, inputs: Tensor) -> None:
        """Let running statistics and ranges see inputs: one forward, only if there are any."""

    def first_bad(self, params: Params, batch: Batch) -> str:
        """Return the name of the first parameter or layer output that is not finite."""
        bad = [name for name, p in params.items() if not p.isfinite().all()]
        return bad[0] if bad else "the gradient"


@dataclass(eq=False)
class RowFunction(Forward):
    """A plain function of rows: (params, batch) -> row losses (n,)."""

    function: RowLoss

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point."""
        return self.function(params, batch)


@dataclass(kw_only=True, eq=False)
class NetworkForward(Forward):
    """One network and the criterion of its outputs.

    Args:
        example: a few inputs, with which `describe` reads a network that is no `Network`.

    """

    example: Tensor | None = None

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
        """Whether outputs are the same in training and in evaluation."""
        norms = self.norms and self.numerics.batchnorm == "batch"
        other = self.structure.stochastic or self.gates or self.numerics.autocast
        return not (norms or keepers(self.network) or other)

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,) of a batch at a point, with what gates owe."""
        each = super().rows(params, batch)
        return each + self._owed(params) if self.gates else each

    def _call(
        self, params: Params, inputs: Tensor, use: str, call: Callable[..., Tensor]
    ) -> Tensor:
        norms = norms_use(self.numerics, use)
        with statistics([*self.norms.values()], norms), settings(self.network, use == "train"):
            return call(self.network, self.frozen | params, (inputs,))

    def _owed(self, params: Params) -> Tensor:
        """Return the penalty of gates for channels that are kept beyond a budget."""
        spec = next(iter(self.gates.values()))
        return spec.owed(torch.cat(list(self.keeps(params).values())))

    def keeps(self, params: Params) -> Params:
        """Return the share of channels that each layer's gates keep, by its parameter."""
        every = self.frozen | params
        return {name: spec.keep(every[name]) for name, spec in self.gates.items()}

    def double(self) -> Self | None:
        """Return the same in float64, for differences of nearly equal losses; None if it is."""
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
        """Return the loss without quantizers before weights, and the quantized weights of a point.

        Scales of those weights still come after products, so that at the point it is the loss.
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
        """Return what every activation quantizer puts out, in the order of the forward."""
        found: list[Tensor] = []
        hooks = [
            m.register_forward_hook(lambda module, args, out: found.append(out))
            for m in self.network.modules()
            if isinstance(m, Activation)
        ]
        try:
            self.run(params, batch.inputs, self.numerics.batchnorm)
        finally:
            for h in hooks:
                h.remove()
        return found

    def trace(self, params: Params, batch: Batch) -> list[LayerTrace]:
        """Return what every layer with parameters or a quantizer does, in the forward's order.

        One row has no statistics of its own: BatchNorm takes the running ones.
        """
        found: list[LayerTrace] = []
        named = dict(self.network.named_modules())
        hooks = [
            m.register_forward_hook(_look(k, found))
            for k, m in named.items()
            if isinstance(m, QuantizedLayer) or any(True for _ in m.parameters(recurse=False))
            if not (k and isinstance(named[k.rpartition(".")[0]], QuantizedLayer))  # its quantizer
        ]
        norms = "running" if batch.rows == 1 else self.numerics.batchnorm
        try:
            with statistics([*self.norms.values()], norms), settings(self.network, True):
                functional_call(self.network, self.frozen | params, (batch.inputs,))
        finally:
            for h in hooks:
                h.remove()
        return found

    @torch.no_grad()
    def observe(self, params: Params, inputs: Tensor) -> None:
        """Let what starts from data (ranges, step sizes) see its first inputs."""
        with observing(self.network) as observers:
            if observers:
                self.run(params, inputs, "train")

    @torch.no_grad()
    def track(self, params: Params, inputs: Tensor) -> None:
        """Let running statistics and ranges see inputs: one forward, only if there are any.

        Of the whole batch whatever ``memory`` is: its statistics are no sums over parts.
        """
        with observing(self.network) as observers:
            if self.norms or observers:
                self.run(params, inputs, "track")

    @torch.no_grad()
    def first_bad(self, params: Params, batch: Batch) -> str:
        """Return the name of the first parameter or layer output that is not finite."""
        for name, p in params.items():
            if not p.isfinite().all():
                return name
        found: list[str] = []

        def hook(name: str) -> Callable[..., None]:
            def look(module: nn.Module, args: object, output: Tensor) -> None:
                if not output.isfinite().all():
                    found.append(name)

            return look

        hooks = [m.register_forward_hook(hook(k)) for k, m in self.network.named_modules() if k]
        self.run(params, batch.inputs, "train")
        for h in hooks:
            h.remove()
        return found[0] if found else "the gradient"


def norms_use(numerics: Numerics, use: str) -> str:
    """Return which statistics BatchNorm takes in a mode: ``batch``, ``running`` or ``track``."""
    return {"train": numerics.batchnorm, "eval": "running"}.get(use, use)


@lru_cache(maxsize=1)
def compiled() -> Callable[..., Tensor]:
    """Return ``functional_call``, compiled for each network and shape when it comes."""
    return torch.compile(functional_call)


def _look(name: str, found: list[LayerTrace]) -> Callable[..., None]:
    """Return a hook that appends what a layer did."""

    def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        own = module if isinstance(module, QuantizedLayer) else None
        q = None if own is None or traits(own.quantize).identity else own.quantize
        weight = weights(module)
        count = sum(p.numel() for p in module.parameters(recurse=own is not None))
        used = q(weight) if q and weight is not None else weight
        found.append(LayerTrace(name, args[0], out, q, weight, used, count))

    return hook
