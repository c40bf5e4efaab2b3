"""The meaning of each column of a sweep's table in a sentence, for the page."""

import ast
import re
from functools import cache
from pathlib import Path

_SA = Path(__file__).resolve().parents[1]

RESULTS = {
    "value": "The loss at the point, over the batch that the gradient is of.",
    "alignment/cosine": "The cosine of the angle between the estimate and the reference gradient; "
    "1 is the same direction. The reference's own cosine is 1 by construction.",
    "alignment/scale": "The length of the estimate along the reference gradient, over the length "
    "of the reference; 1 is right if both have the same target.",
    "alignment/ceiling": "The cosine between the reference of this batch and the reference of the "
    "held-out rows: the lower it is, the noisier is the reference.",
    "descent/best": "The largest decrease of the batch's loss by one step along the estimate, over "
    "all step lengths of the grid, relative to the loss.",
    "descent/best_lr": "The step length with the largest decrease.",
    "descent/best_heldout": "The decrease of the held-out loss by the same step, relative to the "
    "loss.",
    "descent/null_best": "The largest decrease along a random direction, mean over directions.",
    "descent/null_heldout": "The held-out decrease along a random direction, at the step length "
    "with the largest decrease on the batch; mean over directions.",
    "descent/ratio": "The best decrease along the estimate over that along the reference gradient.",
    "bias_variance/bias2": "The squared bias of the estimator over the squared length of the true "
    "gradient, from independent replicates.",
    "bias_variance/variance": "The variance of one estimate over the squared length of the true "
    "gradient.",
    "efficiency/at_evals/cosine": "The cosine to the reference gradient of a mean of estimates "
    "that together cost the common budget of evals.",
    "training/ratio": "The loss after a short training over the loss before it, at the best "
    "learning rate of the grid.",
    "quant_error/least": "The lowest signal-to-quantization-noise ratio of any layer, in dB.",
    "cost/bops": "Bit operations of one row: multiply-accumulates times the bits of both factors.",
    "smoothing/epsilon": "The half-width of the box whose smoothed gradient lowers the loss most.",
    "smoothing/sigma": "The width of the Gaussian whose smoothed gradient lowers the loss most.",
    "sensitivity_bits/kendall/taylor": "Kendall's tau between the predicted and the measured rise "
    "of the loss, layer by layer and bit by bit.",
    "sensitivity_bits/gain": "How much lower the loss is with allocated bits than with equal bits.",
    "grad_norm": "The length of the estimated gradient.",
    "evals": "The cost of the estimate in evaluations of the loss on the batch; a backward pass "
    "counts as two.",
    "seconds": "Wall-clock seconds of computation.",
    "step": "The optimizer step at which the run ended.",
    "stopped": "Why the training ended: the goal that it reached, or its number of steps.",
    "target": "The loss whose gradient the estimator estimates.",
    "parameters": "The number of trained parameters.",
    "rows": "The number of rows of the training set.",
    "lr": "The learning rate of the last step.",
    "flat": "The share of loss differences that were exactly 0; they say nothing of the slope.",
    "flip_rate": "The share of quantized activations whose state the last step changed.",
    "cosine_expected": "The cosine that the estimator would have on a linear loss.",
    "status": "The state of the run: done, diverged, failed, lost, interrupted, running, pending.",
    "run_id": "The run's folder below runs/.",
    "commit": "The commit of the code that computed the run.",
    "seed": "The seed of all random numbers of the run; means and intervals are over seeds.",
    "runs": "How many runs of the configuration are done, of how many.",
}

_SPLITS = {"train": "the training rows", "test": "the test rows"}
_ENDS = {"loss": "The loss", "accuracy": "The share of rows classified correctly,"}
_AVERAGES = {"ema": " of the running average of the weights", "swa": " of the averaged weights"}


def meaning(column: str) -> str:
    """Return the meaning of a column in a sentence; '' if it is unknown."""
    if column in RESULTS:
        return RESULTS[column]
    found = re.fullmatch(r"(?:(ema|swa)/)?(train|test)/(loss|accuracy)", column)
    if found:
        average, split, end = found.groups()
        return f"{_ENDS[end]}{_AVERAGES.get(average, '')} on {_SPLITS[split]}, at the end."
    analysis, _, name = column.partition("/")
    return _of_analysis(analysis) if name else _setting(column)


def _of_analysis(analysis: str) -> str:
    """Return the first line of an analysis' module."""
    first = caption("analysis", analysis)
    return f"From the analysis {analysis}: {first}" if first else ""


@cache
def caption(room: str, name: str) -> str:
    """Return the first line of a module's docstring without importing it; '' if it has none."""
    path = _SA / room / f"{name}.py"
    if not name.isidentifier() or not path.is_file():
        return ""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _setting(column: str) -> str:
    """Return the comment of a setting in conf/config.yaml."""
    comment = _settings().get(column.removeprefix("config."))
    return f"Setting {column}" + (f": {comment}." if comment else ".")


@cache
def _settings() -> dict[str, str]:
    """Return the comments of conf/config.yaml, by setting."""
    paths = (_SA / "conf/config.yaml", _SA.parent / "conf/config.yaml")
    text = next((p.read_text() for p in paths if p.is_file()), "")
    return dict(re.findall(r"^(\w+): .*?# (.*)$", text, re.MULTILINE))
