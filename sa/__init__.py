"""A laboratory for gradients of networks that have none.

`sa.loss` makes a loss of any network and any rows; estimators turn it into gradients. Names are
imported when they are first used: ``import sa`` costs milliseconds and no torch.

A network of your own, and its loss on rows:

>>> import sa, torch
>>> from torch import nn
>>> class Net(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
...     def forward(self, x):
...         return self.c(sa.sign(self.b(sa.sign(self.a(x)))))
>>> _ = torch.manual_seed(0)
>>> net, x, y = Net(), torch.randn(200, 8), torch.randint(0, 3, (200,))
>>> loss = sa.loss(net, (x, y), heldout=(x[:50], y[:50]))
>>> round(float(loss.value()), 3)
1.22

Estimates of its gradient, the exact differences, and a comparison:

>>> sa.NES(sigma=0.1, samples=500)(loss, seed=0).evals
1001.0
>>> d = loss.differences(epsilons=[0.1])  # brute force takes 934 evaluations
>>> d.path, d.evals < 10
('fast', True)
>>> len(sa.compare(loss, ["ste_clipped", sa.NES(sigma=0.1, samples=100)], seeds=3))
6
>>> smooth = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 3))
>>> sa.loss(smooth, (x, y)).structure.why_not_a_chain
"layer '1' (GELU) is not a step"

Quantized layers, a training, and a loss that is measured elsewhere:

>>> q = sa.quantize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), {"0": sa.Uniform(4)})
>>> len(q[0].weight.unique()) <= 16
True
>>> sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
>>> rows = list(sa.train(loss, sa.STE("clipped"), sgd, steps=100))
>>> rows[0]["loss"] > rows[-1]["loss"]
True
>>> s = sa.Session(sa.SPSA(samples=8), {"w": torch.ones(4, dtype=torch.float64)})
>>> while not s.done:
...     s.tell((s.ask()["w"].numpy() ** 2).sum(-1))
>>> s.estimate.evals
17.0
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sa import testing as testing
    from sa.config.error import NoData as NoData
    from sa.config.error import UsageError as UsageError
    from sa.estimator.arm import ARM as ARM
    from sa.estimator.ars import ARS as ARS
    from sa.estimator.best_of import BestOf as BestOf
    from sa.estimator.cdg import CDG as CDG
    from sa.estimator.cma import CMA as CMA
    from sa.estimator.decayed import Decayed as Decayed
    from sa.estimator.disarm import DisARM as DisARM
    from sa.estimator.discrete_gradient import DiscreteGradient as DiscreteGradient
    from sa.estimator.finite_difference import FiniteDifference as FiniteDifference
    from sa.estimator.flow import Flow as Flow
    from sa.estimator.fogzo import FOGZO as FOGZO
    from sa.estimator.forward_gradient import ForwardGradient as ForwardGradient
    from sa.estimator.guided_es import GuidedES as GuidedES
    from sa.estimator.gumbel import Gumbel as Gumbel
    from sa.estimator.local_nes import LocalNES as LocalNES
    from sa.estimator.mezo import MeZO as MeZO
    from sa.estimator.nes import NES as NES
    from sa.estimator.orthonormal_probe import OrthonormalProbe as OrthonormalProbe
    from sa.estimator.random import Random as Random
    from sa.estimator.random_coordinates import RandomCoordinates as RandomCoordinates
    from sa.estimator.rdsa import RDSA as RDSA
    from sa.estimator.rebar import Rebar as Rebar
    from sa.estimator.reinforce import Reinforce as Reinforce
    from sa.estimator.reinmax import ReinMax as ReinMax
    from sa.estimator.relax import Relax as Relax
    from sa.estimator.rloo import RLOO as RLOO
    from sa.estimator.sges import SGES as SGES
    from sa.estimator.snes import SNES as SNES
    from sa.estimator.spectral import Spectral as Spectral
    from sa.estimator.sphere import Sphere as Sphere
    from sa.estimator.spsa import SPSA as SPSA
    from sa.estimator.sr_ste import SRSTE as SRSTE
    from sa.estimator.st import ST as ST
    from sa.estimator.ste import STE as STE
    from sa.estimator.ste_random import STERandom as STERandom
    from sa.estimator.ste_steps import STESteps as STESteps
    from sa.estimator.xnes import XNES as XNES
    from sa.job.compare import compare as compare
    from sa.job.execute import RunFailed as RunFailed
    from sa.network.quantize import quantize as quantize
    from sa.network.structure import Step as Step
    from sa.network.trace import Unreadable as Unreadable
    from sa.objective.loss import Loss as Loss
    from sa.objective.loss import loss as loss
    from sa.quantizer.bernoulli import Bernoulli as Bernoulli
    from sa.quantizer.binaryconnect_sto import BinaryConnectSto as BinaryConnectSto
    from sa.quantizer.dorefa import Dorefa as Dorefa
    from sa.quantizer.dorefa_gradient import DorefaGradient as DorefaGradient
    from sa.quantizer.fixed_point import FixedPoint as FixedPoint
    from sa.quantizer.gate import Gate as Gate
    from sa.quantizer.levels import Levels as Levels
    from sa.quantizer.lsq import LSQ as LSQ
    from sa.quantizer.pact import Pact as Pact
    from sa.quantizer.relaxed_bernoulli import RelaxedBernoulli as RelaxedBernoulli
    from sa.quantizer.sawb import Sawb as Sawb
    from sa.quantizer.sign import Sign as Sign
    from sa.quantizer.terngrad import TernGrad as TernGrad
    from sa.quantizer.ttq import TTQ as TTQ
    from sa.quantizer.twn import TWN as TWN
    from sa.quantizer.uniform import Uniform as Uniform
    from sa.quantizer.xnor import Xnor as Xnor
    from sa.run import multirun as multirun
    from sa.surrogate import Rule as Rule
    from sa.surrogate import sign as sign
    from sa.surrogate import step as step
    from sa.sweep.table import read as read
    from sa.training.gradient import Gradient as Gradient
    from sa.training.loop import Recipe as Recipe
    from sa.training.session import Session as Session
    from sa.training.train import train as train
    from sa.types import Batch as Batch
    from sa.types import Estimate as Estimate
    from sa.types import Moment as Moment

_MODULES = {
    "config.error": "NoData UsageError",
    "estimator.arm": "ARM",
    "estimator.ars": "ARS",
    "estimator.best_of": "BestOf",
    "estimator.cdg": "CDG",
    "estimator.cma": "CMA",
    "estimator.decayed": "Decayed",
    "estimator.disarm": "DisARM",
    "estimator.discrete_gradient": "DiscreteGradient",
    "estimator.finite_difference": "FiniteDifference",
    "estimator.flow": "Flow",
    "estimator.fogzo": "FOGZO",
    "estimator.forward_gradient": "ForwardGradient",
    "estimator.guided_es": "GuidedES",
    "estimator.gumbel": "Gumbel",
    "estimator.local_nes": "LocalNES",
    "estimator.mezo": "MeZO",
    "estimator.nes": "NES",
    "estimator.orthonormal_probe": "OrthonormalProbe",
    "estimator.random": "Random",
    "estimator.random_coordinates": "RandomCoordinates",
    "estimator.rdsa": "RDSA",
    "estimator.rebar": "Rebar",
    "estimator.reinforce": "Reinforce",
    "estimator.reinmax": "ReinMax",
    "estimator.relax": "Relax",
    "estimator.rloo": "RLOO",
    "estimator.sges": "SGES",
    "estimator.snes": "SNES",
    "estimator.spectral": "Spectral",
    "estimator.sphere": "Sphere",
    "estimator.spsa": "SPSA",
    "estimator.sr_ste": "SRSTE",
    "estimator.st": "ST",
    "estimator.ste": "STE",
    "estimator.ste_random": "STERandom",
    "estimator.ste_steps": "STESteps",
    "estimator.xnes": "XNES",
    "job.execute": "RunFailed",
    "network.structure": "Step",
    "network.trace": "Unreadable",
    "quantizer.bernoulli": "Bernoulli",
    "quantizer.binaryconnect_sto": "BinaryConnectSto",
    "quantizer.dorefa": "Dorefa",
    "quantizer.dorefa_gradient": "DorefaGradient",
    "quantizer.fixed_point": "FixedPoint",
    "quantizer.gate": "Gate",
    "quantizer.levels": "Levels",
    "quantizer.lsq": "LSQ",
    "quantizer.pact": "Pact",
    "quantizer.relaxed_bernoulli": "RelaxedBernoulli",
    "quantizer.sawb": "Sawb",
    "quantizer.sign": "Sign",
    "quantizer.terngrad": "TernGrad",
    "quantizer.ttq": "TTQ",
    "quantizer.twn": "TWN",
    "quantizer.uniform": "Uniform",
    "quantizer.xnor": "Xnor",
    "job.compare": "compare",
    "training.gradient": "Gradient",
    "objective.loss": "Loss loss",
    "network.quantize": "quantize",
    "run": "multirun",
    "sweep.table": "read",
    "training.session": "Session",
    "training.train": "train",
    "surrogate": "Rule sign step",
    "training.loop": "Recipe",
    "types": "Batch Estimate Moment",
}
"""Module -> the public names that it defines."""

_WHERE = {name: f"sa.{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted([*_WHERE, "__version__", "testing"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("sa-lab")
    if name == "testing":
        return import_module("sa.testing")
    if name not in _WHERE:
        raise AttributeError(f"sa has no '{name}'; its names are: {', '.join(__all__)}")
    found = globals()[name] = vars(import_module(_WHERE[name]))[name]
    return found


def __dir__() -> list[str]:
    return list(__all__)
