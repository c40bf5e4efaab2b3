"""Command `python -m benchmarks.draw`: draws benchmarks/results.json as results.png."""

import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.figure import Figure

HERE = Path(__file__).parent

OURS = {
    "cdg": "cdg: exact differences of all coordinates at once",
    "cdg_eps_sweep": "cdg at 8 eps in one pass",
    "nes_gemm_fraction": "losses at 64 points, stacked",
    "lr_grid": "losses at 50 learning rates, stacked",
    "nes_vs": "one NES estimate, 128 pairs",
    "local_nes": "one estimate by local_nes",
    "help": "python -m sa.run --help",
    "plan_400": "dry run of 400 points",
    "status_1000": "status of 1,000 runs",
    "hessian_refresh": "top 10 of the Hessian, from those of 50 steps before",
    "hessian_product": "one Hessian product",
    "hessian_cold": "top 10 of the Hessian, from nothing",
    "hessian_blocks": "top 10 of every layer",
    "hessian_projector": "a filtered step between renewals, without its gradient",
    "full_batch": "10 steps of full-batch descent with the scores of every step",
}
"""Description of our side by prefix of a benchmark's name; the longest prefix counts."""

OTHER = ("nes_gemm_fraction", "help", "status_1000", "hessian_blocks", "hessian_projector")
"""Benchmarks whose other side computes something else, as a yardstick."""

KINDS = {
    "the same answer, the usual way": ("X", 3),
    "the same answer, a peer library": ("D", 1),
    "an answer of equal error": ("s", 4),
    "other work, as a yardstick": ("|", 7),
}
"""Marker and colour for each kind of comparison."""


def sides(result: dict[str, Any]) -> tuple[str, str, str]:
    """Return descriptions (our side, other side, kind) of a result; KeyError if `OURS` lacks it."""
    name = result["name"]
    prefix = max((p for p in OURS if name.startswith(p)), key=len, default=name)
    kind = "the same answer, the usual way"
    if name.startswith("local_nes"):
        kind = "an answer of equal error"
    elif name.startswith(OTHER):
        kind = "other work, as a yardstick"
    elif "_vs_" in name:
        kind = "the same answer, a peer library"
    return OURS[prefix], result["against"], kind


def seconds(result: dict[str, Any]) -> tuple[float, float]:
    """Return the CPU seconds (ours, the other side's) of a result.

    If the ratio is of times to equal error, the other side's seconds are the time that it needs to
    reach our error: the squared error of a mean of n estimates is 1/n of that of one.
    """
    told = result["settings"]["seconds"]
    if sides(result)[2] == "an answer of equal error":
        return told["ours"], told["ours"] * result["value"]
    return told["ours"], told["naive"]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one row per benchmark on a logarithmic axis of seconds: ours and the other side."""
    with matplotlib.rc_context(sns.axes_style("whitegrid") | {"font.size": 7}):
        figure = Figure(figsize=(9.2, 0.36 * len(results) + 1.1), dpi=170, layout="constrained")
        axis = figure.subplots()
        tones = sns.color_palette("colorblind")
        names = []
        for at, result in enumerate(results):
            ours, other, kind = sides(result)
            mine, theirs = seconds(result)
            marker, tone = KINDS[kind]
            axis.plot([theirs, mine], [at, at], color="0.8", lw=1, zorder=1)
            axis.plot(theirs, at, marker, color=tones[tone], ms=9 if marker == "|" else 5, mew=2)
            axis.plot(mine, at, "o", color=tones[0], ms=5)
            low, high = result["spread"]
            told = f"{_short(result['value'])}x  [{_short(low)} ... {_short(high)}]"
            place: dict[str, Any] = {
                "xycoords": ("axes fraction", "data"),
                "va": "center",
                "fontsize": 6,
            }
            axis.annotate(told, (1.01, at), **place)
            against = textwrap.shorten(f"against {other}", 112, placeholder=" ...")
            names.append(f"{result['name']}: {ours}\n{against}")
        for kind, (marker, tone) in KINDS.items():
            axis.plot([], [], marker, color=tones[tone], label=kind, ms=6, mew=2, ls="")
        axis.plot([], [], "o", color=tones[0], label="ours", ms=5)
        axis.set_yticks(range(len(results)), names, fontsize=5.5)
        axis.set_xlabel("CPU seconds, median; right: the other side's over ours [least ... most]")
        axis.set(xscale="log", ylim=(len(results) - 0.3, -0.7))
        axis.grid(False, axis="y")
        figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=6.5)
        figure.savefig(path)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    draw(json.loads((HERE / "results.json").read_text()), HERE / "results.png")
    print(f"figure: {HERE / 'results.png'}")
