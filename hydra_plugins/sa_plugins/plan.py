"""The shim between Hydra's -m and `sa.driver`: compose every point once, then plan and run."""

import copy
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
        """Compose all points and hand them to `sa.driver.multirun`."""
        from sa import driver
        from sa.config import words as typed
        from sa.config.complaint import UsageError
        from sa.launch import plan

        sys.argv[1:] = typed.TYPED or sys.argv[1:]
        words = [f"{k}={v}" for k, v in self.params.items()] + arguments + typed.HELD
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
                raise UsageError(f"{key}: no values to sweep over")
        points = plan.shape(swept, **shape)
        for note in plan.overruled(typed.TYPED, shape["points"]):
            print(f"note: {note}", file=sys.stderr)
        fixed = {v[0][0] for v in swept.values() if len(v) == 1 and len(v[0]) == 1}
        told = [[w for w in p if w not in fixed] for p in points]
        return driver.multirun(self._compose(points), told, points, self.launcher)

    def _compose(self, points: list[list[str]]) -> list[dict[str, Any]]:
        """Full composition of combinations of group choices; plain values are set on them."""
        parser = OverridesParser.create(self.loader)
        parsed: dict[str, Override] = {}
        simple: dict[str, bool] = {}  # by key: Hydra takes milliseconds to list a group
        plains: list[list[str]] = []
        groups: list[tuple[str, ...]] = []
        for words in points:
            for word in words:
                if word not in parsed:
                    override = parsed[word] = parser.parse_override(word)
                    key = override.get_key_element()
                    if key not in simple:
                        simple[key] = self._is_plain(override)
            plains.append([w for w in words if simple[parsed[w].get_key_element()]])
            groups.append(tuple(w for w in words if not simple[parsed[w].get_key_element()]))
        # listed points may set different names: what one sets must not stay for another
        names = [tuple(parsed[w].get_key_element() for w in plain) for plain in plains]
        alike: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = {}
        for own, choice, plain in zip(names, groups, plains, strict=True):
            alike.setdefault(own, {})[choice] = plain
        bases = {own: self._bases(some) for own, some in alike.items()}
        out = []
        for own, choice, plain in zip(names, groups, plains, strict=True):
            config = bases[own][choice]  # set in place: each of these points sets the same names
            for word in plain:
                OmegaConf.update(config, parsed[word].key_or_group, parsed[word].value())
            out.append(OmegaConf.to_container(config, resolve=True))
        return out  # type: ignore[return-value]

    def _bases(self, combinations: dict[tuple[str, ...], list[str]]) -> dict[Any, DictConfig]:
        """The configuration of every combination of group choices, with plain words of one point.

        Hydra takes a tenth of a second for each. Where the options of one group change none of the
        top-level keys that those of another do, the rest is put together from one composition an
        option; the last combination is composed in full to see that it is the same.
        """
        every = list(combinations)
        first, last = every[0], every[-1]
        options = [dict.fromkeys(words) for words in zip(*every, strict=False)]
        few = 2 + sum(len(o) - 1 for o in options)
        if len({len(c) for c in every}) > 1 or few >= len(every):
            return {c: self._load(c, plain) for c, plain in combinations.items()}
        plain = combinations[first]
        start = self._load(first, plain)
        told = _plainly(start)
        parts: list[dict[str, dict[str, Any]]] = []  # by place and word: the keys it changes
        for at, words in enumerate(options):
            parts.append({first[at]: {}})
            for word in list(words)[1:]:
                made = self._load((*first[:at], word, *first[at + 1 :]), plain)
                mine = _plainly(made)
                changed = [k for k in {**told, **mine} if told.get(k) != mine.get(k)]
                parts[-1][word] = {k: made._get_node(k) for k in changed}
        touched = [{k for part in some.values() for k in part} for some in parts]
        bases = {}
        for choice in every:
            whole = copy.deepcopy(start)
            with open_dict(whole):
                for word, some in zip(choice, parts, strict=True):
                    for key, node in some[word].items():
                        whole[key] = node
            bases[choice] = whole
        apart = sum(map(len, touched)) == len(set().union(*touched))
        if apart and _plainly(bases[last]) == _plainly(self._load(last, plain)):
            return bases
        return {c: self._load(c, plain) for c, plain in combinations.items()}

    def _load(self, groups: Sequence[str], plain: Sequence[str]) -> DictConfig:
        # plain words too: Hydra refuses an unknown key here
        whole = self.loader.load_sweep_config(self.master, [*groups, *plain])
        own = OmegaConf.masked_copy(whole, [str(k) for k in whole if k != "hydra"])
        with open_dict(own):
            own.experiment = whole.hydra.runtime.choices.get("experiment")
        return own

    def _is_plain(self, override: Override) -> bool:
        key = override.key_or_group
        special = override.is_add() or override.is_delete() or override.package is not None
        return not (special or key.startswith("hydra") or self.loader.get_group_options(key))


def _plainly(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


class _Place(Launcher):
    """A launcher whose settings say where `sa.launch` runs the frozen configurations."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's hook; nothing to keep."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Never called: `sa.driver.multirun` reads ``settings`` and ``kind`` instead."""
        raise HydraException(
            "this launcher works with hydra/sweeper=plan only; beside another sweeper take "
            "hydra/launcher=inline or one of Hydra's own, such as joblib"
        )


class Inline(basic_launcher.BasicLauncher):
    """One point after another in this process; the default, and for every sweeper."""

    kind = "Inline"
    settings: dict[str, Any] = {}


class Local(_Place):
    """A bounded pool of processes; settings of `sa.launch.here.Local`."""

    kind = "Local"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class Slurm(Local):
    """Arrays of SLURM jobs; settings of `sa.launch.slurm.Slurm`."""

    kind = "Slurm"
