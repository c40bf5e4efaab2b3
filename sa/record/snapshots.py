"""Snapshots: the parameters that a training saved every ``snapshot_every`` steps.

Each is a file ``<step>.npz`` in the run's folder ``snapshots/``, readable without torch. Its arrays
are ``params/NAME``, ``buffers/NAME`` and ``redundant``, the names of the parameters on which the
loss cannot depend.
"""

from pathlib import Path

from sa.record.files import RecordError, read_json

FOLDER = "snapshots"
"""The folder in a run's folder."""


def name(step: int) -> str:
    """Return where the snapshot of a step lies in its run's folder."""
    return f"{FOLDER}/{step:09d}.npz"


def snapshots(folder: Path, before: int | None = None) -> dict[int, Path]:
    """Return the files of a run's snapshots by step; {} if it saves none.

    Args:
        folder: the folder of the run.
        before: return only the snapshots of earlier steps; the run may be unfinished. None returns
            all snapshots of a finished run.

    Raises:
        RecordError: the run is not done, or a file is missing.

    """
    meta = read_json(folder / "meta.json") or {}
    every = (meta.get("hashed") or {}).get("snapshot_every")
    result = read_json(folder / "result.json")
    if not every:
        return {}
    if before is not None:
        steps = list(range(0, before, every))
    elif result is None:
        raise RecordError(f"run {folder.name} is not done; repeat its command to go on")
    else:
        last = int(result["step"])
        steps = sorted({*range(0, last + 1, every), *([] if "diverged" in result else [last])})
    found = {step: folder / name(step) for step in steps}
    missing = [step for step, path in found.items() if not path.exists()]
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise RecordError(
            f"run {folder.name} lacks {len(missing)} of its {len(steps)} snapshots, of step "
            f"{some}; delete {folder} and repeat its command to compute it again"
        )
    return found
