"""Exact coordinate differences of a binary convolution, 64 to 64 channels, 3x3, 8x8 maps."""

from typing import Any

from benchmarks.cdg import loop
from benchmarks.measure import ratio
from sa.dataset.digits import Digits
from sa.model.cnn import CNN
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import size
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Batch, Slots

ROWS = 256


def _against_loop(name: str, channels: tuple[int, ...], epsilon: float) -> dict[str, Any]:
    """Time the differences of conv2's 36,864 weights in a network of so many stages."""
    model = CNN(
        quantizer=Slots(Identity(), Sign()), channels=channels, pool="none", norm="none",
        head="average",
    )  # fmt: skip
    p = prepare(Task(model=model, dataset=Digits(), moving=("conv2.*",)), 0)
    batch = Batch(*(x[:ROWS] for x in p.data.train))
    f = p.objective(batch)
    most, total = 8, size(p.params)
    return ratio(
        name,
        lambda: loop(p, epsilon, most, batch),
        lambda: f.differences(p.params, [epsilon], "fast"),
        against=f"a loop over coordinates, eps {epsilon}, float64, naive extrapolated from {most} "
        f"of {total} coordinates",
        scale=total / most,
        settings={"channels": channels, "rows": ROWS, "epsilon": epsilon},
    )


def cdg_conv_head() -> dict[str, Any]:
    return _against_loop("cdg_conv_head", (64, 64), 0.1)


def cdg_conv_inner() -> dict[str, Any]:
    return _against_loop("cdg_conv_inner", (64, 64, 64), 1e-2)
