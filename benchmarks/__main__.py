"""Command `python -m benchmarks [NAME ...] [--json FILE]`: names or prefixes, by default all."""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks import cdg, command, hessian, maps, peers, resnet, smoothed, stack, training
from benchmarks.measure import table

ALL = {
    name: act
    for module in (cdg, maps, resnet, stack, training, peers, smoothed, hessian, command)
    for name, act in vars(module).items()
    if callable(act) and getattr(act, "__module__", "") == module.__name__
    and not name.startswith("_") and name not in ("problem", "loop")
}  # fmt: skip


def main() -> None:
    """Run the named benchmarks, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(ALL)}; or a prefix")
    parser.add_argument("--json", default="benchmarks/results.json", type=Path, metavar="FILE")
    told = parser.parse_args()
    chosen = [n for n in ALL if not told.names or any(n.startswith(x) for x in told.names)]
    if not chosen:
        parser.error(f"no benchmark is called {', '.join(told.names)}; there are: {', '.join(ALL)}")
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    kept = json.loads(told.json.read_text()) if told.json.exists() else []
    results: list[dict[str, Any]] = []
    for name in chosen:
        print(f"  {name} ...", flush=True)
        try:
            results.append(ALL[name]())
            fresh = {r["name"]: r for r in results}
            merged = [fresh.pop(r["name"], r) for r in kept] + list(fresh.values())
            told.json.write_text(json.dumps(merged, indent=1) + "\n")
        except ImportError as error:
            print(f"    skipped: {error}; pip install -e '.[peers]'")
    print(table(results))
    print(f"results: {told.json}")


if __name__ == "__main__":
    main()
