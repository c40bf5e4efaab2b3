"""The user's defaults for sbatch, SBATCH_PARTITION and its like: which of them hold for our jobs.

sbatch lets the environment overrule the script, where the launcher's settings are. So a default
beside a setting that was typed has to be taken away; every other one holds.
"""

import math
from collections.abc import Mapping
from typing import Any

_OF = {
    "partition": ("PARTITION",), "account": ("ACCOUNT",), "qos": ("QOS",),
    "constraint": ("CONSTRAINT",), "time": ("TIMELIMIT",),
    "memory_gb": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),
    "gpus": ("GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GRES"),
}  # fmt: skip
"""Launcher setting -> the defaults it overrules when it is typed."""

_EXTRA = {"mem": "MEM_PER_NODE", "time": "TIMELIMIT", "switches": "REQ_SWITCH"}
"""Options of sbatch whose default does not have their name."""

_OWN = (
    "ARRAY_INX", "BATCH", "ERROR", "EXPORT", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE",
    "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
)  # fmt: skip
"""Defaults that would break the jobs: the launcher sets these options itself."""


def defaults(env: Mapping[str, str], typed: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the sbatch defaults that hold, and notes that name them and those that do not.

    Args:
        env: the environment.
        typed: the launcher's settings; None for one that was not typed, and ``extra`` as a mapping.

    """
    there = {k: v for k, v in env.items() if k.startswith("SBATCH_") and v}
    why: dict[str, str] = {}
    for name in there:
        word = name.removeprefix("SBATCH_")
        if word in _OWN or word.startswith(("CPU_BIND", "MEM_BIND")):
            why[name] = "the launcher sets it itself"
    for setting, names in _OF.items():
        if typed.get(setting) is not None:
            told = f"hydra.launcher.{setting}={typed[setting]} is set"
            why |= {f"SBATCH_{x}": told for x in names if f"SBATCH_{x}" in there}
    for option in typed.get("extra") or {}:
        name = "SBATCH_" + _EXTRA.get(option, option.upper().replace("-", "_"))
        why |= {name: f"hydra.launcher.extra.{option} is set"} if name in there else {}
    held = {k: v for k, v in there.items() if k not in why}
    notes = [f"{k}={there[k]} is not used for these jobs: {told}" for k, told in why.items()]
    if held:
        words = ", ".join(f"{k}={v}" for k, v in held.items())
        notes.insert(0, f"defaults of your environment hold for these jobs: {words}")
    return held, notes


def minutes(limit: str) -> int:
    """Return the minutes of a SLURM time limit, rounded up.

    >>> [minutes(x) for x in ("90", "1:30", "2:00:00", "1-0", "1-1:30", "UNLIMITED")]
    [90, 2, 120, 1440, 1530, 525600]
    """
    days, dash, rest = limit.rpartition("-")
    try:
        parts = [int(x) for x in rest.split(":")]
        if dash:
            hours, minute, second = (parts + [0, 0])[:3]
        elif len(parts) == 3:
            hours, minute, second = parts
        else:
            hours, (minute, second) = 0, (parts + [0])[:2]
        return math.ceil((int(days or 0) * 24 + hours) * 60 + minute + second / 60)
    except ValueError:  # UNLIMITED, or what sbatch itself will refuse
        return 365 * 24 * 60
