"""What fewer bits cost in mask quality and save in time, against float32.

    python -m benchmarks.precision --data DATA

bfloat16 is OpenVINO's. int8 is quantised after training and calibrated on patches of the training
photographs: by NNCF for OpenVINO (`pip install nncf`; left out where it is missing), and by ONNX
Runtime for itself, convolutions with a scale for each channel. Every row refines the same coarse
masks; quality is judged on the masks, and `differs` is the share of pixels in the objects' windows
that are not as in float32. `time` is the processor's for the network alone, on one thread, by that
of float32 in the same runtime: the median of rounds in which all rows take turns on the same
patches. Other work on the machine changes it little, where it doubles the time on the wall.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks.quality import WORSE, Pair, read_pairs, scores
from bpr import __version__
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.host import HostImage, HostRunner
from bpr.pipeline.instance import (
    Float32Array,
    Instance,
    Mask,
    Prediction,
    UInt8Array,
    differing_pixels,
)
from bpr.pipeline.plan import Plan
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.patch_stream import PatchStream, StreamSettings, find_labelled_images
from bpr.refiner.checkpoints import LoadedModel, load_model
from bpr.refiner.export import INPUT, OUTPUT, export_onnx
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.openvino_model import convert
from bpr.refiner.openvino_predictor import OpenVINOPredictor, has_bfloat16

CALIBRATION_BATCHES = 16
CALIBRATION_BATCH_SIZE = 8  # patches
TIMED_PATCHES = 64
ROUNDS = 7
KINDS = ("maskhead", "polygon")  # of coarse masks


class OnnxPredictor:
    """An ONNX model as a predictor."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        self.input_size: int = self._session.get_inputs()[0].shape[1]

    def __call__(self, patches: UInt8Array) -> Float32Array:
        return np.asarray(self._session.run([OUTPUT], {INPUT: patches})[0], np.float32)


def calibration_batches(train: Path, input_size: int) -> Iterator[UInt8Array]:
    """Patches as the network meets them in training, the same every time."""
    images = find_labelled_images(train / "images", train / "masks")
    stream = PatchStream(images, StreamSettings(input_size, CALIBRATION_BATCH_SIZE))
    for number in range(CALIBRATION_BATCHES):
        yield stream.batch(number)[0]


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Batches as ONNX Runtime takes them."""

    def __init__(self, batches: Sequence[UInt8Array]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, UInt8Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@dataclass(frozen=True, eq=False)
class Row:
    """One way to compute the network."""

    name: str
    base: str  # name of the row that its time is compared with
    predictor: MaskPredictor


def make_rows(model: LoadedModel, train: Path, work: Path) -> Iterator[Row]:
    """All rows, float32 first; what this machine cannot do is said and left out."""
    side = model.config.input_size
    batches = list(calibration_batches(train, side))
    yield from _openvino_rows(model, batches)
    base = "float32, ONNX Runtime"
    path, small = work / "float32.onnx", work / "int8.onnx"
    path.write_bytes(export_onnx(model, f"bpr {__version__}"))
    yield Row(base, base, OnnxPredictor(path))
    quantize_static(
        path,
        small,
        Calibration(batches),
        QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    yield Row("int8, ONNX Runtime", base, OnnxPredictor(small))


def _openvino_rows(model: LoadedModel, batches: Sequence[UInt8Array]) -> Iterator[Row]:
    side = model.config.input_size
    converted = convert(model.network, side)
    yield Row("float32", "float32", OpenVINOPredictor(converted, side, 1))
    if has_bfloat16():
        predictor = OpenVINOPredictor(converted, side, 1, bfloat16=True)
        yield Row("bfloat16", "float32", predictor)
    else:
        print("bfloat16: left out, this CPU does not compute in it", file=sys.stderr)
    if importlib.util.find_spec("nncf") is not None:
        yield Row("int8", "float32", OpenVINOPredictor(_int8(converted, batches), side, 1))
    else:
        print("int8 in OpenVINO: left out, pip install nncf", file=sys.stderr)


def _int8(converted: Any, batches: Sequence[UInt8Array]) -> Any:
    """An openvino.Model with int8 convolutions."""
    # like openvino, NNCF would report to its makers
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import nncf
    finally:
        del sys.modules["openvino_telemetry"]
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(converted.clone(), nncf.Dataset(batches), subset_size=len(batches))


def relative_times(rows: Sequence[Row], patches: UInt8Array) -> Mapping[str, float]:
    """Processor time of each row by that of its base."""
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for number in range(ROUNDS + 1):
        for row in rows:
            started = time.process_time()
            row.predictor(patches)
            if number:  # the first round warms up
                seconds[row.name].append(time.process_time() - started)
    for name in sorted({row.base for row in rows}):
        milliseconds = 1e3 * np.median(seconds[name]) / len(patches)
        print(
            f"{name}: {milliseconds:.1f} ms of processor time a patch ({len(patches)} patches, "
            f"{ROUNDS} rounds)"
        )
    return {
        row.name: float(np.median(np.divide(seconds[row.name], seconds[row.base]))) for row in rows
    }


def first_patches(plans: Sequence[Plan], input_size: int) -> UInt8Array:
    """TIMED_PATCHES of the plans, or all where there are fewer."""
    patches = np.empty((TIMED_PATCHES, input_size, input_size, 4), np.uint8)
    filled = 0
    for planned in plans:
        pieces = HostImage(planned, input_size).cut(patches[filled:])
        filled += sum(piece.stop - piece.start for piece in pieces)
    return patches[:filled]


def make_plans(pairs: Sequence[Pair], settings: PatchSettings) -> list[Plan]:
    """One plan for each mask."""
    return [
        plan(
            read_image(pair.image).pixels,
            Prediction(pair.mask.size, (Instance(mask=pair.mask, label=0, score=1.0),)),
            settings,
        )
        for pair in pairs
    ]


def refined(plans: Sequence[Plan], predictor: MaskPredictor) -> list[Mask]:
    """The one refined mask of each plan."""
    return [merge(answer).instances[0].mask for answer in predict(plans, HostRunner(predictor))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train/, val/, val_predictions/")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each n-th mask")
    arguments = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer gives advice
    data, every = arguments.data, arguments.every
    model = load_model(arguments.weights)
    settings = PatchSettings.of_weights(model.config)
    pairs = {
        kind: list(read_pairs(data / "val_predictions" / kind, data / "val"))[::every]
        for kind in KINDS
    }
    plans = {kind: make_plans(pairs[kind], settings) for kind in KINDS}
    with tempfile.TemporaryDirectory() as work:
        rows = list(make_rows(model, data / "train", Path(work)))
    print(
        f"{model.name}, sha256 {model.sha256[:8]}, input {model.config.input_size} px, "
        f"{sum(len(found) for found in pairs.values())} masks, "
        f"{sum(planned.num_patches for of_kind in plans.values() for planned in of_kind)} patches"
    )
    times = relative_times(rows, first_patches(plans[KINDS[0]], model.config.input_size))
    print(f"{'':32}{'bIoU':>8}{'F@1':>8}{'worse':>8}{'differs':>10}{'time':>8}")
    for kind in KINDS:
        coarse = np.array([scores(pair) for pair in pairs[kind]])
        means = 100 * coarse.mean(axis=0)
        print(f"{kind + ', coarse':32}{means[0]:8.2f}{means[1]:8.2f}")
        exact: list[Mask] = []
        for row in rows:
            masks = refined(plans[kind], row.predictor)
            exact = exact or masks
            after = np.array(
                [
                    scores(replace(pair, mask=mask))
                    for pair, mask in zip(pairs[kind], masks, strict=True)
                ]
            )
            differs = sum(differing_pixels(a, b) for a, b in zip(masks, exact, strict=True))
            pixels = sum(mask.bitmap.size for mask in exact)
            print(
                f"{kind + ', ' + row.name:32}{100 * after[:, 0].mean():8.2f}"
                f"{100 * after[:, 1].mean():8.2f}"
                f"{100 * (after[:, 0] < coarse[:, 0] - WORSE).mean():6.1f} %"
                f"{100 * differs / pixels:8.3f} %"
                f"{times[row.name]:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
