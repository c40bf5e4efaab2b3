"""`sa.Gradient` in training loops of other libraries: Lightning, Trainer of Hugging Face."""

import pytest
import torch
from torch import nn

import sa as lab

REASON = "needs pip install -e '.[loops]'"
HARMLESS = pytest.mark.filterwarnings("ignore::Warning")  # of the libraries themselves


def library(module, *names):
    """What is imported of a library; the test is skipped where that is not possible."""
    found = pytest.importorskip(module, reason=REASON)
    try:
        return [getattr(found, name) for name in names]
    except RuntimeError as error:  # a torchvision beside it that was built for another torch
        pytest.skip(f"{module} cannot be imported here: {error}")


def rows():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=draw)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


@HARMLESS
def test_lightning_lowers_the_loss_by_nes_with_a_scheduler_and_clipping(tmp_path):
    module, trainer = library("lightning", "LightningModule", "Trainer")

    class Own(module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.gradient = lab.Gradient(lab.NES(sigma=0.05, samples=200), self.net)
            self.losses = []

        def training_step(self, batch, _):
            x, y = batch
            loss = self.gradient(lambda: nn.functional.cross_entropy(self.net(x), y))
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self):
            adam = torch.optim.Adam(self.parameters(), lr=0.05)
            return [adam], [torch.optim.lr_scheduler.StepLR(adam, 4)]

    own = Own()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows()), batch_size=16)
    fit = trainer(
        max_epochs=8, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    fit.fit(own, data)
    assert len(own.losses) == own.gradient.calls == 32
    assert sum(own.losses[-4:]) < 0.5 * sum(own.losses[:4])


class Small(nn.Module):
    """A model in the form that Trainer takes, with dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(network()[0], nn.Tanh(), nn.Dropout(0.3), network()[2])

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def bert():
    """A small BERT with dropout, and rows of words for it."""
    config, model = library("transformers", "BertConfig", "BertForSequenceClassification")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = torch.randint(0, 30, (64, 7), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": a, "labels": a[0] % 2} for a in words]
    return model(config(vocab_size=30, intermediate_size=16, num_labels=2, **small)), data


def trained(folder, made, gradient_of=None, steps=6):
    """The losses and the parameters of a training by Trainer, with accumulation."""
    library("accelerate")
    base, arguments = library("transformers", "Trainer", "TrainingArguments")

    class Trainer(base):
        def compute_loss(self, model, inputs, return_outputs=False, **more):
            if gradient_of is None or not model.training:
                loss = model(**inputs)["loss"]
            else:
                if not hasattr(self, "gradient"):
                    self.gradient = lab.Gradient(gradient_of, model)
                loss = self.gradient(lambda: model(**inputs)["loss"])
            losses.append(float(loss.detach()))
            return loss

    losses: list[float] = []
    model, data = made
    given = arguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, use_cpu=True,
        gradient_accumulation_steps=2, learning_rate=0.01, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, seed=3, max_grad_norm=1.0,
    )  # fmt: skip
    Trainer(model=model, args=given, train_dataset=data).train()
    return losses, [p.detach().clone() for p in model.parameters()]


@HARMLESS
def test_straight_through_under_trainer_is_plain_training_to_the_last_digit(tmp_path):
    plain, mine = trained(tmp_path, bert()), trained(tmp_path, bert(), lab.STE())
    assert plain[0] == mine[0] and len(plain[0]) == 12
    assert all(map(torch.equal, plain[1], mine[1]))


@HARMLESS
def test_nes_lowers_the_loss_under_trainer(tmp_path):
    data = [{"x": a, "labels": b} for a, b in zip(*rows(), strict=True)]
    losses, _ = trained(tmp_path, (Small(), data), lab.NES(sigma=0.05, samples=200), steps=30)
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
