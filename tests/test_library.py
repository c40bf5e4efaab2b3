"""Networks of other libraries, with weights of a file: model=library."""

import importlib.util
import sys
import types

import pytest
import torch
from commands import folder
from torch import nn

from sa.model.library import Library
from sa.params import stream

WORDS = [
    "model=library", "model.library=timm", "model.name=tiny", "dataset=digits", "analysis=[]",
    "tracker=none", "estimator=ste",
]  # fmt: skip


@pytest.fixture
def timm(monkeypatch):
    """Stand in for timm: one network, so that no library has to be installed."""

    def create_model(name, pretrained, num_classes, in_chans, width=2):
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        assert not pretrained
        return nn.Sequential(
            nn.Conv2d(in_chans, width, 3), nn.Flatten(), nn.Linear(36 * width, num_classes)
        )

    made = types.ModuleType("timm")
    made.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", made)
    return made


def test_a_network_of_a_library_is_trained_with_the_shape_of_the_data(sa, timm):
    code, out, err = sa(*WORDS, "steps=2", "+model.args.width=3")
    assert code == 0, err
    assert "1120 parameters" in out  # 3 x 9 + 3 + 108 x 10 + 10


def test_weights_of_a_file_are_loaded_and_name_the_run_by_their_content(sa, timm, tmp_path):
    made = Library("timm", "tiny", shape=(1, 8, 8))
    network = made.build(stream(3, "init"))
    for name in ("a.pt", "copied.pt"):
        torch.save(network.state_dict(), tmp_path / name)
    loaded = Library("timm", "tiny", shape=(1, 8, 8), path=str(tmp_path / "a.pt"))
    again = loaded.build(stream(0, "init"))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), again.parameters(),
                                                 strict=True))  # fmt: skip
    names = set()
    for name in ("a.pt", "copied.pt"):
        code, out, err = sa(*WORDS, f"model.path={name}")
        assert code == 0, err
        names.add(folder(out).name)
    assert len(names) == 1
    code, out, err = sa(*WORDS)
    assert folder(out).name not in names


class Harmful:
    def __reduce__(self):
        import os

        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.path=none.pt"], "name a file of weights"),
        (["model.path=other.pt"], "it does not hold the weights of tiny"),
        (["model.path=harmful.pt"], "it holds no state_dict of tensors"),
        (["model.name=huge"], "timm makes no such network (Unknown model (huge)); set model.name"),
        (["model.library=keras"], "model.library=keras"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(sa, timm, tmp_path, words, said):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    torch.save({"w": Harmful()}, tmp_path / "harmful.pt")
    code, _, err = sa(*WORDS, *words)
    assert code and said in err, err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "harmed").exists()


def test_a_library_that_is_not_installed_is_named_with_what_to_install(sa, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = sa(*WORDS)
    assert code and "type pip install 'sa-lab[timm]'" in err


def test_a_library_of_another_build_is_named_with_what_to_install(sa, monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator vision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    code, _, err = sa(*WORDS)
    assert code and "cannot be imported here (operator vision::nms does not exist)" in err
    assert "type pip install --force-reinstall --no-deps torchvision==VERSION" in err


@pytest.mark.parametrize(
    ("library", "name", "shape"),
    [
        ("torchvision", "resnet18", (3, 32, 32)),
        ("timm", "resnet18", (3, 32, 32)),
        ("transformers", "vit", (3, 32, 32)),
    ],
)
def test_a_network_of_each_real_library_has_a_loss_and_a_gradient(library, name, shape):
    try:
        importlib.import_module(library)
        if importlib.util.find_spec("torchvision"):  # the others import it
            importlib.import_module("torchvision")
    except Exception as error:  # torchvision's wheel may not fit the build of torch
        pytest.skip(f"{library} cannot be imported here: {error}")
    import sa as lab

    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "patch_size": 8}  # fmt: skip
    made = Library(library, name, small if library == "transformers" else {}, shape, 4)
    rows = torch.randn(4, *shape), torch.arange(4)
    network = made.build(stream(0, "init"))
    value, grad = lab.loss(network, rows).value_and_grad()
    law = nn.functional.cross_entropy(network(rows[0].double()), rows[1])
    law.backward()
    assert float(value) == pytest.approx(float(law.detach()), rel=1e-10)
    for key, p in network.named_parameters():
        torch.testing.assert_close(grad[key], p.grad, rtol=1e-8, atol=1e-10)
