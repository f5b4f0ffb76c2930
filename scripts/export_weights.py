"""Export weights for other runtimes; the files hold all that is needed to run them.

bpr export-weights hrnet18s hrnet18s.onnx --format onnx
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bpr import __version__
from bpr._paths import is_local
from bpr.pipeline.files import write_atomically
from bpr.refiner.checkpoints import load_model
from bpr.refiner.export import INPUT, OUTPUT, export_onnx, export_openvino
from bpr.scripts.options import parse_path

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr export-weights`."""
    parser.add_argument("weights", metavar="W", help="name of shipped weights, or a path")
    parser.add_argument(
        "out", type=parse_path, metavar="OUT", help="file to write: .onnx, or .xml beside its .bin"
    )
    parser.add_argument("--format", choices=list(SUFFIXES), required=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the model and say how to call it."""
    out: Path = arguments.out
    suffix = SUFFIXES[arguments.format]
    if out.suffix != suffix:
        raise ValueError(f"{out}: expected a name that ends with {suffix} for {arguments.format}")
    model = load_model(arguments.weights)
    version = f"bpr {__version__}"
    if arguments.format == "onnx":
        write_atomically(out, export_onnx(model, version))
    else:
        _write_pair(out, *export_openvino(model, version))
    side, channels = model.config.input_size, model.config.channels
    meaning = "R, G, B and coarse mask 0 or 1"
    if channels > 4:
        meaning += ", then evidence of colours and the scale"
    print(
        f"{out}: {model.config.architecture}; {INPUT} (N, {side}, {side}, {channels}) uint8, "
        f"{meaning} -> {OUTPUT} (N, {side}, {side}) float32, object if > 0"
    )
    print(f"licence: {model.config.licence}")
    return 0


def _write_pair(out: Path, graph: bytes, constants: bytes) -> None:
    """Write an .xml and its .bin, so that no .xml ever lies beside another model's .bin."""
    if not is_local(out):
        write_atomically(out.with_suffix(".bin"), constants)
        write_atomically(out, graph)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=out.parent) as folder:
        ready = Path(folder) / out.name
        # a full disk shows here, while an older pair is still whole
        write_atomically(ready, graph)
        write_atomically(ready.with_suffix(".bin"), constants)
        out.unlink(missing_ok=True)
        ready.with_suffix(".bin").replace(out.with_suffix(".bin"))
        ready.replace(out)
