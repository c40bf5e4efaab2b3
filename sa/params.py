"""Functions of a point: as one vector, in groups; ranges of rows; random streams."""

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from sa.types import Params


def stream(seed: int, *key: str | int, device: str = "cpu") -> torch.Generator:
    """Return a random generator for one use, made from the seed of the run.

    Streams with different keys are independent. So a new analysis, or a resume at some step,
    changes no other number.

    Args:
        seed: the seed of the run.
        key: words and numbers that identify the use, for example ("estimator", step).
        device: the device of the generator.

    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def flatten(params: Mapping[str, Tensor], lead: int = 0) -> Tensor:
    """Return all entries as one vector (..., D), in the order of the names.

    The vector has the widest dtype of the tensors.

    Args:
        params: tensors, each (..., *shape).
        lead: number of leading dimensions that all tensors share and the vector keeps.

    Raises:
        ValueError: params is empty.

    """
    if not params:
        raise ValueError("the point has no parameters: give a dict with at least one tensor")
    # not p.flatten(lead): it fails if a tensor has no dimension after the leading ones
    each = [p.reshape(*p.shape[:lead], p.shape[lead:].numel()) for p in params.values()]
    return torch.cat(each, dim=-1)


def unflatten(vector: Tensor, like: Params) -> Params:
    """Return one tensor (..., *shape) for each name, from a vector (..., D): undo `flatten`.

    Args:
        vector: (..., D).
        like: the point that gives the names, shapes and dtypes.

    """
    parts = vector.split([p.numel() for p in like.values()], dim=-1)
    pairs, lead = zip(like.items(), parts, strict=True), vector.shape[:-1]
    return {k: v.reshape((*lead, *p.shape)).to(p.dtype) for (k, p), v in pairs}


def finite(params: Mapping[str, Tensor]) -> bool:
    """Return whether all entries are finite."""
    return all(bool(p.isfinite().all()) for p in params.values())


def size(params: Params) -> int:
    """Return D, the number of coordinates of a point."""
    return sum(p.numel() for p in params.values())


Blocks = Literal["network", "module", "tensor"] | dict[str, tuple[str, ...]]
"""How parameters are split into blocks: one block, one for each module, one for each tensor, or
block -> patterns of names."""


def grouped(params: Mapping[str, Tensor], how: Blocks) -> dict[str, list[str]]:
    """Return block -> the names of its tensors, in order. Each tensor is in one block.

    Args:
        params: the tensors.
        how: ``network``: one block. ``tensor``: a block for each tensor. ``module``: a block for
            each module, which is the name up to the first dot; a module that has only vectors, as
            BatchNorm has, joins the module before it. A dict, block -> patterns: a tensor joins the
            first block with a pattern that matches its name.

    Raises:
        ValueError: a pattern matches no tensor, a tensor is in no block, or a block is empty.

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
                f"blocks.{empty[0]}: the blocks before it hold all that it matches; write it "
                "before them, or use other patterns"
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


def ranges(total: int, most: int) -> Iterator[tuple[int, int]]:
    """Return consecutive (start, stop) that cover range(total), each of at most ``most``."""
    return ((start, min(start + most, total)) for start in range(0, total, most))
