"""The network on patches that are already on its device."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from bpr.refiner.network import MEAN, STD
from bpr.refiner.patch_batch import Logits, PatchBatch, check_input_size, check_patches
from bpr.refiner.torch_predictor import as_tensor, exact_convolutions, fold_batch_norms
from bpr.refiner.unet import CENTRES, SPANS

CUDA_BATCH_PIXELS = 512 * 64 * 64  # of the patches in one batch on a GPU
CPU_BATCH_PIXELS = 8 * 64 * 64


class DeviceNetwork:
    """Runs a network on a device in batches of one fixed size, the last one filled up.

    On a GPU a batch is one CUDA graph: the network has some 600 kernels, each faster than Python
    can start it.

    Args:
        network: a PatchNetwork or a PatchUNet; not changed.
        input_size: side S of the patches in pixels, a multiple of 32.
        device: where to run.
        bfloat16: compute in it instead of float32.
    """

    def __init__(
        self, network: nn.Module, input_size: int, device: str | torch.device, bfloat16: bool
    ) -> None:
        check_input_size(input_size)
        self.input_size = input_size
        self.device = torch.device(device)
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32
        on_gpu = self.device.type == "cuda"
        pixels = CUDA_BATCH_PIXELS if on_gpu else CPU_BATCH_PIXELS
        self.batch_size = max(pixels // input_size**2, 1)
        self._network: nn.Module = fold_batch_norms(network).to(
            device=self.device,
            dtype=self._dtype,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self._channels: int = network.channels  # type: ignore[assignment]
        # as `normalise` of each network, with constants that are on the device: a graph cannot
        # fetch them
        mean, std = (MEAN, STD) if self._channels == len(MEAN) else (CENTRES, SPANS)
        self._mean = torch.tensor(mean, device=self.device)
        self._std = torch.tensor(std, device=self.device)
        self._inputs = torch.zeros(
            (self.batch_size, input_size, input_size, self._channels),
            dtype=torch.uint8,
            device=self.device,
        )

    def run(self, patches: Tensor) -> Tensor:
        """Predict patches on the device.

        Args:
            patches: (N, S, S, 4) uint8 on the device, N up to `batch_size`.

        Returns:
            (N, S, S) float32 logits on the device, fresh memory.
        """
        with torch.inference_mode():
            self._inputs[: len(patches)] = patches
            if self.device.type != "cuda":
                return self._forward()[: len(patches)]
            graph, outputs = self._graph
            graph.replay()
            return outputs[: len(patches)].clone()

    def __call__(self, patches: PatchBatch) -> Logits:
        """(N, S, S, 4) uint8 -> (N, S, S) float32, as for TorchPredictor."""
        check_patches(patches, self.input_size, self._channels)
        logits = torch.empty(patches.shape[:3])
        for start in range(0, len(patches), self.batch_size):
            part = as_tensor(patches[start : start + self.batch_size]).to(self.device)
            logits[start : start + len(part)] = self.run(part)
        result: Logits = logits.numpy()
        return result

    def _forward(self) -> Tensor:
        inputs = ((self._inputs.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        raw: Any = self._network
        return cast(Tensor, raw.logits_from(inputs.to(self._dtype)))

    @cached_property
    def _graph(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The forward pass, recorded. What cuDNN chooses is chosen before, on another stream."""
        with torch.inference_mode(), exact_convolutions(self.device):
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._forward()
            torch.cuda.current_stream(self.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._forward()
        return graph, outputs
