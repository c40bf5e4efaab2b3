"""The command ``python -m sa.dashboard push``: saves a W&B workspace with panels for the runs.

``python -m sa.dashboard json`` prints the workspace instead; it needs no network and no key.
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
    """Raised if something is missing on this machine; the message says how to get it."""


def workspace(entity: str, project: str) -> Any:
    """Return the workspace: panels of probes by dim and estimator, and of training curves.

    ``entity`` is the W&B user or team. Raises Unavailable if a package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        remedy = "pip install -c constraints.txt -e '.[dashboard]'"
        raise Unavailable(
            f"the package wandb-workspaces is not installed; to install it, type: {remedy}"
        ) from error

    results = {"alignment/cosine": "cosine to CDG", **DESCENTS}
    probes: list[Any] = [
        wr.ScatterPlot(
            title=f"{what} against dim", x=wr.Config("dim"), y=wr.SummaryMetric(key),
            log_x=True,
        )
        for key, what in results.items()
    ] + [
        wr.BarPlot(
            title=f"{what} by estimator: mean and standard error over all runs shown",
            metrics=[key],
            groupby=wr.Config(ESTIMATOR), groupby_aggfunc="mean", groupby_rangefunc="stderr",
        )
        for key, what in results.items()
    ] + [
        wr.ScatterPlot(
            title=f"{what} against its price in evals", x=wr.SummaryMetric("evals"),
            y=wr.SummaryMetric(key), log_x=True,
        )
        for key, what in results.items()
    ]  # fmt: skip

    def trainings(axis: str) -> Any:
        """Return the section of training curves over ``step`` or ``evals``."""
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
    """Return the workspace as plain data; panels have the ids panel0, panel1, ..., not random ones.

    The arguments are those of `workspace`.
    """
    model = workspace(entity, project)._to_model()
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    bank = plain["spec"]["section"]["panelBankConfig"]
    panels = [panel for section in bank["sections"] for panel in section["panels"]]
    for number, panel in enumerate(panels):
        panel["__id__"] = f"panel{number}"
    return plain


def push(entity: str | None, project: str) -> str:
    """Save the workspace as a view of the project, and return its address.

    Args:
        entity: the W&B user or team; None takes the default of the W&B account.
        project: the W&B project.

    """
    made = workspace(entity or "", project)  # first, because it checks that packages are installed
    import wandb

    if not wandb.login(prompt=False):
        raise Unavailable("no API key of W&B: type `wandb login`, or set WANDB_API_KEY")
    made.entity = entity or wandb.Api().default_entity
    return str(made.save().url)


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit code.

    The code is 0 if it is done, 1 if W&B could not be reached or reported an error, and 2 if
    something is missing on this machine.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sa.dashboard", description="Save a W&B workspace with panels for the runs."
    )
    parser.add_argument("command", choices=["push", "json"], help="save it in W&B, or print it")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team")
    parser.add_argument("--project", default="sa")
    given = parser.parse_args(argv)
    try:
        if given.command == "json":
            output = json.dumps(document(given.entity or "entity", given.project), indent=1)
        else:
            output = f"dashboard: {push(given.entity, given.project)}"
    except Unavailable as error:
        print(f"sa: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # wandb raises many kinds of errors: network, permissions
        print(f"sa: {given.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    with contextlib.suppress(BrokenPipeError):  # as after `| head`
        print(output, flush=True)
        return 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
