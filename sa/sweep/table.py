"""The runs of a sweep as one table, and the same over seeds."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa import record
from sa.sweep.series import kind_of
from sa.sweep.status import ENDED

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, list[Any]]


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf; a list is a leaf, written as JSON."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, dict | list) else value


def gather(root: Path, points: list[dict[str, Any]]) -> tuple[Columns, Columns, Columns]:
    """The columns of a sweep's table, a value a point: configuration, results, provenance."""
    configs, results = [], []
    provenance: Columns = {"run_id": [], "status": [], "commit": []}
    for point in points:
        folder = root / "runs" / point["run_id"]
        config = read_config(folder)
        kept = {k: v for k, v in config.items() if k not in record.BOOKKEEPING}
        configs.append({k: v for k, v in leaves(kept) if k not in record.BOOKKEEPING})
        results.append(record.read_result(root, folder.name) or {})
        meta = record.read_json(folder / "meta.json") or {}
        several = meta.get("commits")
        several = several if isinstance(several, list) else [meta.get("commit")]
        commits = [str(c) for c in several if c]
        if meta.get("schema", record.SCHEMA) != record.SCHEMA:  # its numbers may mean other things
            commits.append(f"schema {meta['schema']}")
        provenance["run_id"].append(folder.name)
        provenance["status"].append(record.state(folder))
        provenance["commit"].append("+".join(commits) or None)  # resumed on another: both
    outcomes = _transposed(results, skip=provenance)
    settings = _transposed(configs)
    taken = outcomes.keys() | provenance.keys()
    settings = {f"config.{k}" if k in taken else k: v for k, v in settings.items()}
    return settings, outcomes, provenance


def framed(root: Path, points: list[dict[str, Any]]) -> "pd.DataFrame":
    """Return the table of a sweep, a run a row.

    ``attrs["settings"]`` and ``attrs["results"]`` name the columns of each kind; parquet keeps them.
    """
    import pandas as pd

    settings, results, provenance = gather(root, points)
    table = pd.DataFrame(settings | results | provenance)
    table.attrs |= {"settings": list(settings), "results": list(results)}
    return table


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run; empty where there is none."""
    import yaml

    path = folder / "config.yaml"
    remedy = f"delete {folder} and repeat the -m command of the sweep"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(path.read_bytes(), loader) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise record.RecordError(f"{path}: not YAML; {remedy}") from error
    if not isinstance(config, dict):
        raise record.RecordError(f"{path}: not settings by their names; {remedy}")
    return config


def _transposed(rows: list[dict[str, Any]], skip: Iterable[str] = ()) -> Columns:
    names = dict.fromkeys(k for row in rows for k in row if k not in skip)
    return {k: _uniform([row.get(k) for row in rows]) for k in names}


def _uniform(values: list[Any]) -> list[Any]:
    """One kind a column, as parquet wants it; where runs disagree, all become text."""
    kinds = {kind_of(v) for v in values if v is not None}
    if kinds == {"numbers"}:
        return [v and [float("nan") if x is None else float(x) for x in v] for v in values]
    if len(kinds) < 2 and "other" not in kinds:
        return values
    return [v if isinstance(v, str | None) else json.dumps(v) for v in values]


def collect(root: Path, name: str) -> "pd.DataFrame":
    """Write and return the table of a sweep: config leaves, results, run_id, status, commit."""
    _, points = record.read_manifest(root, name)
    table = write_table(root, name, framed(root, points))
    over = aggregate(table)
    path = record.sweep_folder(root, name) / "results_over_seeds.parquet"
    record.write_atomic(path, lambda temp: over.to_parquet(temp, index=False))
    print(f"table: {path} ({len(over)} rows: mean, quantiles, 95 % interval of each number)")
    return table


def aggregate(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row for what differs in the seed alone: n, and of every number mean, quartiles, median.

    n counts the runs that have ended. ci95 is the half-width of a 95 % confidence interval of the
    mean, by Student's t of its numbers; nan for one.
    """
    import pandas as pd
    from scipy import stats

    from sa.grouping import configurations, varying

    settings = table[table.attrs["settings"]]
    keys = varying(settings)
    numbers = [c for c in table.attrs["results"] if pd.api.types.is_numeric_dtype(table[c])]
    rows = []
    for _, some in table.groupby(configurations(settings)):
        row: dict[str, Any] = {k: some[k].iloc[0] for k in keys}
        row["n"] = int(some["status"].isin(ENDED).sum())
        for c in numbers:
            got = some[c].astype(float).dropna()
            width = stats.t.ppf(0.975, len(got) - 1) * float(str(got.sem()))
            row |= {
                f"{c}/mean": got.mean(), f"{c}/ci95": width,
                f"{c}/q25": got.quantile(0.25), f"{c}/median": got.median(),
                f"{c}/q75": got.quantile(0.75),
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def write_table(root: Path, name: str, table: "pd.DataFrame") -> "pd.DataFrame":
    """Write ``results.parquet`` and say what its reader has to know."""
    path = record.sweep_folder(root, name) / "results.parquet"
    record.write_atomic(path, lambda temp: table.to_parquet(temp, index=False))
    print(f"table: {path} ({len(table)} rows, {len(table.columns)} columns)")
    for caution in cautions(table):
        print(f"note: {caution}")
    return table


def cautions(table: "pd.DataFrame") -> list[str]:
    """What a reader of the table has to know before comparing its rows."""
    found = []
    left = Counter(s for s in table["status"] if s != "done")
    if left:
        told = ", ".join(f"{n} {state}" for state, n in left.most_common())
        found.append(f"not every run is done: {told}")
    commits = {c for both in table["commit"].dropna() for c in both.split("+")}
    if len(commits) > 1:
        told = ", ".join(sorted(c[:10] for c in commits))
        found.append(f"the runs come from {len(commits)} commits of the code: {told}")
    if "target" in table and table["target"].nunique() > 1:
        told = ", ".join(sorted(map(str, table["target"].dropna().unique())))
        found.append(f"a comparison across targets: the estimators estimate {told}")
    return found
