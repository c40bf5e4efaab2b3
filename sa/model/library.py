"""Networks of other libraries, with weights that are loaded from a file."""

import hashlib
import importlib
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Len
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sa.types import STRICT

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=STRICT)
class Library:
    """An image classifier of torchvision, timm or transformers.

    Nothing is downloaded: a start other than a random one comes from a file of weights. Each
    library is an extra of its own: ``pip install 'sa-lab[torchvision]'``.

    Args:
        library: ``torchvision``, ``timm`` or ``transformers``.
        name: name of the network in its library: ``resnet18``; of transformers the model type, such
            as ``vit``.
        args: further arguments of the network, or of its configuration.
        shape: (channels, height, width) of one input; `model.shape=null` takes it from the dataset.
        outputs: number of outputs, one for each class.
        path: file of a state_dict, .pt or .safetensors; null draws the weights from the seed.
        sha: hash of the content of the file; it is filled in, and names the run instead of the
            path.

    """

    library: Literal["torchvision", "timm", "transformers"] = "torchvision"
    name: str = "resnet18"
    args: dict[str, Any] = Field(default_factory=dict)
    shape: Annotated[tuple[Positive, ...], Len(3, 3)] = (3, 32, 32)
    outputs: Positive = 10
    path: str | None = None
    sha: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Library":
        """Raise ValueError if the file of weights is not there, or has changed."""
        if self.path is not None:
            now = self.digest()
            if self.sha not in ("", now):
                raise ValueError(
                    f"path={self.path}: its content is {now}, and that of this run was {self.sha}; "
                    "set model.sha='' to start another run"
                )
        return self

    def digest(self) -> str:
        """Return the hash of the weights in the file, 16 hex digits; ValueError if it has none.

        It is a hash of names, dtypes, shapes and numbers, so that a copy of the file hashes alike.
        """
        hashed = hashlib.sha256()
        for name, tensor in sorted(_weights(self.path or "").items()):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]

    def __hash__(self) -> int:
        return hash((self.library, self.name, repr(self.args), self.shape, self.outputs, self.sha))

    def build(self, generator: torch.Generator) -> nn.Module:
        """Return the network in evaluation mode; its start depends on the generator or the file."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._made()
        if self.path is not None:
            try:
                network.load_state_dict(_weights(self.path))
            except Exception as error:  # another network's file, or no file of weights
                why = str(error).partition("\n")[0]
                raise ValueError(
                    f"path={self.path}: it does not hold the weights of {self.name} ({why}); name "
                    "a file made of this network by torch.save(network.state_dict(), FILE)"
                ) from error
        return (_Logits(network) if self.library == "transformers" else network).double().eval()

    def _made(self) -> nn.Module:
        """Return the network of the library; ValueError if the library or the name is missing."""
        try:
            library = importlib.import_module(self.library)
        except ImportError as error:
            raise ValueError(
                f"library={self.library}: it cannot be imported here ({error}); type pip install "
                f"'sa-lab[{self.library}]'"
            ) from error
        except Exception as error:  # torchvision's, if it was built for another torch
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"library={self.library}: it is installed, but cannot be imported here ({why}). A "
                "torchvision has to be built for the torch beside it; for a torch without CUDA "
                "type pip install --force-reinstall --no-deps torchvision==VERSION --index-url "
                "https://download.pytorch.org/whl/cpu, with the version that you have"
            ) from error
        try:
            return _MAKERS[self.library](library, self.name, self.outputs, self.shape, self.args)
        except Exception as error:  # a library may raise anything
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"name={self.name}: {self.library} makes no such network ({why}); set model.name "
                "to one of its models, and model.args to arguments of that model"
            ) from error


class _Logits(nn.Module):
    """A network of transformers that returns its logits alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """Return the logits (rows, outputs) of images x (rows, channels, height, width)."""
        return self.network(x).logits


def _weights(path: str) -> dict[str, Tensor]:
    """Return the tensors of a file, by name; ValueError if it holds anything else.

    Python objects in a file are never run.
    """
    try:
        if path.endswith(".safetensors"):
            found = importlib.import_module("safetensors.torch").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(
            f"path={path}: {error.strerror or error}; name a file of weights"
        ) from error
    except Exception as error:  # a damaged file, or one with Python objects
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"path={path}: it holds no state_dict of tensors ({why}); make one with "
            "torch.save(network.state_dict(), FILE)"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(
            f"path={path}: it holds no state_dict of tensors; make one with "
            "torch.save(network.state_dict(), FILE)"
        )
    return found


def _torchvision(
    library: Any, name: str, outputs: int, shape: tuple[int, ...], args: dict[str, Any]
) -> nn.Module:
    made: nn.Module = library.models.get_model(name, weights=None, num_classes=outputs, **args)
    return made


def _timm(
    library: Any, name: str, outputs: int, shape: tuple[int, ...], args: dict[str, Any]
) -> nn.Module:
    """Return a classifier of timm with random weights."""
    settings = {"in_chans": shape[0], **args}
    made: nn.Module = library.create_model(name, pretrained=False, num_classes=outputs, **settings)
    return made


def _transformers(
    library: Any, name: str, outputs: int, shape: tuple[int, ...], args: dict[str, Any]
) -> nn.Module:
    """Return an image classifier of transformers with random weights."""
    settings = {"num_channels": shape[0], "image_size": shape[1], "num_labels": outputs, **args}
    config = library.AutoConfig.for_model(name, **settings)
    made: nn.Module = library.AutoModelForImageClassification.from_config(config)
    return made


_MAKERS = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}
