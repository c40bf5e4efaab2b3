"""`loss`: makes an objective of any network and any rows, for every estimator and analysis."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sa.network.read import coupling, describe, one_row, row_width
from sa.objective.criterion import CRITERIA
from sa.objective.evaluate import SPLITS, Evaluation
from sa.objective.forward import NetworkForward
from sa.objective.function import RowFunction
from sa.objective.numerics import DTYPES, Numerics
from sa.objective.objective import Objective
from sa.objective.task import moving_names
from sa.objective.training_mode import in_mode
from sa.objective.vectorize import can_vmap
from sa.params import stream
from sa.types import Batch, Dataset, Numbers, Params, Splits

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the loss of each row, (n,)."""

Data = tuple[Tensor, Tensor] | Batch | Dataset | Iterable[tuple[Tensor, Tensor]]
"""(inputs, targets), a dataset of `sa`, or a loader that yields (inputs, targets)."""


@dataclass(eq=False)
class Loss(Objective):
    """An objective with a point of its own: its methods use this point if none is given.

    >>> bowl = loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> float(bowl.value()), bowl.value_and_grad()[1]["w"].tolist()
    (3.0, [2.0, 2.0, 2.0])
    >>> float(bowl.value({"w": torch.zeros(3)}))
    0.0

    Args:
        point: the parameters that move, by name. `sa.train` sets it to the last point of a
            training.

    """

    point: Params = field(default_factory=dict)

    @property
    def why(self) -> str | None:
        """The reason why exact differences take brute force; None if they have a fast path."""
        return self.structure.why_no_fast_path

    def value(self, params: Params | None = None) -> Tensor:
        """Return the loss at a point, 0-dim float64."""
        return super().value(self.point if params is None else params)

    def row_losses(self, params: Params | None = None) -> Tensor:
        """Return the loss of every row at a point, (n,) float64; their mean is `value`."""
        return super().row_losses(self.point if params is None else params)

    def value_and_grad(
        self, params: Params | None = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Params]:
        """Return the loss and its back-propagated gradient; see `Objective.value_and_grad`."""
        return super().value_and_grad(self.point if params is None else params, *args, **kwargs)

    def differences(
        self, params: Params | None = None, epsilons: Sequence[float] = (0.1,), path: str = "auto"
    ) -> Any:
        """Return the exact differences of every coordinate; see `Objective.differences`."""
        return super().differences(self.point if params is None else params, epsilons, path)


@dataclass(kw_only=True, eq=False)
class _OwnCriterionForward(NetworkForward):
    """A network with a criterion that the user wrote."""

    criterion: Criterion

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the row losses (n,) of outputs."""
        losses = self.criterion(outputs, targets)
        if losses.shape != outputs.shape[:1]:
            raise ValueError(
                f"criterion: it returned shape {tuple(losses.shape)} for {len(outputs)} rows; "
                "return one loss a row (n,), e.g. reduction='none'"
            )
        return losses


class _Scores(Evaluation):
    """An evaluation that leaves out splits without rows."""

    def evaluate(
        self, params: Params, buffers: Params | None = None, splits: Sequence[str] = SPLITS
    ) -> Numbers:
        """Return the scores of the splits that have rows; see `Evaluation.evaluate`."""
        some = [k for k in splits if self.data[SPLITS.index(k)].rows]
        return super().evaluate(params, buffers, some) if some else {}


def loss(
    network: nn.Module | Callable[[Params], Tensor],
    data: Data | None = None,
    criterion: Literal["auto", "mse", "ce"] | Criterion = "auto",
    *,
    heldout: Data | None = None,
    batchnorm: Literal["batch", "running"] | None = None,
    moving: Literal["all"] | Sequence[str | int] = "all",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    mode: Literal["eval", "train"] = "eval",
    vectorized: bool | None = None,
    memory: int = 128 << 20,
    params: Params | None = None,
) -> Loss:
    """Return the loss of a network on rows, or of a plain function of the parameters.

    The loss works on a copy of the network, in evaluation mode; your network never changes.

    >>> import torch
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> net.weight.data[:] = torch.tensor([[1.0, 2.0]])
    >>> float(loss(net, (torch.eye(2), torch.zeros(2))).value())
    2.5

    Args:
        network: the network, or a function of the parameters that returns a 0-dim tensor.
        data: (inputs, targets), a dataset of `sa`, or a loader of (inputs, targets), which is read
            once and not shuffled again. None for a function.
        criterion: ``ce`` (cross entropy, targets are class numbers), ``mse`` (squared error,
            averaged over outputs), ``auto`` (ce for integer targets, else mse) or a function
            (outputs, targets) -> (n,).
        heldout: held-out rows, in the same forms as ``data``.
        batchnorm: statistics of BatchNorm, ``running`` or ``batch``; None chooses by ``mode``.
        moving: which parameters move: ``all``, or name patterns and 1-based numbers of quantized
            layers; negative numbers count from the end.
        dtype: torch.float64 or torch.float32. Differences are always computed in float64.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        mode: ``eval``, or ``train``: dropout and its like draw. All points share the draws;
            `sa.train` draws anew in every step, and takes scores in evaluation mode.
        vectorized: True if ``torch.func.vmap`` may run the network at many points; None tries it.
        memory: bytes that one evaluation may use for intermediate results, above 0.
        params: the point of a plain function: its parameters by name.

    Raises:
        ValueError: the settings, the rows and the network do not fit together.

    """
    if not isinstance(network, nn.Module):
        return _of_function(network, data, params, vectorized)
    batch = _moved(_batch(data, "data"), dtype, device)
    kept = None if heldout is None else _moved(_batch(heldout, "heldout"), dtype, device)
    norms = batchnorm or ("batch" if mode == "train" else "running")
    numerics = _numerics(dtype, device=device, memory=memory, batchnorm=norms, mode=mode)
    forward, point = _forward(network, batch, criterion, moving, numerics)
    forward.vectorized = can_vmap(forward, point, batch) if vectorized is None else vectorized
    evaluation = _Scores(forward, Splits(batch, kept or batch.part(0, 0)), _classes(batch))
    away = kept and Loss(forward, kept, evaluation=evaluation, point=point)
    return Loss(forward, batch, away, evaluation=evaluation, point=point)


def _numerics(dtype: torch.dtype, **settings: Any) -> Numerics:
    """Return the settings of how a loss is computed; ValueError for one out of its range."""
    name: Any = "float64" if dtype == torch.float64 else "float32"
    try:
        return Numerics(dtype=name, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        key, expected = str(first["loc"][-1]), first["msg"].lower()
        raise ValueError(f"{key}={settings[key]!r}: {expected}") from error


def _forward(
    given: nn.Module, batch: Batch, criterion: Any, moving: Any, numerics: Numerics
) -> tuple[NetworkForward, Params]:
    """Return a copy of the network with its criterion, and the parameters that move."""
    kind = _kind(criterion, batch)
    network = copy.deepcopy(given).to(numerics.device, DTYPES[numerics.dtype]).eval()
    if why_not := one_row(network, numerics.batchnorm, batch.rows):
        raise ValueError(f"data: {why_not}; give more rows, or set batchnorm='running'")
    named = {k: p.detach() for k, p in network.named_parameters()}
    if not named:
        raise ValueError(
            "network: it has no parameters, so there is no gradient; pass a network with parameters"
        )
    names = moving_names(moving if isinstance(moving, str) else tuple(moving), network, list(named))
    frozen = {k: p for k, p in named.items() if k not in names}
    point = {k: named[k] for k in names}
    example = batch.inputs[:16]
    forward = NetworkForward(
        structure=describe(
            network, frozen, numerics.batchnorm, CRITERIA[kind], kind == "mse", example
        ),
        example=example,
        width=row_width(network, batch.inputs[:1]),
        numerics=numerics,
        coupled=bool(coupling(network, numerics.batchnorm)[0]),
        kind=kind,
        network=network,
        frozen=frozen,
    )
    if callable(criterion):
        structure = replace(forward.structure, criterion=criterion, quadratic=False)
        every = {f.name: vars(forward)[f.name] for f in fields(forward)} | {"structure": structure}
        forward = _OwnCriterionForward(**every, criterion=criterion)
    _check_outputs(forward, point, batch, "own" if callable(criterion) else kind)
    forward.observe(point, batch.inputs)
    return in_mode(forward, point, example), point


def _of_function(
    function: Callable[[Params], Tensor],
    data: object,
    params: Params | None,
    vectorized: bool | None,
) -> Loss:
    """Return the loss that a plain function computes; its point is ``params``."""
    if not params:
        raise ValueError("params: a plain function needs its point; give {name: tensor}")
    if data is not None:
        raise ValueError("data: a plain function takes the parameters alone; leave data out")
    point = {k: p.detach() for k, p in params.items()}
    one = torch.zeros(1, 0)
    rows = RowFunction(lambda at, batch: function(at).reshape(1), vectorized=True)
    made = Loss(rows, Batch(one, one), point=point)
    rows.vectorized = can_vmap(rows, point, made.batch) if vectorized is None else vectorized
    return made


def _batch(data: Any, name: str) -> Batch:
    """Return the rows of any form of data; raise ValueError if it holds no valid rows.

    Args:
        data: what the user passed.
        name: name of the argument, for error messages.

    """
    if data is None:
        raise ValueError(f"{name}: a network needs rows; give (inputs, targets)")
    if isinstance(data, Batch):
        batch = data
    elif isinstance(data, Dataset):
        batch = data.load(stream(0, "data")).train
    elif isinstance(data, Sequence) and len(data) == 2 and all(map(torch.is_tensor, data)):
        batch = Batch(*data)
    elif isinstance(data, torch.utils.data.Dataset):
        return _batch(torch.utils.data.DataLoader(data, batch_size=1024), name)
    elif isinstance(data, Iterable) and not isinstance(data, Mapping | str):
        parts = [tuple(part) for part in data]
        if not parts or any(len(p) != 2 or not all(map(torch.is_tensor, p)) for p in parts):
            raise ValueError(f"{name}: expected pairs (inputs, targets) of tensors")
        batch = Batch(*(torch.cat(x) for x in zip(*parts, strict=True)))
    else:
        kind = type(data).__name__
        raise ValueError(f"{name}={kind}: expected (inputs, targets), a dataset or a loader")
    inputs, targets = batch
    if len(inputs) != len(targets):
        raise ValueError(
            f"{name}: {len(inputs)} inputs and {len(targets)} targets; expected one target a row"
        )
    if not len(inputs):
        raise ValueError(f"{name}: there are no rows; give at least one")
    for what, rows in (("inputs", inputs), ("targets", targets)):
        if rows.is_floating_point() and not rows.isfinite().all():
            row = int((~rows.isfinite()).reshape(len(rows), -1).any(1).nonzero()[0])
            raise ValueError(
                f"{name}: {what} row {row} has a number that is not finite; remove the row"
            )
    if targets.is_floating_point() and targets.dim() == 1:
        targets = targets[:, None]
    return Batch(inputs, targets)


def _classes(batch: Batch) -> int:
    """Return the number of classes; 0 if the targets are numbers."""
    return 0 if batch.targets.is_floating_point() else int(batch.targets.max()) + 1


def _moved(batch: Batch, dtype: torch.dtype, device: str) -> Batch:
    """Return the rows on a device, floats in a dtype; integers keep their dtype."""
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype={dtype}: expected torch.float64 or torch.float32")
    cast = (t.to(device, dtype if t.is_floating_point() else t.dtype) for t in batch)
    return Batch(*cast)


def _kind(criterion: Any, batch: Batch) -> str:
    """Return the criterion's name for these targets: ce or mse; mse also for a user's function."""
    numbers = batch.targets.is_floating_point()
    if callable(criterion) or criterion == "auto":
        return "mse" if numbers or callable(criterion) else "ce"
    if criterion not in ("ce", "mse"):
        raise ValueError(f"criterion={criterion!r}: expected auto, ce, mse or a function")
    if numbers != (criterion == "mse"):
        kind, other = ("numbers", "mse") if numbers else ("class numbers", "ce")
        raise ValueError(f"criterion={criterion}: the targets are {kind}; take criterion={other}")
    return str(criterion)


@torch.no_grad()
def _check_outputs(forward: NetworkForward, point: Params, batch: Batch, kind: str) -> None:
    """Raise ValueError if the outputs of the network do not fit the targets."""
    out = forward.run(point, batch.inputs[:2], "eval")
    targets = batch.targets
    if not torch.is_tensor(out) or len(out) != len(batch.inputs[:2]):
        shape = tuple(out.shape) if torch.is_tensor(out) else type(out).__name__
        raise ValueError(f"network: it returned {shape} for 2 rows; expected (rows, outputs)")
    if kind == "mse" and out.shape != targets[:2].shape:
        raise ValueError(
            f"network: it returns {tuple(out.shape[1:])} a row, and a target is "
            f"{tuple(targets.shape[1:])}; expected the same"
        )
    if kind == "ce":
        if out.dim() != 2:
            raise ValueError(f"network: it returned {tuple(out.shape)}; expected (rows, classes)")
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= out.shape[1]:
            row = int(((targets < 0) | (targets >= out.shape[1])).nonzero()[0])
            raise ValueError(
                f"data: the target of row {row} is {int(targets[row])}; the network has "
                f"{out.shape[1]} outputs, so expected 0 to {out.shape[1] - 1}"
            )
    forward.row_losses(out, targets[:2])
