"""Random numbers of gradient quantizers: the same however the rows of a backward are split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sa.params import stream


def seed(generator: torch.Generator) -> int:
    """Return a whole number below 2^62, drawn from the generator."""
    return int(torch.randint(1 << 62, (), generator=generator, device=generator.device))


@dataclass
class _Stream:
    """Uniform numbers of one layer, row after row; ``row`` is the next one."""

    generators: list[torch.Generator]
    row: int = 0


class GradientNoise:
    """The uniform numbers with which one backward over the rows of a batch rounds its gradients.

    Each layer has a stream of its own for every seed, drawn in row order on the CPU, so that
    neither chunks of rows nor processes change a number. A second backward through a layer within
    one part of the rows has another stream. Nothing is drawn where no quantizer asks.

    Args:
        seeds: gives one seed for each network: one, or those of replicas. Asked at most once.
        first: how many rows of the batch come before the first one here (of other processes).

    """

    def __init__(self, seeds: Callable[[], Sequence[int]], first: int = 0):
        self._ask = seeds
        self._seeds: list[int] = []
        self._first, self._start, self._rows = first, 0, 0
        self._numbers: dict[object, int] = {}
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._uses: dict[int, int] = {}

    def begin(self, start: int, stop: int) -> None:
        """Begin the part of the rows from start to stop."""
        self._start, self._rows = self._first + start, stop - start
        self._uses.clear()

    def __call__(self, layer: object) -> Callable[[Tensor], Tensor]:
        """Return what draws for a layer's gradients; layers are numbered as they first ask."""
        number = self._numbers.setdefault(layer, len(self._numbers))
        return lambda g: self._draw(number, g)

    def _draw(self, number: int, g: Tensor) -> Tensor:
        """Numbers in [0, 1) like g: (rows, ...), or (networks, rows, ...) of more than one."""
        if not self._seeds:
            self._seeds = list(self._ask())
        use = self._uses.get(number, 0)
        self._uses[number] = use + 1
        if (number, use) not in self._streams:
            own = [stream(s, "gradient", number, use) for s in self._seeds]
            self._streams[number, use] = _Stream(own)
        mine, many = self._streams[number, use], len(self._seeds)
        each = g.numel() // many
        if each % self._rows:
            raise ValueError(
                f"gradients are rounded at random row by row, and those of shape {tuple(g.shape)} "
                f"are no {self._rows} rows; use rounding=nearest, or quantize another layer"
            )
        row = each // self._rows
        skip = (self._start - mine.row) * row
        for generator in mine.generators if skip else ():
            torch.rand(skip, generator=generator, dtype=g.dtype)
        mine.row = self._start + self._rows
        u = [torch.rand(each, generator=k, dtype=g.dtype) for k in mine.generators]
        return torch.stack(u).view(g.shape).to(g.device)
