"""The W&B mirror of a run: a copy of what its folder holds. It is never read back.

Offline, each process that works on a run leaves a folder ``<run>/wandb/offline-run-<time>-<id>``,
so a resumed run has several. All have the same id and ``resume=allow``. The command
``wandb sync <run>/wandb/offline-run-*`` therefore uploads them as one run, the oldest first.

A kill loses the last rows that W&B had not written yet, so a resumed run sends some rows before its
checkpoint again. Every row names its step, so the folders agree where they overlap. With
``live=False`` the last folder holds the whole run.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from sa.record import telling

_BROKEN: list[str] = []  # why wandb failed in this process: it warns once and is not tried again


class Mirror:
    """The copy of one run in W&B. An error of W&B never reaches the run.

    Args:
        begin: opens the W&B run; None mirrors nothing.
        rows: the file of rows, JSON lines, that are exported at the end; None mirrors each row when
            it is logged.

    """

    def __init__(self, begin: Callable[[], Any] | None = None, rows: Path | None = None):
        self._begin, self._rows = begin, rows
        self._run: Any = None
        self._step: int | None = None
        self._lists: dict[str, Any] = {}
        if rows is None:
            self._guard(self._start)

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one flat row at its own step; the last value of a list goes into the summary."""
        if self._run is not None:
            self._guard(lambda: self._log(row))

    def finish(self, result: Mapping[str, Any], figures: Iterable[Path] = ()) -> bool:
        """Send the rows that are left, the summary and the figures, and close the W&B run.

        Return False if W&B failed.
        """
        return self._guard(lambda: self._finish(result, figures))

    def abort(self) -> None:
        """Close a run that failed; W&B shows it as failed."""
        if self._run is not None:
            self._guard(lambda: self._run.finish(exit_code=1))
        self._begin = self._run = None

    def _start(self) -> None:
        if self._begin is not None:
            self._run = self._begin()
            self._run.define_metric("step")
            self._run.define_metric("evals")  # a second x axis to choose in W&B
            self._run.define_metric("*", step_metric="step")

    def _log(self, row: Mapping[str, Any]) -> None:
        lists = {k: v for k, v in row.items() if isinstance(v, list | tuple)}
        self._lists |= lists
        self._step = row.get("step", self._step)
        self._run.log({k: v for k, v in row.items() if k not in lists}, step=self._step)

    def _finish(self, result: Mapping[str, Any], figures: Iterable[Path]) -> None:
        if self._rows is not None:
            self._start()
        if self._run is None:
            return
        if self._rows is not None:
            with self._rows.open() as lines:
                for line in lines:
                    self._log(json.loads(line))
        images = {f"figure/{path.stem}": _image(path) for path in figures}
        if images or self._step is not None:
            self._run.log(images, step=self._step, commit=True)  # add to the last row and close it
        self._run.summary.update(self._lists | dict(result))
        self._run.finish()
        self._begin = self._run = None

    def _guard(self, act: Callable[[], object]) -> bool:
        try:
            act()
            return True
        except (Exception, SystemExit) as error:  # W&B may raise any error
            run, self._begin, self._run = self._run, None, None
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)
            if not _BROKEN:
                _BROKEN.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
                telling.lose("W&B mirror", _BROKEN[0])
                print(
                    f"sa: the W&B mirror broke ({_BROKEN[0]}) and is off for the rest of this "
                    "process; runs go on and their folders are complete. tracker=none does "
                    "without it, tracker.mode=offline needs no network and no key",
                    file=sys.stderr,
                )
            return False


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Wandb:
    """Copies runs to W&B: offline, online or not at all.

    Args:
        mode: ``offline`` writes files that `wandb sync` uploads, ``online`` uploads at once,
            ``disabled`` has no mirror and never imports wandb.
        project: W&B project of the runs.
        entity: W&B user or team; null for your own default.
        live: true mirrors rows as they come. false exports ``metrics.jsonl`` of the folder at the
            end, which also exports a run that finished long ago: ``open(...).finish(result)``.

    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "sa"
    entity: str | None = None
    live: bool = True

    def open(
        self,
        run_id: str,
        folder: Path,
        config: dict[str, Any],
        meta: dict[str, Any],
        *,
        group: str | None,
        job_type: str,
        name: str,
        tags: list[str],
    ) -> Mirror:
        """Begin the mirror of a run, or continue the mirror that has the same id.

        ``config`` is the resolved configuration; W&B shows ``meta`` as ``meta.*``. The last four
        are W&B's own settings of a run.
        """

        def begin() -> Any:
            # The variable names the service of another process, perhaps on another machine.
            if "wandb" not in sys.modules:
                os.environ.pop("WANDB_SERVICE", None)
            import wandb

            wandb.setup(wandb.Settings(silent=True))
            if self.mode == "online" and not wandb.login(prompt=False):
                raise RuntimeError("no API key: type `wandb login`")
            return wandb.init(
                id=run_id,
                dir=folder.resolve(),  # W&B's service may have another working folder
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                group=group,
                job_type=job_type,
                name=name,
                tags=tags,
                config={**config, "meta": meta},
                resume="allow",
                reinit="create_new",  # a process may have several W&B runs
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    disable_code=True,
                    save_code=False,
                    init_timeout=60,
                    finish_timeout=60,
                    x_disable_stats=True,  # do not sample the machine
                    x_disable_meta=True,  # the folder's meta.json has host and versions
                    x_save_requirements=False,
                ),
            )

        if self.mode != "disabled" and _BROKEN:
            telling.lose("W&B mirror", _BROKEN[0])
        if self.mode == "disabled" or _BROKEN:
            return Mirror()
        return Mirror(begin, None if self.live else folder / "metrics.jsonl")


def describe(config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, tags and job type of a run, as keywords of ``Wandb.open``.

    >>> nes = {"_target_": "sa.estimator.nes.NES", "samples": 5000, "sigma": 0.01}
    >>> describe({"estimator": nes, "dataset": {"dim": 32}, "seed": 0, "steps": 0}, {})
    {'name': 'nes-d32-n5000-s0.01-seed0', 'tags': ['nes'], 'job_type': 'probe'}
    """
    estimator, dataset = config.get("estimator") or {}, config.get("dataset") or {}
    slots = config.get("quantizer") or {}
    numbers = {
        "d": dataset.get("dim"),
        "n": estimator.get("samples"),
        "s": estimator.get("sigma"),
        "e": estimator.get("epsilon"),
        "seed": config.get("seed"),
    }
    rule = estimator.get("surrogate")
    words = [_kind(estimator), rule if isinstance(rule, str) else ""]
    words += [f"{k}{v}" for k, v in numbers.items() if isinstance(v, int | float)]
    quantizer = [_kind(slots.get(k)) for k in ("weight", "activation")]
    experiment = config.get("experiment") or meta.get("experiment")
    tags: list[Any] = [_kind(estimator), "/".join(filter(None, quantizer)), _kind(dataset)]
    tags += [_kind(config.get("model")), experiment or (config.get("sweep") or {}).get("name")]
    return {
        "name": "-".join(filter(None, words)),
        "tags": list(dict.fromkeys(str(tag)[:64] for tag in tags if tag)),
        "job_type": "train" if config.get("steps") else "probe",
    }


def _kind(node: Mapping[str, Any] | None) -> str:
    """Return the name of the file of a component: nes for sa.estimator.nes.NES."""
    return "".join(str((node or {}).get("_target_", "")).split(".")[-2:-1])


def _image(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path))
