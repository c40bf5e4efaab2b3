"""What a column of a sweep's table means, in a sentence, for whoever points at it."""

import ast
import re
from functools import cache
from pathlib import Path

_SA = Path(__file__).resolve().parents[1]

RESULTS = {
    "value": "The loss at the point, over the batch that the gradient is of.",
    "grad_norm": "The length of the estimated gradient.",
    "evals": "The price of the estimate: evaluations of the loss on the batch; a backward pass "
    "counts as two.",
    "seconds": "Wall-clock seconds that the run computed for.",
    "step": "The optimizer step at which the run ended.",
    "stopped": "Why the training ended: the goal that it reached, or its number of steps.",
    "target": "What the estimator's gradient is the gradient of.",
    "parameters": "How many numbers move.",
    "rows": "How many rows the training set has.",
    "lr": "The learning rate of the last step.",
    "flat": "The share of loss differences that were exactly zero, so that they carry no slope.",
    "flip_rate": "The share of quantized activations whose state the last step changed.",
    "cosine_expected": "The cosine that the estimator would have on a linear loss.",
    "status": "How the run stands: done, diverged, failed, lost, interrupted, running, pending.",
    "run_id": "The run's folder below runs/.",
    "commit": "The commit of the code that computed the run.",
    "seed": "The seed of every random number of the run: the replicate.",
    "runs": "How many runs of a configuration are done, of how many there are.",
}

_SPLITS = {"train": "the training rows", "test": "the test rows"}
_ENDS = {"loss": "The loss", "accuracy": "The share of rows classified correctly,"}
_AVERAGES = {"ema": " of the running average of the weights", "swa": " of the averaged weights"}


def meaning(column: str) -> str:
    """Return what a column means; '' if nobody wrote it down."""
    if column in RESULTS:
        return RESULTS[column]
    found = re.fullmatch(r"(?:(ema|swa)/)?(train|test)/(loss|accuracy)", column)
    if found:
        average, split, end = found.groups()
        return f"{_ENDS[end]}{_AVERAGES.get(average, '')} on {_SPLITS[split]}, at the end."
    analysis, _, name = column.partition("/")
    return _of_analysis(analysis, name) if name else _setting(column)


def _of_analysis(analysis: str, name: str) -> str:
    """The clause of an analysis' docstring that names the number, else its first sentence."""
    told = _docstring(analysis)
    for part in (name, *reversed(name.split("/"))):
        found = re.search(rf"[^.;:]*``{re.escape(part)}``[^.;]*", told)
        if found:
            words = found.group().strip().replace("``", "")
            return f"{words[:1].upper()}{words[1:]}."
    return told.partition("\n")[0].replace("``", "")


@cache
def _docstring(analysis: str) -> str:
    """That of the analysis' class, read without importing it, its paragraphs on one line each."""
    path = _SA / "analysis" / f"{analysis}.py"
    if not analysis.isidentifier() or not path.is_file():
        return ""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            return "\n".join(" ".join(p.split()) for p in text.split("\n\n"))
    return ""


def _setting(column: str) -> str:
    told = _settings().get(column.removeprefix("config."))
    return f"Setting {column}" + (f": {told}." if told else ".")


@cache
def _settings() -> dict[str, str]:
    """The comments of conf/config.yaml, by setting."""
    paths = (_SA / "conf/config.yaml", _SA.parent / "conf/config.yaml")
    text = next((p.read_text() for p in paths if p.is_file()), "")
    return dict(re.findall(r"^(\w+): .*?# (.*)$", text, re.MULTILINE))
