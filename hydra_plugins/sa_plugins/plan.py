"""The sweeper and launchers behind Hydra's -m: they compose the points for `sa.launch.driver`."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import basic_launcher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.sa_plugins._compose import Composer, lacking


class Plan(Sweeper):
    """The sweeper of sa, which runs every combination of the swept values.

    Args:
        params: a setting of other sweepers of Hydra; this sweeper refuses it.

    """

    def __init__(self, params: dict[str, Any] | None = None):
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the context and build the launcher; Hydra calls this first."""
        from hydra.core.plugins import Plugins

        from sa.run import Command

        if not isinstance(task_function, Command):
            raise HydraException("hydra/sweeper=plan works in python -m sa.run only; type that")
        self.command = task_function
        self.loader, self.master = hydra_context.config_loader, config
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # No launcher was chosen. (A default in conf/config.yaml would override an experiment's.)
        unchosen = type(launcher) is basic_launcher.BasicLauncher
        self.launcher = Inline() if unchosen else launcher

    def sweep(self, arguments: list[str]) -> None:
        """Compose all points and hand them to `sa.launch.driver.multirun`."""
        from sa.config import argv
        from sa.config.error import UsageError
        from sa.launch import driver, plan
        from sa.record import telling

        typed = self.command.command_line.typed
        sys.argv[1:] = typed  # the command that the sweep records
        if self.params:
            raise UsageError(
                "hydra.sweeper.params: the sweeper of sa has no such setting; type "
                "KEY=VALUE,VALUE, and in an experiment write sizes: {quick: {KEY: [VALUE, VALUE]}}"
            )
        sizes: Any = OmegaConf.to_container(self.master.sizes)
        words = arguments + self.command.command_line.for_points
        swept, shape = self._axes(argv.with_quick_size(words, sizes.get("quick") or {}))
        points = plan.shape(swept, **shape)
        for note in plan.overruled(typed, shape["points"]):
            telling.note(note)
        own = {w for p in shape["points"] for w in plan.listed(p)}
        for word in own:
            if re.match(r"[+~]*hydra[./=]", word):
                raise UsageError(
                    f"sweep.points: {word}: a point cannot set it, it belongs to the sweep as a "
                    "whole; type it beside -m"
                )
        composed = Composer(self.loader, self.master)([argv.one_budget(p) for p in points], own)
        for note in lacking(composed):
            telling.note(note)
        once = list(
            {tuple(one.words): (one, p) for one, p in zip(composed, points, strict=True)}.values()
        )
        fixed = {v[0][0] for v in swept.values() if len(v) == 1 and len(v[0]) == 1}
        varied = [[w for w in p if w in one.words and w not in fixed] for one, p in once]
        self.command.swept = driver.multirun(
            [one.config for one, _ in once],
            varied,
            [one.words for one, _ in once],
            self.launcher,
            typed,
        )

    def _axes(self, words: list[str]) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, Any]]:
        """Return the words of every key, one for each value, and the lists of `sweep`."""
        from sa.config.error import UsageError
        from sa.launch import plan

        how = OmegaConf.to_container(self.master.sweep) if self.master.sweep else None
        if not isinstance(how, dict):
            raise UsageError(
                "sweep: it cannot be replaced as a whole; set what is in it, e.g. sweep.name=NAME"
            )
        for name in ("points", "exclude"):
            plan.refuse_texts(name, how.get(name) or [])
        swept: dict[str, list[tuple[str, ...]]] = {}
        shape: dict[str, Any] = {k: how.get(k) or [] for k in ("zip", "points", "exclude")}
        for override in OverridesParser.create(self.loader).parse_overrides(words):
            key = override.get_key_element()
            if not override.is_sweep_override():
                swept[key] = [(str(override.input_line),)]
                if key.lstrip("+").removeprefix("sweep.") in shape:
                    shape[key.lstrip("+").removeprefix("sweep.")] = override.value() or []
            elif override.is_discrete_sweep():
                swept[key] = [(f"{key}={v}",) for v in override.sweep_string_iterator()]
            else:
                raise UsageError(f"{key}: an interval lists no values; type {key}=VALUE,VALUE")
        for key, values in swept.items():
            if not values:
                raise UsageError(f"{key}: no values to sweep over; type {key}=VALUE,VALUE")
        return swept, shape


class _Place(Launcher):
    """A launcher that only holds settings: they say where `sa.launch` runs the points."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Do nothing; Hydra calls this first."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Refuse other sweepers; `sa.launch.driver.multirun` reads ``kind`` and ``settings``."""
        raise HydraException(
            "this launcher works with hydra/sweeper=plan only; with another sweeper type "
            "hydra/launcher=inline, or one of Hydra's own, e.g. hydra/launcher=joblib"
        )


class Inline(basic_launcher.BasicLauncher):
    """One point after another in this process: the default. It works with every sweeper."""

    kind = "Inline"
    settings: dict[str, Any] = {}


class Local(_Place):
    """A bounded pool of processes, with the settings of `sa.launch.here.Local`."""

    kind = "Local"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class Slurm(Local):
    """Arrays of SLURM jobs, with the settings of `sa.launch.slurm.Slurm`."""

    kind = "Slurm"
