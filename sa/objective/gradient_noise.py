"""Random numbers for gradient quantizers; they do not depend on how the rows are split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sa.params import stream


def seed(generator: torch.Generator) -> int:
    """Return a random whole number from 0 to 2^62 - 1."""
    return int(torch.randint(1 << 62, (), generator=generator, device=generator.device))


@dataclass
class _Stream:
    """The uniform random numbers of one layer, drawn row after row.

    Args:
        generators: one generator for each network.
        row: number of the row that is drawn next.

    """

    generators: list[torch.Generator]
    row: int = 0


class GradientNoise:
    """The uniform random numbers that round the gradients of one backward over a batch.

    Each layer has its own random stream for every seed. Numbers are drawn in the order of the rows,
    on the CPU, so they do not change if rows are split into chunks or over processes. If a
    backward goes through a layer twice, for the same rows, the second time has another stream.
    Layers without a random gradient quantizer draw nothing.

    Args:
        seeds: returns one seed for each network. Called at most once.
        first: number of rows of the batch that other processes have before the rows here.

    """

    def __init__(self, seeds: Callable[[], Sequence[int]], first: int = 0):
        self._draw_seeds = seeds
        self._seeds: list[int] = []
        self._first, self._start, self._rows = first, 0, 0
        self._numbers: dict[object, int] = {}
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._uses: dict[int, int] = {}

    def begin(self, start: int, stop: int) -> None:
        """Begin the part of the rows from ``start`` to ``stop``, ``stop`` not included."""
        self._start, self._rows = self._first + start, stop - start
        self._uses.clear()

    def __call__(self, layer: object) -> Callable[[Tensor], Tensor]:
        """Return the function that draws numbers for the gradients of a layer.

        Layers are numbered in the order of their first calls.
        """
        number = self._numbers.setdefault(layer, len(self._numbers))
        return lambda g: self._draw(number, g)

    def _draw(self, number: int, g: Tensor) -> Tensor:
        """Return numbers in [0, 1), like g: (rows, ...), or (networks, rows, ...) for several."""
        if not self._seeds:
            self._seeds = list(self._draw_seeds())
        use = self._uses.get(number, 0)
        self._uses[number] = use + 1
        if (number, use) not in self._streams:
            own = [stream(s, "gradient", number, use) for s in self._seeds]
            self._streams[number, use] = _Stream(own)
        mine, many = self._streams[number, use], len(self._seeds)
        each = g.numel() // many
        if each % self._rows:
            raise ValueError(
                "gradients are rounded at random one row after another; a gradient of shape "
                f"{tuple(g.shape)} cannot be split into {self._rows} rows; use rounding=nearest, "
                "or quantize another layer"
            )
        row = each // self._rows
        skip = (self._start - mine.row) * row
        for generator in mine.generators if skip else ():
            torch.rand(skip, generator=generator, dtype=g.dtype)
        mine.row = self._start + self._rows
        u = [torch.rand(each, generator=k, dtype=g.dtype) for k in mine.generators]
        return torch.stack(u).view(g.shape).to(g.device)
