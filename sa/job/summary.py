"""The result of a run in words, for the terminal."""

import re
from collections.abc import Mapping
from typing import Any

from sa.table import names


def tell(config: dict[str, Any], result: dict[str, Any]) -> None:
    """The result in words a person reads, on the terminal."""
    own = config["estimator"].items()
    own = [f"{k}={_named(v)}" for k, v in own if k != "_target_" and v is not None]
    name = _named(config["estimator"])
    rows = [
        ("estimator", f"{name}  {'  '.join(own)}"),
        ("estimates", f"target: {result['target']}, {result['parameters']} parameters"),
        ("quantized", result.get("quantized", "not told")),
        *_told(result, _reference(config)),
    ]
    for label, words in rows:
        print(f"{label:<14} {words}")


def _named(value: Any) -> str:
    """A setting as a word: of a component, the file it lives in."""
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"]).rsplit(".", 2)[1]
    return str(value)


def quantized(layers: Mapping[str, str]) -> str:
    """Which layers are quantized and how, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for name, how in layers.items():
        kinds.setdefault(how, []).append(name)
    return "; ".join(f"{', '.join(names)}: {how}" for how, names in kinds.items()) or "nothing"


def _reference(config: dict[str, Any]) -> str:
    """The first reference that gradients are aligned with, as tables and figures call it."""
    node = (config.get("analysis") or {}).get("alignment") or {}
    first: dict[str, Any] = next(iter(node.get("references", {}).values()), {})
    return names.reference(first.get("_target_"), first.get("epsilon"))


def _told(result: dict[str, Any], who: str) -> list[tuple[str, str]]:
    out = []
    if result["status"] == "diverged":
        out.append(("DIVERGED", f"at step {result['step']}; first bad: {result['diverged']}"))
    if lost := [
        k.removesuffix("/diverged") for k in result if k.endswith("/diverged") and result[k]
    ]:
        out.append(("DIVERGED", f"{', '.join(lost)}: no probed loss or derivative is finite"))
    value, norm = result["value"], result["grad_norm"]
    out += [("value", _number(value)), ("gradient norm", _number(norm))]
    if "alignment/cosine" in result:
        law = ""
        if "cosine_expected" in result:
            law = f"; a linear loss would give {result['cosine_expected']:.3f}"
            law = law if result["cosine_expected"] else "; chance gives 0 +- "
            law += "" if result["cosine_expected"] else f"{result['parameters'] ** -0.5:.3f}"
        limit = result.get("alignment/ceiling")
        top = f"; two batches' {who} agree to {limit:.3f}" if limit is not None else ""
        out.append((f"cosine to {who}", f"{_number(result['alignment/cosine'])}{law}{top}"))
        mine, other = result["target"], "box" if who.startswith("CDG") else "its own"
        right = "1 is right" if mine == other else f"another target: {who}'s is {other}, this one's"
        right += "" if mine == other else f" {mine}"
        out.append(("scale", f"{_number(result['alignment/scale'])} of {who}'s ({right})"))
    out += _replicated(result)
    out += _curved(result)
    out += _around(result)
    if "descent/best" in result:
        best, lr = (result[f"descent/{k}"] for k in ("best", "best_lr"))
        share = f" ({best / value:.1%} of the loss)" if value and best is not None else ""
        edge = "; ON THE GRID'S EDGE" if result.get("descent/edge") else ""
        ratio = result.get("descent/ratio")
        told = f"{_number(best)}{share} at lr {lr:.3g}" if lr is not None else "undefined"
        out.append(("best decrease", f"{told}{edge}"))
        out.append(("  held out", _number(result.get("descent/best_heldout"))))
        if ratio is not None:
            out.append(("  against CDG", f"x {ratio:.2f}"))
        if "descent/null_best" in result:
            out.append(("  null", f"{_number(result['descent/null_best'])} (random directions)"))
    if result.get("stopped", "steps") != "steps":
        out.append(("stopped", f"at step {result['step']}: {result['stopped']}"))
    for split in ("train", "test", "ema/test", "swa/test"):
        if f"{split}/loss" in result:
            hits = result.get(f"{split}/accuracy")
            told = f"loss {_number(result[f'{split}/loss'])}"
            told += f", accuracy {hits:.2%}" if hits is not None else ""
            wrong = result.get(f"{split}/fitted")
            told += f", {wrong:.2%} of the wrong labels fitted" if wrong is not None else ""
            if f"{split}/accuracy/low" in result:  # of replicas
                ends = [f"{result[f'{split}/accuracy/{x}']:.2%}" for x in ("low", "high")]
                told += f" on average, {' to '.join(ends)} of nine in ten"
            out.append((split, told))
    if "keep" in result:
        each = [f"{k.removeprefix('keep/')} {v:.1%}" for k, v in result.items() if k[:5] == "keep/"]
        out.append(("channels kept", f"{result['keep']:.1%} on average: {', '.join(each)}"))
    ways = [f"{k.removeprefix('path/')} {v}" for k, v in result.items() if k.startswith("path/")]
    told = ": ".join(x for x in (f"{result.get('path')} path", ", ".join(ways)) if x)
    path = f" ({told})" if "path" in result else ""
    out.append(("evals", f"{result['evals']:g} forward-equivalents{path}"))
    out.append(("seconds", f"{result['seconds']:.2f}"))
    return out


def _replicated(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What replicates, equal budgets, a short training and the calibration say."""
    got = {k: _number(v) for k, v in result.items() if isinstance(v, int | float) or v is None}
    out = []
    if result.get("flat", 0.0) >= 0.5:
        told = "losses do not differ: rounding, or a step too short to flip anything"
        out.append(("flat", f"{result['flat']:.0%} of the pairs' {told}"))
    if "bias_variance/bias2" in got:
        across = " (of another target)" if result["bias_variance/across"] else ""
        words = "bias^2 {}{}, variance {} of |g*|^2".format(
            got["bias_variance/bias2"], across, got["bias_variance/variance"]
        )
        out.append(("replicates", f"{words}; reliability {got['bias_variance/reliability']}"))
    if "efficiency/at_evals/cosine" in got:
        words = "{} calls: cosine {}, decrease {} of the loss".format(
            *(got[f"efficiency/at_evals/{k}"] for k in ("calls", "cosine", "decrease"))
        )
        over = "; ONE CALL IS ABOVE THE BUDGET" if result["efficiency/over"] else ""
        out.append(("equal evals", words + over))
    if "training/ratio" in got:
        words = "loss x {} in {} steps at lr {}".format(
            *(got[f"training/{k}"] for k in ("ratio", "steps", "lr"))
        )
        over = "; ONE STEP IS ABOVE THE BUDGET" if result["training/over"] else ""
        out.append(("training", words + over))
    if "interpolation/barrier" in got:
        told = f"barrier {got['interpolation/barrier']}, test {got['interpolation/barrier/test']}"
        apart = f"ends {got['interpolation/distance']} apart"
        if "interpolation/moved" in got:
            apart += (
                f", {result['interpolation/moved']:.0%} of the second's units put in another place"
            )
        out.append(("interpolation", f"{told}; {apart}"))
    if "function_curve/rmse" in got:
        dead = "; COLLAPSED to a constant" if result["function_curve/collapsed"] else ""
        out.append(("function", f"root mean square error {got['function_curve/rmse']}{dead}"))
    if "cost/macs" in got:
        words = "{:.4g} parameters of {:.3g} bits, {:.4g} MACs, {:.4g} bit operations a row".format(
            result["cost/parameters"],
            result["cost/bits"] / max(1.0, result["cost/parameters"]),
            result["cost/macs"],
            result["cost/bops"],
        )
        out.append(("cost", words))
    if "quant_error/worst" in result:
        worst = result["quant_error/worst"]
        words = "{}: {} dB, {:.0%} of the squared error by clipping".format(
            worst, got["quant_error/least"], result[f"quant_error/{worst}/clipping"]
        )
        out.append(("worst SQNR", words))
    if "sensitivity_bits/ilp/loss" in got:
        taus = ", ".join(
            f"{k} {got[f'sensitivity_bits/kendall/{k}']}"
            for k in ("gradient", "curvature", "taylor", "error")
            if f"sensitivity_bits/kendall/{k}" in got
        )
        out.append(("sensitivity", f"Kendall tau to the measured rise: {taus}"))
        for how in ("even", "greedy", "ilp", "anneal"):
            if f"sensitivity_bits/{how}/loss" in got:
                bits = "-".join(f"{b:g}" for b in result[f"sensitivity_bits/{how}/bits"])
                mean = got[f"sensitivity_bits/{how}/spent"]
                words = f"loss {got[f'sensitivity_bits/{how}/loss']} at {mean} bits: {bits}"
                out.append((f"  {how}", words))
    for scale, short in (("epsilon", "eps"), ("sigma", "sigma")):
        if f"smoothing/{scale}" in got:
            out.append((f"which {short}?", _range(result, scale, short)))
    return out


def _range(result: dict[str, Any], scale: str, short: str) -> str:
    """The best scale and those that descend as far within noise."""
    low, high = (result.get(f"smoothing/{scale}_{end}") for end in ("low", "high"))
    best = f"{short} {result[f'smoothing/{scale}']:g} descends furthest"
    if low is None or high is None:  # of a run before there was a range
        return best
    kind = "box" if scale == "epsilon" else "gaussian"
    tried = result.get(f"smoothing/{kind}/{scale}") or []
    if low == high:
        return f"{best}; no neighbour is within noise of it"
    same = f"{low:g} to {high:g} are within noise of it"
    return f"indifferent: {same}" if [low, high] == [tried[0], tried[-1]] else f"{best}; {same}"


def _curved(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What the curvature is, and the table of blocks."""
    out = []
    if "curvature/lambda_1" in result:
        told = f"lambda_1 {_number(result['curvature/lambda_1'])}"
        if "curvature/edge" in result:
            told += f", 2/lr {_number(result['curvature/edge'])}"
        out.append(("curvature", f"{told}, gap {_number(result['curvature/gap'])}"))
    blocks = [k.split("/")[1] for k in result if re.fullmatch(r"blocks/[^/]+/shapes", k)]
    for block in blocks:
        got = {k: result.get(f"blocks/{block}/{k}") for k in ("parameters", "part", "share")}
        told = f"{got['parameters']:g} parameters ({result[f'blocks/{block}/shapes']})"
        told += f", {_number(got['part'])} of the gradient"
        if got["share"] is not None:
            told += f", of that {_number(got['share'])} in its top space"
        out.append((block, told))
    if "blocks/held_least" in result:
        ends = _number(result["blocks/held_least"]), _number(max(result["blocks/held"]))
        out.append(("blocks hold", "{} to {} of each top direction of the whole".format(*ends)))
    return out


def _around(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What gradients, curvature and losses around the point say."""
    got = {k: _number(v) for k, v in result.items() if isinstance(v, int | float) or v is None}
    out = []
    if "gradient_norm/full" in got:
        told = f"{got['gradient_norm/full']} of all rows, {got['gradient_norm/batch']} of the batch"
        edge = got.get("gradient_norm/edge")
        if "gradient_norm/lambda_max" in got:
            told += f"; lambda_max {got['gradient_norm/lambda_max']}"
            told += f", 2/lr {edge}" if edge else ""
        out.append(("gradient", told))
    if "critical_points/status" in result:
        one = {k: got.get(f"critical_points/{k}") for k in ("norm", "norm_start", "loss", "steps")}
        told = f"{result['critical_points/status']}: |g| {one['norm_start']} -> {one['norm']}"
        told += f" in {one['steps']} steps, loss {one['loss']}"
        out.append(("critical point", told))
        ratio, index = (got[f"critical_points/{k}"] for k in ("minimal_ratio", "index"))
        idle = result["critical_points/redundant"]
        left = f", {idle:g} redundant biases left out" if idle else ""
        out.append(("  Hessian", f"minimal ratio {ratio}, index {index}{left}"))
        if result["critical_points/solver"] == "l1":
            told = "at the optimum of the L1 penalty the gradient is -penalty sign(w), not 0"
            out.append(("  WARNING", told))
    if "input_sensitivity/test/logits/mean" in got:
        said = [
            f"{x} {got[f'input_sensitivity/test/{x}/mean']}"
            for x in ("logits", "probabilities")
            if f"input_sensitivity/test/{x}/mean" in got
        ]
        out.append(("sensitivity", f"{', '.join(said)} (mean norm of d output/d input, test)"))
    sharp = [
        f"{k} {got[f'sharpness/{k}']}"
        for k in ("keskar", "sam", "asam", "lambda_max", "rise", "flip_mean", "flip_max")
        if f"sharpness/{k}" in got
    ]
    if sharp:
        out.append(("sharpness", ", ".join(sharp)))
    if "surface/centre" in got:
        ends = f"{got['surface/least']} to {got['surface/most']}"
        told = f"losses {ends} around {got['surface/centre']}"
        if "surface/share" in got:
            told += f"; it holds {got['surface/share']} of the way's variance"
        out.append(("surface", told))
    return out


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.4g}"
