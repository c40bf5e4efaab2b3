"""The table of a sweep's runs, and the table over seeds."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa.record import files, identity, run, sweep
from sa.record.config import read_config
from sa.sweep.series import kind_of
from sa.table.grouping import REPLICATE, configurations, is_replicate, key, varying
from sa.table.results import finite, half_width

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, list[Any]]


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf. A list of mappings is not one: ``ends.0.seed``."""
    for name, value in config.items():
        inside = isinstance(value, list) and any(isinstance(v, dict) for v in value)
        node = {str(i): v for i, v in enumerate(value)} if inside else value
        if isinstance(node, dict) and node:
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", node


def gather(root: Path, points: list[dict[str, Any]]) -> tuple[Columns, Columns, Columns]:
    """Return settings, results and provenance: columns with one value for each point."""
    results = []
    provenance: Columns = {"run_id": [], "status": [], "commit": []}
    for point in points:
        folder = root / "runs" / point["run_id"]
        results.append(run.read_result(root, folder.name) or {})
        meta = files.read_json(folder / "meta.json") or {}
        recorded = meta.get("commits")
        recorded = recorded if isinstance(recorded, list) else [meta.get("commit")]
        commits = [str(c) for c in recorded if c]
        if meta.get("schema", run.SCHEMA) != run.SCHEMA:  # its numbers may mean other things
            commits.append(f"schema {meta['schema']}")
        provenance["run_id"].append(folder.name)
        provenance["status"].append(run.state(folder))
        provenance["commit"].append("+".join(commits) or None)  # a resumed run may have several
    configs = configured(root, points)
    if any(config.get("ends") for config in configs):  # as typed; the settings hold them resolved
        provenance["ends"] = [json.dumps(c["ends"]) if c.get("ends") else None for c in configs]
    flat = [dict(leaves(_with_ends(root, config))) for config in configs]
    outcomes = _transposed(results, _uniform, skip=provenance)
    settings = _transposed(flat, _settings, skip=identity.BOOKKEEPING | {"ends"})
    taken = outcomes.keys() | provenance.keys()
    settings = {f"config.{k}" if k in taken else k: v for k, v in settings.items()}
    return settings, outcomes, provenance


def configured(root: Path, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the configuration of every point, without bookkeeping.

    A point without a readable folder gets the configuration of a point with the same overrides but
    the seed. A run that is older than a setting gets that value of the setting which leaves the
    run's id as it is.
    """
    configs = [read_config(root / "runs" / p["run_id"]) for p in points]
    configs = [_without_bookkeeping(c) for c in configs]
    words = [[w for w in p["overrides"] if not is_replicate(w)] for p in points]
    known = {tuple(w): c for w, c in zip(words, configs, strict=True) if c}
    for at, point in enumerate(points):
        if not configs[at] and (alike := known.get(tuple(words[at]))):
            seeds = [w.partition("=")[2] for w in point["overrides"] if is_replicate(w)]
            configs[at] = {**alike, REPLICATE: int(seeds[-1])} if seeds else dict(alike)
    for name in identity.LATER:
        off = [c[name] for c in configs if name in c and identity.is_off(c[name])]
        for config in configs if off else []:
            config.setdefault(name, off[0])
    for name, value in identity.DEFAULTS.items():
        for config in configs if any(name in c for c in configs) else []:
            config.setdefault(name, value)
    for path in identity.LATER_OF_COMPONENTS:
        group, _, name = path.partition(".")
        nodes = [c[group] for c in configs if isinstance(c.get(group), dict)]
        having = {n.get("_target_") for n in nodes if name in n}
        for node in nodes:
            if node.get("_target_") in having:
                node.setdefault(name, False)
    return configs


def _with_ends(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the configurations of the trainings whose ids ``ends`` lists."""
    ends = config.get("ends")
    if not isinstance(ends, list):
        return config
    full: list[Any] = []
    for end in ends:
        found = read_config(root / "runs" / end) if isinstance(end, str) else {}
        full.append(_without_bookkeeping(found) or end)
    return config | {"ends": {str(i): end for i, end in enumerate(full)}}


def _without_bookkeeping(config: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a configuration that are part of its run's identity."""
    config = identity.placeless(config)
    return {k: v for k, v in config.items() if k not in identity.BOOKKEEPING}


def framed(root: Path, points: list[dict[str, Any]]) -> "pd.DataFrame":
    """Return the table of a sweep, with one row for each run.

    ``attrs["settings"]`` and ``attrs["results"]`` name the columns of each kind; parquet keeps
    them.
    """
    import pandas as pd

    settings, results, provenance = gather(root, points)
    table = pd.DataFrame(settings | results | provenance)
    table.attrs |= {"settings": list(settings), "results": list(results)}
    return table


def _transposed(
    rows: list[dict[str, Any]], uniform: Callable[[list[Any]], list[Any]], skip: Iterable[str] = ()
) -> Columns:
    """Return rows as columns, each made ``uniform``, without the keys in ``skip``."""
    names = dict.fromkeys(k for row in rows for k in row if k not in skip)
    return {k: uniform([row.get(k) for row in rows]) for k in names}


def _uniform(values: list[Any]) -> list[Any]:
    """Return a column of one kind, as parquet needs; as JSON text if the kinds differ."""
    kinds = {kind_of(v) for v in values if v is not None}
    if kinds == {"numbers"}:
        return [v and [float("nan") if x is None else float(x) for x in v] for v in values]
    if len(kinds) < 2 and "other" not in kinds:
        return values
    return [v if isinstance(v, str | None) else json.dumps(v) for v in values]


def _settings(values: list[Any]) -> list[Any]:
    """Return a column of one kind; if the kinds differ, texts that are equal for equal settings.

    A text that reads as another kind is then quoted: ``"1"`` beside 1.
    """
    kinds = {kind_of(v) for v in values if v is not None}
    large = any(isinstance(v, int) and abs(v) >= 2**53 for v in values)
    rounded = large and not all(isinstance(v, int) for v in values)  # in a column of floats
    if kinds <= {"text"} or (len(kinds) == 1 and kinds <= {"bool", "number"} and not rounded):
        return values
    return [v if v is None or _plain_text(v) else key(v) for v in values]


def _plain_text(value: Any) -> bool:
    """Return whether a value is a text that does not read as JSON."""
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return isinstance(value, str)
    return False


def read(name: str, root: str | Path | None = None) -> "pd.DataFrame":
    """Return the table of a sweep: one row for each run, with its settings, results and state.

    It writes nothing. ``attrs["settings"]`` and ``attrs["results"]`` name the columns of a kind.

    >>> import tempfile
    >>> from sa.record.sweep import write_manifest
    >>> root = tempfile.mkdtemp()
    >>> points = [{"index": 0, "run_id": "0123456789", "overrides": ["dim=4"]}]
    >>> write_manifest(root, "mine", points, {})
    >>> list(read("mine", root)["status"])
    ['pending']

    Args:
        name: name of the sweep, as in ``sweeps/NAME``.
        root: the folder above runs/ and sweeps/; None for SA_ROOT, else the current folder.

    Raises:
        RecordError: there is no sweep of this name, or its manifest is damaged.

    """
    where = Path(root if root is not None else os.environ.get("SA_ROOT", "."))
    _, points = sweep.read_manifest(where, name)
    return framed(where, points)


def collect(root: Path, name: str) -> "pd.DataFrame":
    """Write the table of a sweep and the one over seeds; return the first."""
    _, points = sweep.read_manifest(root, name)
    table = write_table(root, name, framed(root, points))
    over = aggregate(table)
    path = sweep.sweep_folder(root, name) / "results_over_seeds.parquet"
    files.write_atomic(path, lambda temp: over.to_parquet(temp, index=False))
    print(f"table: {path} ({len(over)} rows: n, mean, quantiles, 95 % interval of each number)")
    return table


def aggregate(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a row for each configuration: the settings that vary, and every result over seeds.

    ``runs`` counts all runs, ``n`` those that are done, ``runs/diverged``, ``runs/failed``, ... the
    others. Each result has ``/n``, the done runs that have it, their ``/mean``, ``/q25``,
    ``/median`` and ``/q75``, and ``/ci95``, the half-width of the 95 % interval of the mean.
    """
    import pandas as pd

    settings = table[table.attrs["settings"]]
    keys = varying(settings)
    states = sorted(set(table["status"]) - {"done"})
    rows = []
    for _, runs in table.groupby(configurations(settings)):
        done = runs[runs["status"] == "done"]
        row: dict[str, Any] = {k: runs[k].iloc[0] for k in keys}
        row |= {"n": len(done), "runs": len(runs)}
        row |= {f"runs/{s}": int((runs["status"] == s).sum()) for s in states}
        for c in numeric(table):
            values = finite(done[c])
            row |= {
                f"{c}/n": len(values), f"{c}/mean": values.mean(),
                f"{c}/ci95": half_width(values), f"{c}/q25": values.quantile(0.25),
                f"{c}/median": values.median(), f"{c}/q75": values.quantile(0.75),
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def numeric(table: "pd.DataFrame") -> list[str]:
    """Return the names of the results that are numbers or booleans in every run."""
    kinds = {c: {kind_of(v) for v in table[c] if v is not None} for c in table.attrs["results"]}
    return [c for c, kind in kinds.items() if kind and kind <= {"number", "bool"}]


def write_table(root: Path, name: str, table: "pd.DataFrame") -> "pd.DataFrame":
    """Write ``results.parquet``, print its `cautions`, and return the table."""
    path = sweep.sweep_folder(root, name) / "results.parquet"
    files.write_atomic(path, lambda temp: table.to_parquet(temp, index=False))
    print(f"table: {path} ({len(table)} rows, {len(table.columns)} columns)")
    for caution in cautions(table):
        print(f"note: {caution}")
    return table


def cautions(table: "pd.DataFrame") -> list[str]:
    """Return warnings for the reader of a table: runs not done, several commits or targets."""
    found = []
    left = Counter(s for s in table["status"] if s != "done")
    if left:
        states = ", ".join(f"{n} {state}" for state, n in left.most_common())
        found.append(f"not all runs are done: {states}")
    commits = {c for both in table["commit"].dropna() for c in both.split("+")}
    if len(commits) > 1:
        listed = ", ".join(sorted(c[:10] for c in commits))
        found.append(f"the runs come from {len(commits)} commits of the code: {listed}")
    if "target" in table and table["target"].nunique() > 1:
        targets = ", ".join(sorted(map(str, table["target"].dropna().unique())))
        found.append(f"the estimators have different targets: {targets}")
    return found
