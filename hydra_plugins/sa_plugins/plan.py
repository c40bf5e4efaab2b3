"""The shim between Hydra's -m and `sa.launch`: compose every point once, then plan and run."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import basic_launcher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class Plan(Sweeper):
    """Every combination of the swept values; ``params`` are an experiment's own sweep."""

    def __init__(self, params: dict[str, Any] | None = None):
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's hook: keep the context and make the launcher."""
        from hydra.core.plugins import Plugins

        self.loader, self.master = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Compose all points and hand them to `sa.run.multirun`."""
        from sa import config as settings
        from sa import launch, run

        sys.argv[1:] = settings.TYPED or sys.argv[1:]
        words = [f"{k}={v}" for k, v in self.params.items()] + arguments + settings.HELD
        swept: dict[str, list[tuple[str, ...]]] = {}
        how = OmegaConf.to_container(self.master.sweep)
        assert isinstance(how, dict)
        shape: dict[str, Any] = {k: how[k] for k in ("zip", "points", "exclude")}
        for override in OverridesParser.create(self.loader).parse_overrides(words):
            key = override.get_key_element()
            if not override.is_sweep_override():
                swept[key] = [(f"{key}={override.get_value_element_as_str()}",)]
                if key.removeprefix("sweep.") in shape:
                    shape[key.removeprefix("sweep.")] = override.value() or []
            elif override.is_discrete_sweep():
                swept[key] = [(f"{key}={v}",) for v in override.sweep_string_iterator()]
            else:
                raise HydraException(f"{key}: a plan needs listed values, not an interval")
        for key, values in swept.items():
            if not values:
                raise settings.UsageError(f"{key}: no values to sweep over")
        points = launch.shape(swept, **shape)
        fixed = {v[0][0] for v in swept.values() if len(v) == 1 and len(v[0]) == 1}
        told = [[w for w in p if w not in fixed] for p in points]
        return run.multirun(self._compose(points), told, points, self.launcher)

    def _compose(self, points: list[list[str]]) -> list[dict[str, Any]]:
        """Full composition once a combination of group choices; plain values are set on it."""
        parser = OverridesParser.create(self.loader)
        parsed: dict[str, Override] = {}
        bases: dict[tuple[str, ...], DictConfig] = {}
        simple: dict[str, bool] = {}  # by key: Hydra takes milliseconds to list a group
        out = []
        for words in points:
            for word in words:
                if word not in parsed:
                    override = parsed[word] = parser.parse_override(word)
                    key = override.get_key_element()
                    if key not in simple:
                        simple[key] = self._is_plain(override)
            plain = [w for w in words if simple[parsed[w].get_key_element()]]
            groups = tuple(w for w in words if w not in plain)
            if groups not in bases:  # plain words too: Hydra refuses an unknown key here
                whole = self.loader.load_sweep_config(self.master, [*groups, *plain])
                own = OmegaConf.masked_copy(whole, [str(k) for k in whole if k != "hydra"])
                with open_dict(own):
                    own.experiment = whole.hydra.runtime.choices.get("experiment")
                bases[groups] = own
            config = bases[groups]  # set in place: every point sets the same names
            for word in plain:
                OmegaConf.update(config, parsed[word].key_or_group, parsed[word].value())
            out.append(OmegaConf.to_container(config, resolve=True))
        return out  # type: ignore[return-value]

    def _is_plain(self, override: Override) -> bool:
        key = override.key_or_group
        special = override.is_add() or override.is_delete() or override.package is not None
        return not (special or key.startswith("hydra") or self.loader.get_group_options(key))


class _Place(Launcher):
    """A launcher whose settings say where `sa.launch` runs the frozen configurations."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's hook; nothing to keep."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Never called: `sa.run.multirun` reads ``settings`` and ``kind`` instead."""
        raise HydraException(
            "this launcher works with hydra/sweeper=plan only; beside another sweeper take "
            "hydra/launcher=inline or one of Hydra's own, such as joblib"
        )


class Inline(basic_launcher.BasicLauncher):
    """One point after another in this process; the default, and for every sweeper."""

    kind = "Inline"
    settings: dict[str, Any] = {}


class Local(_Place):
    """A bounded pool of processes; settings of `sa.launch.Local`."""

    kind = "Local"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class Slurm(Local):
    """Arrays of SLURM jobs; settings of `sa.launch.Slurm`."""

    kind = "Slurm"
