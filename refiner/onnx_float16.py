"""Half the size of an ONNX file, with the same values.

The weights of bpr are stored in float16. Folding a batch norm multiplies a convolution by a number
for each channel, and the product is float32. So the file keeps both factors, and every runtime
multiplies them when it loads the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def store_in_float16(exported: Any, network: nn.Module) -> None:
    """Replace convolution weights by a float16 tensor, a cast and a product, where that is exact.

    Args:
        exported: onnx.ModelProto of the network with folded batch norms; changed in place.
        network: the network before folding.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = exported.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    first = []
    for name, weight, scale in _factors(network):
        tensor = stored.get(f"network.{name}.weight")
        if tensor is None:
            continue
        product = weight.half().float() * scale
        if not np.array_equal(numpy_helper.to_array(tensor), product.numpy()):
            continue
        graph.initializer.remove(tensor)
        half, whole = f"{tensor.name}.float16", f"{tensor.name}.float32"
        factor = f"{tensor.name}.scale"
        graph.initializer.extend(
            [
                numpy_helper.from_array(weight.half().numpy(), half),
                numpy_helper.from_array(scale.numpy(), factor),
            ]
        )
        first += [
            helper.make_node("Cast", [half], [whole], to=TensorProto.FLOAT),
            helper.make_node("Mul", [whole, factor], [tensor.name]),
        ]
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _factors(network: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each convolution before a batch norm: its name, its weight, and what folding multiplies."""
    for prefix, parent in network.named_modules():
        for (name, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_var is not None
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                shape = (-1, *[1] * (conv.weight.ndim - 1))
                path = f"{prefix}.{name}" if prefix else name
                yield path, conv.weight.detach(), scale.detach().reshape(shape)
