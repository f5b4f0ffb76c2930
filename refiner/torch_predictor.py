"""The trained network as a function of arrays, run by PyTorch."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import numpy as np
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bpr.refiner.network import object_logits
from bpr.refiner.patch_batch import Logits, PatchBatch, check_input_size, check_patches


class TorchPredictor:
    """Runs a network with PyTorch, in float32.

    Batch norms are folded into a copy of the network, so the given one stays as it is.

    Args:
        network: a PatchNetwork or a PatchUNet.
        input_size: side S of the patches in pixels, a multiple of 32.
        device: where to run.
    """

    def __init__(
        self, network: nn.Module, input_size: int, device: str | torch.device = "cpu"
    ) -> None:
        check_input_size(input_size)
        self.input_size = input_size
        self._device = torch.device(device)
        self._channels: int = network.channels  # type: ignore[assignment]
        self._network: nn.Module = fold_batch_norms(network).to(
            device=self._device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )

    def __call__(self, patches: PatchBatch) -> Logits:
        """Predict the object in patches.

        Args:
            patches: (N, S, S, 4) uint8: R, G, B and the coarse mask as 0 or 1; N may be 0.

        Returns:
            (N, S, S) float32 logits, object minus background. A patch's logits do not depend
            on the others in the batch beyond float32 rounding.

        Raises:
            ValueError: other shape or type.
        """
        check_patches(patches, self.input_size, self._channels)
        if len(patches) == 0:
            return np.zeros(patches.shape[:3], np.float32)
        batch = as_tensor(patches)
        with torch.inference_mode(), exact_convolutions(self._device):
            logits = object_logits(self._network, batch.to(self._device))
        result: Logits = logits.cpu().numpy()
        return result


def as_tensor(patches: PatchBatch) -> Tensor:
    """An array as a tensor on the CPU, in the same memory where that can be."""
    # torch warns about arrays that it could write to but must not
    return torch.from_numpy(np.require(patches, requirements=["C", "W"]))


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Keep cuDNN from rounding factors to 10 bits (TF32), its default, and from variation."""
    if device.type != "cuda":
        return nullcontext()
    # enabled must be said: left out, it turns cuDNN off
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Copy a network with each batch norm multiplied into the convolution before it.

    Args:
        network: any; its batch norms directly follow their convolution among the children of
            one module, as everywhere in PatchNetwork.

    Returns:
        A copy in eval mode, without gradients, that computes the same up to rounding.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                # timm's batch norm of EfficientNet also applies the activation
                rest = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                setattr(parent, second, rest)
    return network
