"""The same function of arrays, run by OpenVINO: faster on CPUs, and without torch."""

from __future__ import annotations

import sys
import threading
from collections import deque
from types import ModuleType
from typing import Any

import numpy as np

from bpr.refiner.patch_batch import Logits, PatchBatch, check_input_size, check_patches

CHUNK_PIXELS = 16 * 64 * 64  # of the patches that one thread takes at once

_CORE: list[Any] = []
_CORE_LOCK = threading.Lock()


class OpenVINOPredictor:
    """Runs a converted network on the CPU.

    Patches are cut into chunks of one fixed size, the last one filled up, and each chunk is
    computed by one thread: kernels differ with the size of a batch and rounding with the number
    of threads, so that a patch's logits depend on neither. A fixed size is also faster than an
    open one, and threads that do not wait for each other than those that share a chunk.

    May be called from several threads; calls wait for each other.

    Args:
        model: from `bpr.refiner.openvino_model`.
        input_size: side S of the patches in pixels, a multiple of 32.
        num_threads: of the CPU, > 0.
        bfloat16: compute in it instead of float32: twice as fast where the CPU has it
            (`has_bfloat16`), slower elsewhere.
    """

    def __init__(
        self, model: Any, input_size: int, num_threads: int, bfloat16: bool = False
    ) -> None:
        check_input_size(input_size)
        if num_threads <= 0:
            raise ValueError(f"num_threads: expected an int > 0, got {num_threads}")
        self.input_size = input_size
        self._chunk = max(CHUNK_PIXELS // input_size**2, 1)
        self._channels = int(model.input(0).get_partial_shape()[3].get_length())
        openvino = import_openvino()
        hint = openvino.properties.hint
        options: dict[Any, Any] = {
            hint.inference_precision: openvino.Type.bf16 if bfloat16 else openvino.Type.f32,
            hint.enable_cpu_pinning: False,  # images are read and written on the same processors
            openvino.properties.num_streams: num_threads,
            openvino.properties.inference_num_threads: num_threads,
        }
        fixed = model.clone()
        fixed.reshape([self._chunk, input_size, input_size, self._channels])
        compiled = openvino_core().compile_model(fixed, "CPU", options)
        self._requests = [compiled.create_infer_request() for _ in range(num_threads)]
        self._lock = threading.Lock()  # a request holds its own inputs and outputs

    @property
    def busy_at(self) -> int:
        """Patches that give every thread a chunk."""
        return self._chunk * len(self._requests)

    def __call__(self, patches: PatchBatch) -> Logits:
        """(N, S, S, 4) uint8 -> (N, S, S) float32, as for TorchPredictor."""
        check_patches(patches, self.input_size, self._channels)
        logits = np.empty(patches.shape[:3], np.float32)
        busy: deque[tuple[int, Any]] = deque()

        def finish() -> Any:
            start, request = busy.popleft()
            request.wait()
            part = logits[start : start + self._chunk]
            part[...] = request.get_output_tensor(0).data[: len(part)]
            return request

        with self._lock:
            free = list(self._requests)
            try:
                for start in range(0, len(patches), self._chunk):
                    request = free.pop() if free else finish()
                    part = patches[start : start + self._chunk]
                    inputs = request.get_input_tensor(0).data
                    inputs[: len(part)] = part
                    inputs[len(part) :] = 0
                    request.start_async()
                    busy.append((start, request))
            finally:
                while busy:
                    finish()
        return logits


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself (AVX-512 BF16 or AMX)."""
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def openvino_core() -> Any:
    """The one openvino.Core of the process, which lives as long as it does.

    OpenVINO gives signal handlers a stack when its CPU plugin loads, and takes it away when the
    plugin goes. With two that go in the order they came, the first signal with a handler (Ctrl-C)
    ends the process.
    """
    with _CORE_LOCK:
        if not _CORE:
            openvino = import_openvino()
            core = openvino.Core()
            # a mapped file that somebody cuts short would end the process, too
            core.set_property({openvino.properties.enable_mmap(): False})
            _CORE.append(core)
    return _CORE[0]


def import_openvino() -> ModuleType:
    """Import openvino without letting it report each import and conversion to its makers."""
    if "openvino" not in sys.modules:
        # openvino falls back to a silent stand-in where this package cannot be imported
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules["openvino_telemetry"]
    import openvino

    module: ModuleType = openvino
    return module
