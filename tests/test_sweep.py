"""Commands that read sweeps: status, collect, retry, report, watch, cancel, logs and export."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pandas as pd
import pytest

import sa.figure
from sa.record import files, identity, sweep
from sa.record import run as record
from sa.record.config import write_config
from sa.sweep import page as report
from sa.sweep import series
from sa.sweep import status as states
from sa.sweep import table as tables
from sa.sweep.command import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6364f8ffbf1e0005840280a4c5a0d20000000049454e44ae426082"
)


def config(seed: int, **more) -> dict:
    return {"seed": seed, "steps": 10, "estimator": {"_target_": "sa.E", "sigma": 0.1}} | more


def plan(root: Path, name: str, configs: list[dict], **about) -> list[str]:
    """Freeze a sweep of these configurations; return the run ids."""
    for one in configs:
        write_config(root, one)
    ids = [identity.run_id(c) for c in configs]
    points = [
        {"index": i, "run_id": run, "overrides": [f"seed={c['seed']}"]}
        for i, (run, c) in enumerate(zip(ids, configs, strict=True))
    ]
    sweep.write_manifest(root, name, points, {"argv": ["-m", "seed=0,1"]} | about)
    return ids


def done(root: Path, made: dict, commit: str = "c0ffee", **result) -> None:
    with record.Record.open(root, made, {"commit": commit}) as run:
        run.append({"step": 0, "loss": 1.0})
        run.finish({"value": 1.0, "status": "done", "target": "loss", "seconds": 60.0} | result)


@pytest.fixture
def mixed(tmp_path):
    """Return a sweep of six points: done, diverged, failed, lost, pending, running."""
    configs = [config(seed) for seed in range(6)]
    ids = plan(tmp_path, "study", configs)
    done(tmp_path, configs[0])
    done(tmp_path, configs[1], status="diverged")
    with record.Record.open(tmp_path, configs[2], {}) as run:
        run.fail("Traceback\n  ...\nValueError: the last line")
    for i, pid in ((3, 2**22 + 1), (5, os.getpid())):
        owner = {"host": os.uname().nodename, "pid": pid, "heartbeat": time.time() - 7}
        status = {"state": "running", "step": 4, "total": 10, **owner}
        files.write_json(tmp_path / "runs" / ids[i] / "status.json", status)
    return tmp_path, ids


# Status


def test_status_counts_points_and_gives_reasons(mixed, capsys):
    root, ids = mixed
    assert main(["status", "study", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    first, head, *rows = out.splitlines()
    for told in ("6 points", "1 done", "1 diverged", "1 failed", "1 lost", "1 pending"):
        assert told in first
    assert "about 4 min left" in first  # four points of 60 s, one at a time
    assert head.split() == ["index", "run", "state", "step", "last", "sign", "host", "reason"]
    assert [r.split()[:3] for r in rows[:4]] == [
        ["2", ids[2], "failed"], ["3", ids[3], "lost"],
        ["4", ids[4], "pending"], ["5", ids[5], "running"],
    ]  # fmt: skip
    assert rows[0].endswith("ValueError: the last line")
    assert "4/10" in rows[1] and "7 s ago" in rows[1] and "seed=3" in rows[1]
    assert f"retry study --root {root}" in rows[4]


def test_status_without_a_name_lists_the_sweeps(mixed, capsys):
    root, _ = mixed
    plan(root, "other", [config(9)])
    (root / "sweeps/other/manifest.jsonl").write_text("{")
    assert main(["status", "--root", str(root)]) == 0
    other, study = capsys.readouterr().out.splitlines()
    assert study.startswith("study  6 points") and "line 1: not a line of JSON" in other
    assert main(["status", "--root", str(root / "empty")]) == 0
    assert "no sweeps" in capsys.readouterr().out


def test_status_of_a_thousand_runs(tmp_path):
    ids = [f"{i:010x}" for i in range(1000)]
    points = [{"index": i, "run_id": r, "overrides": [f"seed={i}"]} for i, r in enumerate(ids)]
    sweep.write_manifest(tmp_path, "big", points, {})
    owner = {"host": "far", "pid": 1, "heartbeat": time.time()}
    for i, run in enumerate(ids):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        if i % 4 < 2:
            (folder / "result.json").write_text('{"value": 1.0, "seconds": 2.0}')
        elif i % 4 == 2:
            (folder / "status.json").write_text(json.dumps({"state": "failed", "error": "x\ny"}))
        elif i % 8 == 3:
            (folder / "status.json").write_text(json.dumps({"state": "running", **owner}))
    begun = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-m", "sa.sweep", "status", "big", "--root", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(f"status of 1000 runs: {time.perf_counter() - begun:.3f} s")
    first, _, *rows = told.stdout.splitlines()
    counts = "500 done, 250 failed, 125 running, 125 pending; about 8 s left"
    assert first == f"big: 1000 points: {counts}"
    assert len(rows) == 501


def test_reading_needs_no_heavy_library():
    code = (
        "import sys; from sa.sweep.command import main; main(['status', '--root', '/nowhere']); "
        "heavy = 'torch hydra omegaconf pandas pyarrow jinja2 rich yaml numpy matplotlib'.split(); "
        "assert not [m for m in heavy if m in sys.modules], sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# Names, codes and help


@pytest.mark.parametrize("command", ["status", "collect", "retry", "report"])
def test_an_unknown_sweep_name_lists_the_existing_sweeps(mixed, command, capsys):
    root, _ = mixed
    assert main([command, "studi", "--root", str(root)]) == 2
    told = capsys.readouterr().err
    assert "no sweep 'studi'" in told and "did you mean 'study'?" in told
    assert ("runs: " in told) == (command == "report")
    assert main([command, "../study", "--root", str(root)]) == 2


def test_a_command_without_a_name_is_refused(mixed, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["collect", "--root", str(mixed[0])])
    assert "collect needs a NAME" in capsys.readouterr().err


def test_the_root_comes_from_the_environment(mixed, capsys, monkeypatch):
    monkeypatch.setenv("SA_ROOT", str(mixed[0]))
    assert main(["status", "study"]) == 0
    assert "--root" not in capsys.readouterr().out


def test_help_shows_each_command_in_use(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    for words in ("status [NAME]", "collect NAME", "retry NAME", "report NAME", "examples:"):
        assert words in told


def test_an_unexpected_error_is_one_line(mixed, capsys, monkeypatch):
    monkeypatch.setattr(tables, "gather", lambda *_: 1 / 0)
    assert main(["collect", "study", "--root", str(mixed[0])]) == 1
    assert capsys.readouterr().err == "sa: collect: ZeroDivisionError: division by zero\n"


# The table


def test_collect_makes_one_table_of_unlike_runs(tmp_path, capsys):
    configs = [
        config(0, moving="all", value=3, root="x", threads=1, model={"widths": [8, 8]}),
        config(1, moving=[1, -2], value=4, init={"pretrain": "ste"}, batch=None, big=2**70),
        config(2, moving=True, estimator={"_target_": "sa.F", "samples": 5}, empty={}, batch=4),
    ]
    ids = plan(tmp_path, "study", configs)
    done(tmp_path, configs[0], profile=[1, 2.5, None], flag=True, odd=[["a"], 1])
    done(tmp_path, configs[1], commit="beef", profile=[3.0], flag=None, odd="text")
    table = tables.collect(tmp_path, "study")
    told = capsys.readouterr().out
    path = tmp_path / "sweeps/study/results.parquet"
    assert f"table: {path} (3 rows, {len(table.columns)} columns)" in told
    assert "note: not all runs are done: 1 pending" in told
    assert "2 commits of the code: beef, c0ffee" in told
    read = pd.read_parquet(path)
    assert list(read.columns) == list(table.columns)
    assert list(read.columns[-3:]) == ["run_id", "status", "commit"]
    assert not {"root", "threads"} & set(read.columns)
    assert read["run_id"].tolist() == ids
    assert read["status"].tolist() == ["done", "done", "pending"]
    assert read["moving"].tolist() == ["all", "[1, -2]", "true"]
    assert read["model.widths"].tolist()[0] == "[8, 8]"
    assert read["estimator.sigma"].tolist()[:2] == [0.1, 0.1]
    assert read["estimator.samples"].tolist()[2] == 5
    assert read["empty"].tolist()[2] == "{}" and read["big"].tolist()[1] == str(2**70)
    # A result keeps its name; a setting of the same name is renamed.
    assert read["value"].tolist()[:2] == [1.0, 1.0]
    assert read["config.value"].tolist()[:2] == [3, 4]
    profile = [None if p is None else list(p) for p in read["profile"]]
    assert profile[0][:2] == [1.0, 2.5] and profile[0][2] != profile[0][2]
    assert profile[1:] == [[3.0], None]
    assert read["odd"].tolist()[:2] == ['[["a"], 1]', "text"]


def test_report_warns_of_mixed_targets(tmp_path, capsys):
    configs = [config(0), config(1)]
    plan(tmp_path, "study", configs)
    done(tmp_path, configs[0])
    done(tmp_path, configs[1], target="smoothed loss")
    tables.collect(tmp_path, "study")
    told = capsys.readouterr().out
    assert "the estimators have different targets: loss, smoothed loss" in told
    assert "not every run" not in told and "commits" not in told


def test_report_warns_of_a_run_resumed_on_another_commit(tmp_path, capsys):
    made = config(0)
    plan(tmp_path, "study", [made])
    with record.Record.open(tmp_path, made, {"commit": "one"}) as run:
        run.append({"step": 0})
        run.save(lambda path: path.write_text("x"))
    done(tmp_path, made, commit="two")
    assert tables.collect(tmp_path, "study")["commit"].tolist() == ["one+two"]
    assert "2 commits of the code: one, two" in capsys.readouterr().out


# Retry


def test_retry_runs_exactly_the_unfinished_points(mixed, capsys, monkeypatch):
    root, ids = mixed
    commands = []

    def run(command, env):
        commands.append(command)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["retry", "study", "--root", str(root)]) == 0
    folders = [str(root / "runs" / ids[i]) for i in (2, 3, 4)]
    assert commands == [[sys.executable, "-m", "sa.run", "--frozen", *folders]]
    told = capsys.readouterr().out
    assert "repeating 3 of 6 points" in told and f"{ids[3]}  lost" in told
    monkeypatch.setattr(subprocess, "run", lambda _, env: types.SimpleNamespace(returncode=1))
    assert main(["retry", "study", "--root", str(root)]) == 1


def test_retry_of_a_finished_sweep_starts_no_run(tmp_path, capsys, monkeypatch):
    plan(tmp_path, "study", [config(0)])
    done(tmp_path, config(0))
    monkeypatch.setattr(subprocess, "run", None)
    assert main(["retry", "study", "--root", str(tmp_path)]) == 0
    assert "nothing to retry" in capsys.readouterr().out


def test_a_point_without_its_configuration_cannot_be_retried(tmp_path, capsys, monkeypatch):
    ids = plan(tmp_path, "study", [config(0)])
    (tmp_path / "runs" / ids[0] / "config.yaml").unlink()
    monkeypatch.setattr(subprocess, "run", None)
    assert main(["retry", "study", "--root", str(tmp_path)]) == 0
    assert "repeat the -m command" in capsys.readouterr().out


# The page


@pytest.fixture
def figure(monkeypatch):
    """Replace figures: kind `good` draws a pixel, every other kind lacks its columns."""
    fake = types.ModuleType("sa.figure.draw")

    def draw(kind, table, folder):
        if kind != "good":
            raise ValueError(f"{kind} needs the column <dim>")
        fake.table = table
        paths = [folder / f"good.{end}" for end in ("png", "svg", "csv")]
        for path in paths:
            path.write_bytes(PIXEL)
        return paths

    def curves(rows, folder, title=""):
        fake.rows, fake.title = rows, title
        return [folder / "curves.png", folder / "curves.svg"]

    fake.draw, fake.curves, fake.file_name = draw, curves, str
    monkeypatch.setitem(sys.modules, "sa.figure.draw", fake)
    monkeypatch.setattr(sa.figure, "draw", fake, raising=False)
    return fake


def test_the_table_in_the_terminal_shows_means_over_seeds():
    table = pd.DataFrame(
        {"descent/best": [1.0, 3.0, 5.0], "test/accuracy": [None, None, 0.5], "status": "done"}
    )
    points = [{"overrides": [f"dim={d}", f"seed={s}"]} for d, s in ((4, 0), (4, 1), (8, 0))]
    told = report._digest(points, table).splitlines()
    head = "mean (least ... most) runs descent/best test accuracy (%)"
    assert told[1].split() == head.split()
    assert told[2].split() == "dim=4 2 2 (1 ... 3)".split()
    assert told[3].split() == "dim=8 1 5 50".split()
    table["value"] = 10.0
    assert "best relative decrease (%)" in report._digest(points, table)
    assert report._digest(points, table).splitlines()[2].split() == "dim=4 2 20 (10 ... 30)".split()
    del table["value"]
    table["barrier"] = [0.5, 0.5, None]  # the metric of the study comes first
    told = report._digest(points, table, "barrier").splitlines()
    assert told[1].split()[-5:] == ["barrier", "descent/best", "test", "accuracy", "(%)"]
    assert told[2].split() == "dim=4 2 0.5 2 (1 ... 3)".split()
    table.loc[1, "status"] = "diverged"  # a diverged run has no result
    told = report._digest(points, table).splitlines()
    assert told[2].split() == "dim=4 1 of 2: 1 diverged 1".split()


def test_the_report_page_is_self_contained_and_escapes_its_texts(mixed, figure, capsys):
    root, ids = mixed
    about = {
        "argv": ["-m", "seed=0,1", "<script>alert(1)</script>"], "figure": ["bad", "good"],
        "description": "a & b <i>", "created": "today", "metric": "test/accuracy",
    }  # fmt: skip
    expected = {"id": "cosine > 0.8", "statistic": "value", "predicate": "<=", "value": 0.0}
    about["expectations"] = [expected | {"source": "a guess", "where": "seed=*"}]
    _, points = sweep.read_manifest(root, "study")
    sweep.write_manifest(root, "study", points, about)
    assert main(["report", "study", "--root", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    folder = root / "sweeps/study"
    assert f"figure: {folder / 'figures/good.png'}" in out
    assert out[-1] == f"report: {folder / 'report.html'}"
    assert any(line.startswith("note: figure bad: bad needs the column") for line in out)
    assert figure.table["status"].tolist() == ["done", "diverged"]

    page = (folder / "report.html").read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link[^>]+stylesheet|url\(", page)
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    inside = [s for s in sources if s.startswith("data:")]
    beside = [s for s in sources if not s.startswith("data:")]
    assert len(inside) == 2 and "results_over_seeds.tex" in beside and "figures/good.svg" in beside
    assert all((folder / s).is_file() for s in beside if not s.startswith("figures/"))
    assert "figure bad: bad needs the column &lt;dim&gt;" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "a &amp; b &lt;i&gt;" in page and "cosine &gt; 0.8" in page and "today" in page
    assert page.count('<tr class="row">') == 6 and page.count("<script>") == 1
    seeds, runs = (re.findall(r"<th data-key[^>]*><button[^>]*>(.*?)</button>", x) for x in
                   page.split('<table id="runs">'))  # fmt: skip
    assert seeds == ["configuration", "n of runs", "loss at the point", "seconds"]
    assert runs == ["seed", "loss at the point", "seconds", "status"]
    assert (
        'title="The seed of all random numbers of the run; means and intervals are over seeds."'
        in page
    )
    assert "1 of 6: 1 diverged, 1 failed, 1 lost, 1 pending, 1 running" in page
    assert "estimator.sigma: 0.1" in page and ids[0] in page
    assert "6 points: " in page and "c0ffee" in page
    assert "ValueError: the last line" in page


def test_the_report_page_of_a_plan_without_overrides_shows_what_varies(tmp_path, figure):
    configs = [config(0, dim=8), config(1, dim=16)]
    ids = plan(tmp_path, "study", configs)
    points = [{"index": i, "run_id": run, "overrides": []} for i, run in enumerate(ids)]
    sweep.write_manifest(tmp_path, "study", points, {})
    done(tmp_path, configs[0], profile=[0.125, 7.75])
    report.report(tmp_path, "study")
    page = (tmp_path / "sweeps/study/report.html").read_text()
    runs = page.split('<table id="runs">')[1]
    head = re.findall(r"<th data-key[^>]*><button[^>]*>(.*?)</button>", runs)
    assert head == ["seed", "dim", "loss at the point", "seconds", "status"]
    assert "7.75" not in page and "in results.parquet as lists: profile" in page


def opened(page: Path, address: str = "", script: str = "") -> str:
    """Return the page as a browser shows it, after a script of the reader has run."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here; any of {', '.join(BROWSERS)} would do")
    copy = page.with_name("opened.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    told = subprocess.run(
        [found, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={page.parent / 'browser'}", copy.as_uri() + address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told.stdout


def shown(dom: str) -> list[str]:
    """Return the run ids of the visible rows, in their order."""
    return re.findall(r'<tbody id="(\w+)" data-label="[^"]*">', dom)


@pytest.fixture
def trained(tmp_path, figure):
    """Return the page of three trainings of 1,001 rows and their ids; one loss is NaN after 500."""
    configs = [config(seed, steps=1000) for seed in (0, 1, 10)]
    ids = plan(tmp_path, "study", configs)
    points = sweep.read_manifest(tmp_path, "study")[1]
    sweep.write_manifest(tmp_path, "study", points, {"metric": "test/accuracy"})
    for at, one in enumerate(configs):
        with record.Record.open(tmp_path, one, {"commit": "c0ffee"}) as run:
            for step in range(1001):
                lost = at == 1 and step > 500
                row = {"step": step, "loss": float("nan") if lost else 1 / (step + 1)}
                split = {"train/accuracy": 0.5, "test/accuracy": step / 2000}
                split["ema/test/accuracy"] = step / 2500
                run.append(row | (split if step % 100 == 0 else {}))
            best = {"test/accuracy": 0.5 + at / 10}
            run.finish({"value": 1.0, "status": "done", "target": "loss", "seconds": 1.0} | best)
    report.report(tmp_path, "study")
    return tmp_path / "sweeps/study/report.html", ids


def test_the_report_page_holds_the_curves_with_fewer_points(trained, monkeypatch, capsys):
    page, ids = trained

    def held():
        text = re.search(r'<script id="curves"[^>]*>(.*?)</script>', page.read_text()).group(1)
        return json.loads(text)

    first, second, _ = (held()[run] for run in ids)
    assert first["rows"] == 1001 and set(first["series"]) == {
        "loss", "train/accuracy", "test/accuracy", "ema/test/accuracy"
    }  # fmt: skip
    steps, losses = first["series"]["loss"]
    assert len(steps) == 200 and (steps[0], steps[-1]) == (0, 1000)
    assert losses == [float(f"{1 / (s + 1):.4g}") for s in steps]
    assert first["series"]["test/accuracy"] == [[*range(0, 1001, 100)], [s / 20 for s in range(11)]]
    assert second["series"]["loss"][0][-1] == 500  # values that are not finite are left out
    monkeypatch.setattr(series, "POINTS", (200, 90))  # twelve series share them
    (page.parents[2] / "runs" / ids[2] / "metrics.jsonl").write_text('{"step"\n{"step": 1}\n')
    report.report(page.parents[2], "study")
    assert f"note: curves of {ids[2]}: " in capsys.readouterr().out
    assert "line 1: not a line of JSON" in page.read_text()
    assert set(held()) == set(ids[:2])
    assert sum(len(x) for c in held().values() for x, _ in c["series"].values()) <= 90


@pytest.mark.slow
def test_the_report_page_sorts_filters_and_draws_in_a_browser(trained):
    page, (zero, one, ten) = trained
    assert shown(opened(page)) == [zero, one, ten]
    assert shown(opened(page, "#sort=-test/accuracy")) == [ten, one, zero]
    assert shown(opened(page, "#filter=seed%3D1%20done")) == [one]  # and not seed=10
    dom = opened(page, f"#compare={zero},{ten}&columns=run_id,-value&seeds=-seconds")
    assert (
        "<h2>Side by side</h2>" in dom and "<td>test/accuracy</td><td>0.5</td><td>0.7</td>" in dom
    )
    assert re.search(r'<th data-key="run_id"><button title="The run\'s folder', dom)
    hidden = re.findall(r'<th data-key="([^"]*)" hidden', dom)
    assert hidden == ["seconds", "value"]  # of the table over seeds, and of the table of runs
    clicks = f"""
        const head = [...document.querySelectorAll("#runs th button")];
        const named = name => head.find(b => b.textContent === name);
        named("test accuracy (%)").click();
        named("test accuracy (%)").click();
        document.querySelector("[id='{one}'] button").click();
        filter.value = "seed=1";
        filter.dispatchEvent(new Event("input"));
        document.title = location.hash;
    """
    clicked = opened(page, script=clicks)
    (address,) = re.findall("<title>(.*?)</title>", clicked)
    assert address == f"#filter=seed%3D1&amp;sort=-test%2Faccuracy&amp;open={one}"
    for dom in (clicked, opened(page, address.replace("&amp;", "&"))):
        assert shown(dom) == [one] and 'aria-sort="descending"' in dom and "1 shown" in dom
        panels = re.findall(r'<svg[^>]*aria-label="(\w+) over steps (\d+) to (\d+)"', dom)
        assert panels == [("loss", "0", "500"), ("accuracy", "0", "1000")]
        assert "the curves show 200 of 1001 rows" in dom
        (curve,) = re.findall(r'<path class="test" d="M([^"]*L[^"]*)"', dom)  # 0 to 0.5
        ends = [tuple(map(float, p.split())) for p in curve.split("L")]
        assert len(ends) == 11 and ends[0] == (50, 150) and ends[-1] == (410, 30)


def test_the_report_of_a_single_run_shows_its_curves(mixed, figure, capsys):
    root, ids = mixed
    assert main(["report", ids[0], "--root", str(root)]) == 0
    folder = root / "runs" / ids[0] / "figures"
    told = capsys.readouterr().out.splitlines()
    assert told == [f"figure: {folder / 'curves.png'}", f"figure: {folder / 'curves.svg'}"]
    assert figure.rows.to_dict("records") == [{"step": 0, "loss": 1.0}]
    assert main(["report", ids[4], "--root", str(root)]) == 1
    assert "no rows to draw yet; the run is pending" in capsys.readouterr().err


def test_curves_can_be_drawn_over_steps_epochs_rows_and_flops(tmp_path, capsys):
    made = config(0, batch_size=50)
    (run,) = plan(tmp_path, "study", [made])
    done(tmp_path, made, rows=220)
    folder, row = tmp_path / "runs" / run, {"step": 8, "evals": 24.0}
    for over, where in (("step", 8), ("epoch", 2.0), ("sample", 400)):  # 4 steps, 20 rows left out
        assert series.along(folder, over)(row) == where
    assert main(["report", run, "--root", str(tmp_path), "--over", "flops"]) == 1
    assert f"{run} has no 'cost/macs'; repeat it with analysis=[cost]" in capsys.readouterr().err
    files.write_json(folder / "result.json", {"rows": 220, "cost/macs": 10.0})
    assert series.along(folder, "flops")(row) == 24 * 50 * 2 * 10
    (whole,) = plan(tmp_path, "whole", [config(1, batch_size=None)])
    done(tmp_path, config(1, batch_size=None), rows=220)
    assert series.along(tmp_path / "runs" / whole, "epoch")(row) == 8


# Following, stopping, reading over seeds


def test_collect_aggregates_over_seeds(tmp_path, capsys):
    configs = [config(seed, steps=steps) for steps in (10, 20) for seed in range(4)]
    plan(tmp_path, "study", configs)
    for at, one in enumerate(configs):
        done(tmp_path, one, value=float(at))
    assert main(["collect", "study", "--root", str(tmp_path)]) == 0
    table = pd.read_parquet(tmp_path / "sweeps/study/results_over_seeds.parquet")
    assert table["n"].tolist() == [4, 4]
    assert table["value/mean"].tolist() == [1.5, 5.5]
    assert table["value/median"].tolist() == [1.5, 5.5]
    assert table["value/q25"].tolist() == [0.75, 4.75]
    sem = (5 / 3) ** 0.5 / 2  # of 0, 1, 2, 3
    assert table["value/ci95"].tolist() == pytest.approx([3.18245 * sem] * 2, rel=1e-5)
    assert table["steps"].tolist() == [10, 20]


def test_watch_ends_when_no_run_is_left_to_wait_for(tmp_path, capsys):
    configs = [config(0), config(1)]
    plan(tmp_path, "study", configs)
    for one in configs:
        done(tmp_path, one)
    assert main(["status", "study", "--watch", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "100%" in out and "2 points: 2 done" in out


def test_the_status_of_a_long_sweep_fits_on_one_screen(mixed):
    root, ids = mixed
    points = sweep.read_manifest(root, "study")[1]
    later = [{"index": i, "run_id": f"x{i}", "overrides": [f"seed={i}"]} for i in range(6, 46)]
    sweep.write_manifest(root, "study", points + later, {})
    status = root / "runs" / ids[2] / "status.json"
    files.write_json(status, files.read_json(status) | {"error": "word " * 100})
    screen = states._frame(states._progress(root, "study"), 100, 20).plain.splitlines()
    assert len(screen) <= 19 and max(map(len, screen)) <= 100
    assert re.fullmatch(r"\[###>>xxx\.+\] 4% done", screen[0])
    assert screen[1].startswith("study: 46 points: 41 pending, 1 done, 1 diverged")
    assert [line.split()[2] for line in screen[3:6]] == ["failed", "lost", "running"]
    assert screen[3].endswith("…") and screen[-2] == "... and 30 pending"
    assert screen[-1].startswith("to run these again: python -m sa.sweep retry study")


def test_watch_needs_a_sweep_name(mixed, capsys):
    for words in (["status", "--watch"], ["collect", "study", "--watch"]):
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--root", str(mixed[0])])
        assert "--watch works with `status NAME` only; there are: study" in capsys.readouterr().err


def test_cancel_stops_the_processes_on_this_machine(mixed, capsys, monkeypatch):
    root, _ = mixed
    told, kill = [], os.kill

    def instead(pid, number):  # 0 only asks whether the process is there
        told.append((pid, number)) if number else kill(pid, 0)

    monkeypatch.setattr(os, "kill", instead)
    assert main(["cancel", "study", "--root", str(root)]) == 0
    assert "1 processes told to stop" in capsys.readouterr().out
    assert told == [(os.getpid(), signal.SIGTERM)]


def test_logs_finds_a_run_by_the_beginning_of_its_id(mixed, capsys):
    root, ids = mixed
    (root / "runs" / ids[2] / "log.txt").write_text("hello\n")
    assert main(["logs", ids[2][:6], "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("hello") and "ValueError: the last line" in out
    assert main(["logs", "zzz", "--root", str(root)]) == 2
    assert "there is no run 'zzz'" in capsys.readouterr().err


def test_export_to_wandb_writes_many_runs_from_one_process(tmp_path, capsys):
    from test_tracker import offline, read

    configs = [config(0), config(1), config(2)]
    ids = plan(tmp_path, "study", configs)
    for one in configs[:2]:
        done(tmp_path, one, value=0.25)
    assert main(["wandb", "study", "--root", str(tmp_path)]) == 0
    assert "2 of 3 runs exported" in capsys.readouterr().out
    for run in ids[:2]:
        (file,) = offline(tmp_path / "runs" / run)
        head, _, rows, summary = read(file)
        assert (head.run_id, head.run_group) == (run, "study")
        assert rows == record.read_rows(tmp_path / "runs" / run) and summary["value"] == 0.25
    assert main(["wandb", "study", "--root", str(tmp_path)]) == 0
    assert "0 of 3 runs exported" in capsys.readouterr().out


def test_a_failed_export_names_the_run_and_a_repeat_continues_there(tmp_path, capsys, monkeypatch):
    import wandb as library
    from test_tracker import offline

    from sa.tracking import wandb

    configs = [config(seed) for seed in range(3)]
    ids = plan(tmp_path, "study", configs)
    for one in configs:
        done(tmp_path, one)
    begun, real = [], library.init

    def full(**settings):
        begun.append(settings["id"])
        if len(begun) == 2:
            (settings["dir"] / "wandb").mkdir()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(**settings)

    monkeypatch.setattr(wandb, "_BROKEN", [])
    monkeypatch.setattr(library, "init", full)
    assert main(["wandb", "study", "--root", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "No space left" in told and f"the export failed at run {ids[1]}" in told
    assert begun == ids[:2] and not (tmp_path / "runs" / ids[1] / "wandb").exists()
    monkeypatch.setattr(wandb, "_BROKEN", [])
    assert main(["wandb", "study", "--root", str(tmp_path)]) == 0
    assert "2 of 3 runs exported" in capsys.readouterr().out
    assert all(len(offline(tmp_path / "runs" / run)) == 1 for run in ids)


# Damaged, edited and older files


READERS = ["status", "collect", "retry", "report", "cancel", "wandb"]


def typed(command: str, root: Path, capsys) -> tuple[int, str, str]:
    code = main([command, "study", "--root", str(root)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("command", READERS)
def test_a_manifest_edited_by_hand_is_reported_in_one_line(mixed, command, capsys):
    root, ids = mixed
    path = root / "sweeps/study/manifest.jsonl"
    whole = path.read_text()
    for line in (
        "garbage",
        '{"index": 6}',
        f'{{"index": 6, "run_id": "{ids[0]}", "overrides": []}}',
    ):
        path.write_text(f"{whole}{line}\n")
        code, out, err = typed(command, root, capsys)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1
        assert "manifest.jsonl, line 7: " in err and "it writes the manifest again" in err


def test_a_planned_run_without_a_folder_is_pending(tmp_path, figure, capsys):
    plan(tmp_path, "study", [config(0)])
    done(tmp_path, config(0))
    _, points = sweep.read_manifest(tmp_path, "study")
    gone = {"index": 1, "run_id": "feedbeef00", "overrides": ["seed=7"]}
    sweep.write_manifest(tmp_path, "study", [*points, gone], {})
    assert "2 points: 1 done, 1 pending" in typed("status", tmp_path, capsys)[1]
    for command in ("collect", "report"):
        code, out, _ = typed(command, tmp_path, capsys)
        assert code == 0 and "note: not all runs are done: 1 pending" in out
    assert "without config.yaml: repeat the -m command" in typed("retry", tmp_path, capsys)[1]
    assert not (tmp_path / "runs/feedbeef00").exists()


@pytest.mark.parametrize("text", ["a: [1", "[1, 2]", "words"])
@pytest.mark.parametrize("command", ["collect", "report", "wandb"])
def test_an_unreadable_configuration_is_named(tmp_path, figure, text, command, capsys):
    (run,) = plan(tmp_path, "study", [config(0)])
    done(tmp_path, config(0))
    (tmp_path / "runs" / run / "config.yaml").write_text(text)
    code, out, err = typed(command, tmp_path, capsys)
    assert code == 1 and len(err.splitlines()) == 1
    assert f"{run}/config.yaml: " in err and "repeat the command that made it" in err
    assert sorted(p.name for p in (tmp_path / "sweeps/study").iterdir()) == [
        "manifest.jsonl", "sweep.json",
    ]  # fmt: skip


def test_commands_read_runs_that_lack_files_or_keys(tmp_path, figure, capsys, monkeypatch):
    from sa.tracking import wandb

    monkeypatch.setattr(wandb, "_BROKEN", [])
    ids = plan(tmp_path, "study", [config(0), config(1), config(2)])
    _, points = sweep.read_manifest(tmp_path, "study")
    sweep.write_manifest(tmp_path, "study", points, {"figure": "curves"})
    done(tmp_path, config(0))
    old, odd = (tmp_path / "runs" / run for run in ids[1:])
    (old / "config.yaml").write_text("seed: 1\n")
    (old / "metrics.jsonl").write_text('{"loss": 1.0}\n{"loss": 0.5}\n')
    files.write_json(old / "result.json", {"value": 0.5})
    files.write_json(old / "meta.json", {"commit": "older"})
    told = {"state": "running", "host": os.uname().nodename, "heartbeat": "soon", "error": 5}
    files.write_json(odd / "status.json", told)
    files.write_json(odd / "meta.json", {"commits": "text", "commit": 3})
    code, out, _ = typed("status", tmp_path, capsys)
    assert code == 0 and "3 points: 2 done, 1 lost" in out
    code, out, err = typed("report", tmp_path, capsys)
    assert (code, err) == (0, "")
    note = "the runs come from 3 commits of the code: 3, c0ffee, older"
    page = (tmp_path / "sweeps/study/report.html").read_text()
    assert f"note: {note}" in out and f'<p class="note">{note}</p>' in page
    table = pd.read_parquet(tmp_path / "sweeps/study/results.parquet")
    assert table["value"].tolist()[:2] == [1.0, 0.5]
    assert table["estimator.sigma"].isna().tolist() == [False, True, False]
    assert typed("wandb", tmp_path, capsys)[0] == 0
    assert main(["report", ids[1], "--root", str(tmp_path)]) == 1
    assert "has no rows to draw yet; the run is done" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["collect", "report"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_leaves_the_sweep_folder_unchanged(
    tmp_path, figure, command, code, capsys, monkeypatch
):
    plan(tmp_path, "study", [config(0)])
    done(tmp_path, config(0))
    assert typed(command, tmp_path, capsys)[0] == 0
    folder = tmp_path / "sweeps/study"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def half(table, path, index):
        if code == errno.ENOSPC:
            path.write_bytes(b"half")
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    got, out, err = typed(command, tmp_path, capsys)
    assert (got, out) == (1, "") and len(err.splitlines()) == 1
    remedy = "free some space" if code == errno.ENOSPC else "make it writable"
    assert f"results.parquet: {os.strerror(code)}" in err and remedy in err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_report_page_that_cannot_be_written_leaves_the_old_one(
    mixed, figure, capsys, monkeypatch
):
    root, _ = mixed
    assert typed("report", root, capsys)[0] == 0
    folder = root / "sweeps/study"
    page, write = (folder / "report.html").read_bytes(), Path.write_bytes

    def full(path, data):
        if "report.html" in path.name:
            write(path, data[:9])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = typed("report", root, capsys)
    assert code == 1 and "report.html: No space left" in err and "free some space" in err
    assert (folder / "report.html").read_bytes() == page
    assert not list(folder.glob(".tmp-*"))


def test_report_says_why_a_figure_cannot_be_drawn_yet(tmp_path, capsys):
    from sa.figure import draw

    configs = [config(seed, steps=10) for seed in (0, 1)]
    plan(tmp_path, "study", configs)
    _, points = sweep.read_manifest(tmp_path, "study")
    runs = tables.framed(tmp_path, points)
    kinds = sorted([*draw.kinds(), *draw.OTHERS])
    about = {"name": "study", "over": "step", "figure": kinds}
    figures, problems = report._draw(tmp_path, about, points, runs)
    assert figures == [] and len(problems) == len(kinds)
    for problem in problems:
        assert len(problem.partition(": ")[2].split()) > 3, problem
