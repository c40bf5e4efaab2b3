"""Time until the command line answers: help, the plan of a sweep, and its status."""

import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.measure import ratio
from sa.record import files, sweep
from sa.record.config import write_config


def _spent(*words: str) -> None:
    subprocess.run([sys.executable, *words], capture_output=True, check=True)


def _children() -> float:
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def help() -> dict[str, Any]:
    return ratio(
        "help",
        lambda: _spent("-c", "import torch, hydra"),
        lambda: _spent("-m", "sa.run", "--help"),
        against="importing torch and hydra",
        settings={},
        clock=_children,
    )


def plan_400() -> dict[str, Any]:
    """Time a dry run of 400 points with its imports, against Hydra composing each point once."""
    one = "from hydra import compose, initialize_config_dir\nfrom sa.config.catalogue import CONF\n"
    one += "with initialize_config_dir(str(CONF), version_base='1.3'):\n"
    one += "    for i in range(40): compose('config', ['estimator=nes', f'seed={i}'])"
    words = "-m sa.run -m seed=range(100) dim=4,8 estimator=cdg,nes sweep.dry_run=true"
    return ratio(
        "plan_400",
        lambda: _spent("-c", one),
        lambda: _spent(*words.split()),
        against="Hydra composing 400 points one by one, extrapolated from 40",
        scale=10,
        settings={"points": 400},
        clock=_children,
    )


def status_1000() -> dict[str, Any]:
    """Time the status of 1,000 finished runs with imports, against importing pandas and torch."""
    with tempfile.TemporaryDirectory() as root:
        points = []
        for seed in range(1000):
            folder = write_config(root, {"seed": seed})
            files.write_text(folder / "status.json", '{"state": "done"}', sync=False)
            files.write_text(folder / "result.json", '{"value": 1.0}', sync=False)
            points.append({"index": seed, "run_id": folder.name, "overrides": [f"seed={seed}"]})
        sweep.write_manifest(root, "many", points, {"created": time.time()})
        return ratio(
            "status_1000",
            lambda: _spent("-c", "import pandas, torch"),
            lambda: _spent("-m", "sa.sweep", "status", "many", "--root", root),
            against="importing pandas and torch",
            settings={"runs": 1000},
            clock=_children,
        )
