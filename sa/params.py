"""Parameters as vectors, groups and row ranges; random streams."""

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from sa.types import Params


def stream(seed: int, *key: str | int, device: str = "cpu") -> torch.Generator:
    """A generator of its own for one use of randomness, derived from the run's one seed.

    Streams with different keys are independent, so switching an analysis on, or resuming
    at a step, changes no other number.
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def flatten(params: Mapping[str, Tensor], lead: int = 0) -> Tensor:
    """All entries as one vector: (..., D), keeping ``lead`` leading dimensions.

    Of tensors of several dtypes the vector has the widest. Raises ValueError where there are none.
    """
    if not params:
        raise ValueError("the point has no parameters: give a dict with at least one tensor")
    # no flatten(lead): a number without dimensions has none left after the leading ones
    each = [p.reshape(*p.shape[:lead], p.shape[lead:].numel()) for p in params.values()]
    return torch.cat(each, dim=-1)


def unflatten(vector: Tensor, like: Params) -> Params:
    """The inverse of flatten: (..., D) to a tensor a name, of shape (..., *shape) and its dtype."""
    parts = vector.split([p.numel() for p in like.values()], dim=-1)
    pairs, lead = zip(like.items(), parts, strict=True), vector.shape[:-1]
    return {k: v.reshape((*lead, *p.shape)).to(p.dtype) for (k, p), v in pairs}


def finite(params: Mapping[str, Tensor]) -> bool:
    """Whether all entries are."""
    return all(bool(p.isfinite().all()) for p in params.values())


def size(params: Params) -> int:
    """D, the number of coordinates."""
    return sum(p.numel() for p in params.values())


Blocks = Literal["network", "module", "tensor"] | dict[str, tuple[str, ...]]
"""How parameters are split: all as one, by module, each alone, or by name patterns."""


def grouped(params: Mapping[str, Tensor], how: Blocks) -> dict[str, list[str]]:
    """Block -> the names of its tensors, in order; together all of params.

    ``module``: of a name up to its first dot; one that has vectors alone, as BatchNorm has, belongs
    to the module before it. A dict's patterns are tried in order; ValueError where a pattern
    matches nothing, a tensor is in no block or a block has no tensor.
    """
    out: dict[str, list[str]] = {}
    if how == "network":
        return {"network": list(params)}
    if isinstance(how, dict):
        for block, patterns in how.items():
            for pattern in patterns:
                if not fnmatch.filter(params, pattern):
                    raise ValueError(
                        f"blocks.{block}: no parameter matches '{pattern}'; there are: "
                        f"{', '.join(params)}"
                    )
        for name in params:
            inside = [b for b, ps in how.items() if any(fnmatch.fnmatch(name, p) for p in ps)]
            if not inside:
                raise ValueError(f"blocks: '{name}' is in no block; add e.g. rest: ['*']")
            out.setdefault(inside[0], []).append(name)
        if empty := [block for block in how if block not in out]:
            raise ValueError(
                f"blocks.{empty[0]}: the blocks before it hold all that it matches; expected it "
                "before them, or other patterns"
            )
        return out
    last = ""
    for name in params:
        block = name if how == "tensor" else name.partition(".")[0]
        mine = [q for k, q in params.items() if k.partition(".")[0] == block]
        if how == "module" and last and block not in out and all(q.dim() < 2 for q in mine):
            block = last
        out.setdefault(block, []).append(name)
        last = block
    return out


def blocks(total: int, block: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, stop) of at most ``block`` covering range(total)."""
    return ((start, min(start + block, total)) for start in range(0, total, block))
