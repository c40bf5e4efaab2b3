"""A network of your own class, which needs no class of this project."""

import importlib
from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Gt, Len
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sa.types import STRICT

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class Module:
    """A network of your own class, an ``nn.Module`` with one tensor as input.

    It is built with torch's global random numbers, seeded from the run's seed, and then cast to
    float64. Rules quantize its layers (`rules`), and `mode=train` lets its dropout draw.

    Args:
        target: dotted name of the class, PACKAGE.FILE.CLASS, of a package that you trust
            (``--trust PACKAGE``).
        args: arguments of the class: ``+model.args.width=32``.
        shape: shape of one input; null takes it from the dataset.
        outputs: number of outputs; null finds it by running the network on zeros.

    """

    target: str | Callable[..., nn.Module] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    shape: Annotated[tuple[Positive, ...], Len(1)] | None = None
    outputs: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> "Module":
        """Build the network once, and set or check ``outputs``."""
        if self.target is None:
            raise ValueError(
                "target: expected the class of a network; type model.target=PACKAGE.FILE.CLASS"
            )
        if self.shape is None:
            raise ValueError("shape: expected the shape of one input, e.g. model.shape=[3,32,32]")
        found = self._outputs(self.build(torch.Generator().manual_seed(0)))
        if self.outputs is None:
            object.__setattr__(self, "outputs", found)
        elif self.outputs != found:
            raise ValueError(
                f"outputs={self.outputs}: the network has {found}; set model.outputs=null"
            )
        return self

    def __hash__(self) -> int:
        return hash((self.target, repr(self.args), self.shape))

    def build(self, generator: torch.Generator) -> nn.Module:
        """Return the network in evaluation mode. Its start depends on the generator alone."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._construct()
        if not isinstance(network, nn.Module):
            raise ValueError(f"target: {self.target} makes no torch.nn.Module; name such a class")
        return network.double().eval()

    def _construct(self) -> Any:
        """Return an object of the class, with torch's global random numbers."""
        try:
            made = self.target
            if isinstance(made, str):
                module, _, name = made.rpartition(".")
                made = vars(importlib.import_module(module))[name]
            return made(**self.args)  # type: ignore[misc]
        except Exception as error:  # a user's class may raise any error
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"target: the network cannot be made with args: {why}") from error

    @torch.no_grad()
    def _outputs(self, network: nn.Module) -> int:
        """Return how many outputs a row has; raise ValueError if they are not one line a row."""
        assert self.shape is not None
        try:
            out = network(torch.zeros(2, *self.shape, dtype=torch.float64))
        except Exception as error:  # a user's forward may raise any error
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"shape={list(self.shape)}: the network fails on inputs of this shape: {why}"
            ) from error
        if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(f"target: it returned {got} for 2 rows; expected (rows, outputs)")
        return out.shape[1]
