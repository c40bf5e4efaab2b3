"""A network of layers in a row, which returns its own structure."""

from collections import OrderedDict
from dataclasses import replace

from torch import nn

from sa.network import codes
from sa.network.cut import cut
from sa.network.layers import SMOOTH, Activation, Conv, Linear, Residual, connect
from sa.network.structure import Cut, Link, Norm, Units
from sa.network.traits import traits


class Network(nn.Sequential):
    """Layers in a row, with methods that return its structure.

    Args:
        layers: name -> layer, in order.

    """

    def __init__(self, layers: OrderedDict[str, nn.Module]):
        super().__init__(layers)
        for row in self.modules():
            if isinstance(row, nn.Sequential):
                connect(row)

    def cut(self, weight: str) -> Cut:
        """Return the network cut open at the convolution of a kernel; see `sa.network.cut.cut`."""
        return cut(self, weight)

    def units(self) -> list[Units]:
        """Return the tensors that hold the units of each hidden layer.

        Raises:
            ValueError: the units of a layer cannot be permuted alone. The message names the layer.

        """
        found: list[Units] = []
        rows: list[str] = []
        for name, layer in self.named_children():
            mine = [f"{name}.{k}" for k, p in [*layer.named_parameters(), *layer.named_buffers()]
                    if p.dim()]  # fmt: skip
            match layer:
                case Linear() | Conv() if set(mine) <= {f"{name}.weight", f"{name}.bias"}:
                    if rows:
                        found.append(Units(tuple(rows), f"{name}.weight"))
                    rows = mine
                case nn.BatchNorm1d() | nn.BatchNorm2d() if rows:
                    rows += mine
                case Linear() | Conv() | Activation() if mine:
                    raise ValueError(f"the quantizer of layer '{name}' keeps numbers of its own")
                case Activation() | nn.Flatten() | nn.AvgPool2d():
                    pass
                case nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
                    pass
                case _ if not isinstance(layer, tuple(SMOOTH.values())):
                    raise ValueError(
                        f"layer '{name}' ({type(layer).__name__}) binds units together"
                    )
        return found

    def links(self) -> list[Link]:
        """Return the network as a chain of affine maps and steps, for the fast differences.

        Raises:
            ValueError: the network is no chain. The message names the first layer that does not
                fit.

        """
        for name, layer in self.named_modules():
            if isinstance(layer, Residual):
                raise ValueError(f"block '{name}' adds its input to its output: no chain")
        links: list[Link] = []
        average = False  # whether maps were averaged since the last affine map
        for name, layer in self.named_children():
            open_ = bool(links) and links[-1].step is None  # pooling, norm and step may follow
            match layer:
                case Conv() if layer.stride != 1:
                    raise ValueError(f"layer '{name}' has stride {layer.stride}")
                case Linear() | Conv():
                    quantize = layer.quantize
                    scaled = isinstance(quantize, codes.Rescaled)
                    if scaled or not traits(quantize).identity:
                        raise ValueError(f"the weights of layer '{name}' are quantized")
                    bias = f"{name}.bias" if layer.bias is not None else None
                    padding = layer.padding if isinstance(layer, Conv) else None
                    links.append(Link(f"{name}.weight", bias, None, padding, average=average))
                    average = False
                case nn.AvgPool2d() if open_ and links[-1].norm is None and links[-1].pool == 1:
                    links[-1] = replace(links[-1], pool=layer.kernel_size)  # type: ignore[arg-type]
                case nn.BatchNorm1d() | nn.BatchNorm2d() if open_ and links[-1].norm is None:
                    links[-1] = replace(links[-1], norm=Norm(name, layer.eps))
                case Activation() if open_ and (step := traits(layer.quantize).step):
                    links[-1] = replace(links[-1], step=step)
                case nn.AdaptiveAvgPool2d() if links and not open_:
                    average = True
                case nn.Flatten():
                    pass
                case _:
                    raise ValueError(
                        f"layer '{name}' ({type(layer).__name__}) is neither an affine map nor the "
                        "pooling, norm or step after one"
                    )
        return links
