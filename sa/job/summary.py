"""The result of a run in words, for the terminal."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from sa.table.names import number

if TYPE_CHECKING:
    from sa.types import Analysis, Estimator


def tell(
    estimator: "Estimator", result: dict[str, Any], analyses: Mapping[str, "Analysis"]
) -> None:
    """Print the result in words: the lines that every run has, and those of each analysis."""
    from sa.network.hooks import label

    own = {k: v for k, v in vars(estimator).items() if v is not None}
    words = [f"{k}={label(v) if is_dataclass(v) else v}" for k, v in own.items()]
    rows = [
        ("estimator", "  ".join([label(estimator), *words])),
        ("estimates", f"target: {result['target']}, {result['parameters']} parameters"),
        ("quantized", result.get("quantized", "not told")),
        *_told(result, analyses),
    ]
    for what, text in rows:
        print(f"{what:<14} {text}")


def quantized(layers: Mapping[str, str]) -> str:
    """Return a text that says how each layer is quantized; equal layers are listed together."""
    kinds: dict[str, list[str]] = {}
    for name, how in layers.items():
        kinds.setdefault(how, []).append(name)
    return "; ".join(f"{', '.join(names)}: {how}" for how, names in kinds.items()) or "nothing"


def _told(result: dict[str, Any], analyses: Mapping[str, "Analysis"]) -> list[tuple[str, str]]:
    """Return (heading, text) for each line about a result."""
    from sa.network.hooks import called

    out = []
    if result["status"] == "diverged":
        out.append(("DIVERGED", f"at step {result['step']}: {result['diverged']}"))
    if lost := [
        k.removesuffix("/diverged") for k in result if k.endswith("/diverged") and result[k]
    ]:
        out.append(("DIVERGED", f"{', '.join(lost)}: no probed loss or derivative is finite"))
    value, norm = result["value"], result["grad_norm"]
    out += [("value", number(value)), ("gradient norm", number(norm))]
    if result.get("flat", 0.0) >= 0.5:
        told = "losses do not differ: rounding, or a step too short to flip anything"
        out.append(("flat", f"{result['flat']:.0%} of the pairs' {told}"))
    for name, analysis in analyses.items():
        try:
            out += called(analysis, "tell", result)
        except (KeyError, TypeError, ValueError, IndexError):  # a summary must not end a run
            out.append((name, "has numbers that cannot be told in words; see result.json"))
    if result.get("stopped", "steps") != "steps":
        out.append(("stopped", f"at step {result['step']}: {result['stopped']}"))
    for split in ("train", "test", "ema/test", "swa/test"):
        if f"{split}/loss" in result:
            hits = result.get(f"{split}/accuracy")
            told = f"loss {number(result[f'{split}/loss'])}"
            told += f", accuracy {hits:.2%}" if hits is not None else ""
            wrong = result.get(f"{split}/fitted")
            told += f", {wrong:.2%} of the wrong labels fitted" if wrong is not None else ""
            if f"{split}/accuracy/low" in result:  # the run has replicas
                ends = [f"{result[f'{split}/accuracy/{x}']:.2%}" for x in ("low", "high")]
                told += f" on average, {' to '.join(ends)} of nine in ten"
            out.append((split, told))
    if "keep" in result:
        each = [f"{k.removeprefix('keep/')} {v:.1%}" for k, v in result.items() if k[:5] == "keep/"]
        out.append(("channels kept", f"{result['keep']:.1%} on average: {', '.join(each)}"))
    ways = [f"{k.removeprefix('path/')} {v}" for k, v in result.items() if k.startswith("path/")]
    told = ": ".join(x for x in (f"{result.get('path')} path", ", ".join(ways)) if x)
    path = f" ({told})" if "path" in result else ""
    out.append(("evals", f"{result['evals']:g} forward-equivalents{path}"))
    out.append(("seconds", f"{result['seconds']:.2f}"))
    return out
