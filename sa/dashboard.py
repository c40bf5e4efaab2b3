"""The W&B workspace as code, ``python -m sa.dashboard push``: what to look at in a project of runs.

`json` prints what `push` would save; it needs neither network nor key, and its test is a snapshot.
"""

import argparse
import contextlib
import json
import os
import sys
from typing import Any

ESTIMATOR = "estimator._target_"
DESCENTS = {
    "descent/best": "best one-step loss decrease",
    "descent/best_heldout": "best one-step loss decrease, held out",
}
CURVES = {
    "loss of the batch": ["loss"],
    "loss of both splits": ["train/loss", "test/loss"],
    "accuracy of both splits": ["train/accuracy", "test/accuracy"],
}


class Unavailable(Exception):
    """What is missing on this machine, and how to get it."""


def workspace(entity: str, project: str) -> Any:
    """The workspace: probes against dim and estimator, trainings over steps and over evals."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        remedy = "pip install -c constraints.txt -e '.[dashboard]'"
        raise Unavailable(f"the package wandb-workspaces is not installed: {remedy}") from error

    told = {"alignment/cosine": "cosine to CDG", **DESCENTS}
    probes: list[Any] = [
        wr.ScatterPlot(
            title=f"{what} against dim", x=wr.Config("dim"), y=wr.SummaryMetric(key),
            log_x=True,
        )
        for key, what in told.items()
    ] + [
        wr.BarPlot(
            title=f"{what} by estimator: mean and standard error over all runs shown",
            metrics=[key],
            groupby=wr.Config(ESTIMATOR), groupby_aggfunc="mean", groupby_rangefunc="stderr",
        )
        for key, what in told.items()
    ] + [
        wr.ScatterPlot(
            title=f"{what} against its price in evals", x=wr.SummaryMetric("evals"),
            y=wr.SummaryMetric(key), log_x=True,
        )
        for key, what in told.items()
    ]  # fmt: skip

    def trainings(axis: str) -> Any:
        return ws.Section(
            name=f"trainings over {axis}",
            panels=[
                wr.LinePlot(
                    title=title, x=axis, y=list(keys), log_x=axis == "evals",
                    log_y="loss" in title, smoothing_type="none", max_runs_to_show=50,
                )
                for title, keys in CURVES.items()
            ],
            is_open=True,
        )  # fmt: skip

    return ws.Workspace(
        entity=entity,
        project=project,
        name="sa: probes and trainings",
        sections=[
            ws.Section(name="probes", panels=probes, is_open=True),
            trainings("step"),
            trainings("evals"),
        ],
    )


def document(entity: str, project: str) -> dict[str, Any]:
    """What is saved, as plain data; ids that the library draws at random are counted instead."""
    model = workspace(entity, project)._to_model()
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    bank = plain["spec"]["section"]["panelBankConfig"]
    panels = [panel for section in bank["sections"] for panel in section["panels"]]
    for number, panel in enumerate(panels):
        panel["__id__"] = f"panel{number}"
    return plain


def push(entity: str | None, project: str) -> str:
    """Save the workspace as a view of the project; its address."""
    made = workspace(entity or "", project)  # what is not installed comes before what is not known
    import wandb

    if not wandb.login(prompt=False):
        raise Unavailable("no API key of W&B: type `wandb login`, or set WANDB_API_KEY")
    made.entity = entity or wandb.Api().default_entity
    return str(made.save().url)


def main(argv: list[str] | None = None) -> int:
    """0: done; 1: W&B refused or could not be reached; 2: something is missing here."""
    parser = argparse.ArgumentParser(
        prog="python -m sa.dashboard", description="The W&B workspace of the runs, as code."
    )
    parser.add_argument("command", choices=["push", "json"], help="save it in W&B, or print it")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team")
    parser.add_argument("--project", default="sa")
    given = parser.parse_args(argv)
    try:
        if given.command == "json":
            told = json.dumps(document(given.entity or "entity", given.project), indent=1)
        else:
            told = f"dashboard: {push(given.entity, given.project)}"
    except Unavailable as error:
        print(f"sa: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # wandb raises anything: network, permissions
        print(f"sa: {given.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    with contextlib.suppress(BrokenPipeError):  # `| head`
        print(told, flush=True)
        return 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
