"""Selects the user's defaults for sbatch, e.g. SBATCH_PARTITION, that apply to our jobs.

For sbatch, the environment overrules the script, and the launcher's settings are in the script. So
a default is removed if the user types the same setting; the other defaults apply.
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
"""Setting of the launcher -> the defaults that it overrules."""

_EXTRA = {"mem": "MEM_PER_NODE", "time": "TIMELIMIT", "switches": "REQ_SWITCH"}
"""Option of sbatch -> its default, if that has another name."""

_OWN = (
    "ARRAY_INX", "BATCH", "ERROR", "EXPORT", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE",
    "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
)  # fmt: skip
"""Defaults that never apply, because the launcher sets these options itself."""


def defaults(env: Mapping[str, str], typed: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the defaults of sbatch that apply, and notes about those that do or do not apply.

    Args:
        env: the environment.
        typed: the launcher's settings. One that was not typed is None; ``extra`` is a mapping.

    """
    users = {k: v for k, v in env.items() if k.startswith("SBATCH_") and v}
    why: dict[str, str] = {}
    for name in users:
        word = name.removeprefix("SBATCH_")
        if word in _OWN or word.startswith(("CPU_BIND", "MEM_BIND")):
            why[name] = "the launcher sets it itself"
    for setting, names in _OF.items():
        if typed.get(setting) is not None:
            reason = f"hydra.launcher.{setting}={typed[setting]} is set"
            why |= {f"SBATCH_{x}": reason for x in names if f"SBATCH_{x}" in users}
    for option in typed.get("extra") or {}:
        name = "SBATCH_" + _EXTRA.get(option, option.upper().replace("-", "_"))
        why |= {name: f"hydra.launcher.extra.{option} is set"} if name in users else {}
    hold = {k: v for k, v in users.items() if k not in why}
    notes = [f"{k}={users[k]} is not used for these jobs: {reason}" for k, reason in why.items()]
    if hold:
        listed = ", ".join(f"{k}={v}" for k, v in hold.items())
        notes.insert(0, f"defaults of your environment hold for these jobs: {listed}")
    return hold, notes


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
    except ValueError:  # UNLIMITED, or a text that sbatch will refuse
        return 365 * 24 * 60
