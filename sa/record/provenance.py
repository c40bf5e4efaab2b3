"""Where a run was computed and by which code: for its folder and its mirror."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def meta(config: dict[str, Any]) -> dict[str, Any]:
    """Commit, versions, machine and what was typed."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    names = ("torch", "numpy", "hydra-core", "sa-lab")
    kept = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK")
    slurm = {k: v for k, v in os.environ.items() if k in kept}
    return {
        **commit(),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {k: version(k) for k in names},
        "seed": config["seed"],
        "argv": sys.argv[1:],
        "slurm": slurm,
    }


NOTE = "commit.json"
"""Beside copied code: what `commit` said of the code that was copied."""

_COMMIT: dict[str, Any] = {}


def commit() -> dict[str, Any]:
    """Commit and dirty flag of the code that runs; asked of git once a process.

    Of a sweep's snapshot, those of the code it was copied from; None where git does not have it.
    """
    here = Path(__file__).resolve().parent
    code = here.parents[1]
    if not _COMMIT and (code / NOTE).exists():
        _COMMIT.update(json.loads((code / NOTE).read_text()))
    if not _COMMIT:

        def git(*words: str) -> str | None:
            try:
                done = subprocess.run(
                    ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10
                )
            except (OSError, subprocess.SubprocessError):
                return None
            return done.stdout.strip() if done.returncode == 0 else None

        mine = git("ls-files", Path(__file__).name)  # not a repository that it happens to lie in
        _COMMIT["commit"] = git("rev-parse", "HEAD") if mine else None
        _COMMIT["dirty"] = bool(mine and git("status", "--porcelain", "--untracked-files=no"))
    return _COMMIT
