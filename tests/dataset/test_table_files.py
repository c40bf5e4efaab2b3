"""Tests of `dataset=table`: CSV and parquet files, their columns, and bad rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import folder, result

from sa.dataset.table import Table
from sa.params import stream
from sa.types import BadData

WORDS = "dataset=table model=mlp model.hidden=[8] estimator=ste steps=20 analysis=[] tracker=none"


def frame(n=60):
    draw = np.random.default_rng(0)
    made = pd.DataFrame(draw.normal(size=(n, 3)), columns=list("abc"))
    return made.assign(kind=(made["a"] > 0).astype(int), price=3 * made["b"])


def written(path, table):
    if path.endswith(".csv"):
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


def test_csv_and_parquet_files_with_the_same_numbers_are_the_same_run(sa):
    for name in ("my.csv", "my.parquet"):
        written(name, frame())
    words = [*WORDS.split(), "dataset.target=kind", "dataset.columns=[a,b]"]
    code, out, err = sa(*words, "dataset.path=my.csv")
    assert code == 0 and result(out)["test/accuracy"] > 0.5, err
    assert folder(sa(*words, "dataset.path=my.parquet")[1]) == folder(out)
    other = sa(*words[:-1], "dataset.columns=[b,a]", "dataset.path=my.csv")
    assert other[0] == 0 and folder(other[1]) != folder(out)


def test_columns_keep_the_typed_order_or_the_order_of_the_file():
    table = frame()
    path = written("my.parquet", table)
    data = Table(path=path, target="price", columns=("c", "a"), test=0.5)
    assert (data.shape, data.classes, data.outputs, data.rows) == ((2,), None, 1, 30)
    train, test = data.load(stream(0))
    both = np.concatenate([train.inputs, test.inputs])
    assert sorted(map(tuple, both)) == sorted(map(tuple, table[["c", "a"]].to_numpy()))
    every = Table(path=path, target="kind")
    assert (every.shape, every.classes) == ((4,), 2)
    prices = {tuple(x[:3]): x[3] for x in every.load(stream(0)).train.inputs.numpy()}
    assert all(price == pytest.approx(3 * b) for (_, b, _), price in prices.items())


SEVENTH = frame().assign(a=frame()["a"].where(frame().index != 7))
BAD = {
    "text": (frame().assign(name="x", when="May 2020"), {}, "no numbers are in name, when"),
    "text target": (frame().assign(kind="cat"), {}, "no numbers are in kind: number the classes"),
    "nan": (SEVENTH, {}, r"column 'a' has nan in row 7 \(from 0\); 1 row in all"),
    "negative": (frame().assign(kind=-1), {}, "targets row 0 is -1; class numbers begin at 0"),
    "no target": (frame(), {"target": ""}, "say which column to predict.*a, b, c, kind, price"),
    "lost target": (frame(), {"target": "sort"}, "there is no column 'sort'; there are: a, b"),
    "lost column": (frame(), {"columns": ["a", "d"]}, "there is no column 'd'"),
    "target as input": (frame(), {"columns": ["kind"]}, "'kind' is the target"),
    "target alone": (frame()[["kind"]], {}, "no column beside the target 'kind'"),
    "no rows": (frame(0), {}, "inputs has no rows"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_error_for_a_bad_table_names_the_column_and_the_row(kind, ending):
    table, settings, told = BAD[kind]
    path = written(f"bad{ending}", table)
    if kind == "no rows" and ending == ".csv":
        told = "expected numbers|inputs has no rows"  # a CSV file without rows has no types
    with pytest.raises(BadData, match=f"^bad{ending}: .*({told})"):
        Table(**{"path": path, "target": "kind"} | settings).check()


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.xlsx"])
def test_a_file_that_is_no_table_is_refused(sa, name):
    Path(name).write_bytes(b"\x00\xff\xfe")
    code, _, err = sa(*WORDS.split(), f"dataset.path={name}", "dataset.target=a")
    assert code == 2 and name in err and ("cannot be read as" in err or ".csv or .parquet" in err)


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
