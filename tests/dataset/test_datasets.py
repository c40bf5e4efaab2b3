"""Every data set in the folder yields what it says, from its stream."""

import pytest
import torch
from conftest import component, options

from sa.types import stream


@pytest.mark.parametrize("name", options("dataset"))
def test_yields_what_it_says(name):
    data = component("dataset", name)
    one, two = data.load(stream(0, "data")), data.load(stream(0, "data"))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        assert tuple(a.inputs.shape[1:]) == tuple(data.shape) and a.inputs.dtype == torch.float64
        assert one.train.rows == data.rows
        assert len(a.inputs) == len(a.targets) and a.inputs.isfinite().all()
        if data.classes:
            assert a.targets.dtype == torch.int64
            assert a.targets.unique().tolist() == list(range(data.classes))


def test_gaussian_moments_and_splits():
    train, test = component("dataset", "gaussian", dim=4, n=20_000).load(stream(0))
    assert abs(float(train.inputs.mean())) < 4 / 80_000**0.5
    assert abs(float(train.inputs.var()) - 1) < 4 * (2 / 80_000) ** 0.5
    assert not torch.equal(train.inputs, test.inputs)
    assert train.targets.shape == (20_000, 0)


def test_digits_split_is_stratified_disjoint_and_standardised():
    train, test = component("dataset", "digits").load(stream(0))
    assert (train.rows, test.rows) == (1437, 360)
    assert abs(float(train.inputs.mean())) < 1e-9 and abs(float(train.inputs.std()) - 1) < 1e-9
    counts = torch.bincount(test.targets).tolist()
    assert min(counts) >= 34 and max(counts) <= 38
    other = component("dataset", "digits").load(stream(7))
    assert torch.equal(other.test.inputs, test.inputs)  # one split for every seed


@pytest.mark.parametrize("size", [16, 32])
def test_digits_resize(size):
    data = component("dataset", "digits", size=size)
    assert data.shape == (1, size, size)
    assert data.load(stream(0)).train.inputs.shape == (1437, 1, size, size)
