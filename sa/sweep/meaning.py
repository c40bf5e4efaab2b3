"""What a column of a sweep's table means, in a sentence, for whoever points at it."""

import ast
import re
from functools import cache
from pathlib import Path

_SA = Path(__file__).resolve().parents[1]

RESULTS = {
    "value": "The loss at the point, over the batch that the gradient is of.",
    "alignment/cosine": "The cosine of the angle between the estimate and the reference gradient; "
    "1 is the same direction. The reference's own cosine is 1 by construction.",
    "alignment/scale": "The length of the estimate along the reference gradient, over that of the "
    "reference; 1 is right where both estimate the same thing.",
    "alignment/ceiling": "The cosine between the reference of this batch and that of the held-out "
    "rows: how much of the reference is noise of the batch.",
    "descent/best": "The most that one step along the estimate lowers the loss of the batch, over "
    "all step lengths of the grid, relative to the loss.",
    "descent/best_lr": "The step length at which the loss falls most.",
    "descent/best_heldout": "How much the same step lowers the loss of held-out rows, relative to "
    "the loss.",
    "descent/null_best": "The best decrease along a random direction, mean over directions.",
    "descent/ratio": "The best decrease along the estimate over that along the reference gradient.",
    "bias_variance/bias2": "The squared bias of the estimator over the squared length of the true "
    "gradient, from independent replicates.",
    "bias_variance/variance": "The variance of one estimate over the squared length of the true "
    "gradient.",
    "efficiency/at_evals/cosine": "The cosine to the reference gradient of the mean of as many "
    "estimates as the common budget of evals pays for.",
    "training/ratio": "The loss after a short training over the loss before it, at the learning "
    "rate that ended lowest.",
    "quant_error/least": "The lowest signal-to-quantization-noise ratio of any layer, in dB.",
    "cost/bops": "Bit operations of one row: multiply-accumulates times the bits of both factors.",
    "smoothing/epsilon": "The half-width of the box whose smoothed gradient descends furthest.",
    "smoothing/sigma": "The width of the gaussian whose smoothed gradient descends furthest.",
    "sensitivity_bits/kendall/taylor": "Kendall's tau between the predicted and the measured rise "
    "of the loss, layer by layer and bit by bit.",
    "sensitivity_bits/gain": "How much lower the loss is with bits allocated than with even bits.",
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
    return _of_analysis(analysis) if name else _setting(column)


def _of_analysis(analysis: str) -> str:
    told = caption("analysis", analysis)
    return f"Of the analysis {analysis}: {told}" if told else ""


@cache
def caption(room: str, name: str) -> str:
    """Return the first line of a module's docstring, read without importing it; '' of none."""
    path = _SA / room / f"{name}.py"
    if not name.isidentifier() or not path.is_file():
        return ""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _setting(column: str) -> str:
    told = _settings().get(column.removeprefix("config."))
    return f"Setting {column}" + (f": {told}." if told else ".")


@cache
def _settings() -> dict[str, str]:
    """The comments of conf/config.yaml, by setting."""
    paths = (_SA / "conf/config.yaml", _SA.parent / "conf/config.yaml")
    text = next((p.read_text() for p in paths if p.is_file()), "")
    return dict(re.findall(r"^(\w+): .*?# (.*)$", text, re.MULTILINE))
