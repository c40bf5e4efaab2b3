"""The results as a picture: `python -m benchmarks.draw`, benchmarks/results.json to .png."""

import json
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure

HERE = Path(__file__).parent


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A row a benchmark on a log axis of seconds: naive or peer, ours, and the machine's limit."""
    sns.set_theme(style="whitegrid", rc={"font.size": 7, "axes.grid.axis": "x"})
    figure = Figure(figsize=(7.2, 0.27 * len(results) + 1.1), dpi=200, layout="constrained")
    axis = figure.subplots()
    colours = sns.color_palette("colorblind")
    kinds = {"naive": ("X", colours[3]), "peer": ("D", colours[1]), "limit": ("|", "0.2")}
    for at, result in enumerate(results):
        name, seconds = result["name"], result["settings"]["seconds"]
        kind = "limit" if "fraction" in name else "peer" if "_vs_" in name else "naive"
        marker, colour = kinds[kind]
        axis.plot([seconds["naive"], seconds["ours"]], [at, at], color="0.8", lw=1, zorder=1)
        axis.plot(seconds["naive"], at, marker, color=colour, ms=9 if kind == "limit" else 5)
        axis.plot(seconds["ours"], at, "o", color=colours[0], ms=5)
        low, high = result["spread"]
        told = f"{result['value']:.3g}x  [{low:.3g} ... {high:.3g}]"
        axis.annotate(told, (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=6)
    for kind, (marker, colour) in kinds.items():
        axis.plot([], [], marker, color=colour, label=kind, ms=6)
    axis.plot([], [], "o", color=colours[0], label="ours", ms=5)
    axis.set_yticks(range(len(results)), [r["name"] for r in results], fontsize=6.5)
    axis.set(xscale="log", xlabel="CPU seconds for the same answer", ylim=(len(results), -1))
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    draw(json.loads((HERE / "results.json").read_text()), HERE / "results.png")
    print(f"figure: {HERE / 'results.png'}")
