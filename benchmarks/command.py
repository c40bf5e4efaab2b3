"""How long the command line takes to say what there is."""

import resource
import subprocess
import sys
from typing import Any

from benchmarks.measure import ratio


def help() -> dict[str, Any]:
    def spent(*words: str) -> None:
        subprocess.run([sys.executable, *words], capture_output=True, check=True)

    measured = ratio(
        "help",
        lambda: spent("-c", "import torch, hydra"),
        lambda: spent("-m", "sa.run", "--help"),
        against="importing torch and hydra",
        settings={},
        clock=lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
    )
    return measured
