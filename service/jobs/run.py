"""The process that works on one job: python -m bpr.service.jobs.run FOLDER

It does what `bpr refine` does, at a low priority, and says how far it is on its standard output,
a json line each second. It ends when its standard input does: with the service that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bpr import __version__
from bpr._extras import needs_extra
from bpr.pipeline.batch.engine import InThisProcess, RefineEngine
from bpr.pipeline.batch.run_batch import BatchProgress, run_batch
from bpr.pipeline.files import find_files
from bpr.pipeline.network import load_network, load_runner
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.weights_info import read_weights_info
from bpr.service.jobs.prepare import prepare
from bpr.service.jobs.spec import INPUT, OUTPUT, PARTS, RESULT, SPEC, JobSpec
from bpr.service.jobs.unpack import remove_folder

NICENESS = 5  # requests to the service go first
TELL_S = 1.0
REFUSED = 2  # exit status: the job cannot be done, and the last line says why
ORPHANED = 3
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same results give the same bytes


class JobProgress:
    """Progress of a job, reported to the service each second and at the end."""

    def __init__(self) -> None:
        self._said: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._started = time.monotonic()
        threading.Thread(target=self._repeat, daemon=True).start()

    def show(self, progress: BatchProgress) -> None:
        """Note how far a run is."""
        undone = progress.total - progress.finished
        elapsed = time.monotonic() - self._started
        left = elapsed / progress.done * undone if progress.done else None
        self._said = {
            "images": progress.total,
            "images_done": progress.done + progress.already_done,
            "images_failed": len(progress.failures),
            "seconds_left": None if left is None else round(left, 1),
        }

    def begin(self) -> None:
        """Time runs from here on: files are there and weights are loaded."""
        self._started = time.monotonic()

    def say(self, **more: Any) -> None:
        """Write a line."""
        with self._lock:
            print(json.dumps({**self._said, **more}), flush=True)

    def _repeat(self) -> None:
        while True:
            time.sleep(TELL_S)
            self.say()


def main(folder: Path) -> int:
    """Do the job in a folder: 0 done, 2 refused."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    with contextlib.suppress(AttributeError, OSError):  # Windows has no such call
        os.nice(NICENESS)
    progress = JobProgress()
    try:
        if not Path(RESULT).exists():
            spec = JobSpec.model_validate_json(Path(SPEC).read_bytes())
            url = _refine(spec, progress)
            progress.say(**({} if url is None else {"result_url": url}))
            if url is None:
                _pack()
    except (ValueError, OSError) as error:
        progress.say(error=" ".join(str(error).split()).replace(f"{folder}/", ""))
        return REFUSED
    for name in (INPUT, OUTPUT, PARTS):
        remove_folder(Path(name))
    progress.say()
    return 0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not buffered: that takes a lock at the end
        pass
    os._exit(ORPHANED)


def _refine(spec: JobSpec, progress: JobProgress) -> str | None:
    prepared = prepare(spec)
    with _engine(spec) as (engine, config, name, sha256):
        progress.begin()
        progress.show(BatchProgress(total=len(prepared.job.keys())))
        about = {"bpr": __version__, "weights": name, "weights_sha256": sha256}
        settings = spec.patch_settings(config.patch_size, config.padding)
        progress.show(run_batch(prepared.job, engine, settings, about, on_progress=progress.show))
    return prepared.result_url


@contextlib.contextmanager
def _engine(spec: JobSpec) -> Iterator[tuple[RefineEngine, ModelConfig, str, str]]:
    """Who refines, with which weights: this process, or the cluster that the service runs on."""
    wanted = (spec.weights, spec.device, spec.backend, spec.compat)
    if spec.ray_address is None:
        network = load_network(*wanted)
        size = max(spec.batch_size, network.batch_size)
        engine: RefineEngine = InThisProcess(network.runner(size))
        yield engine, network.config, network.name, network.weights_sha256
        return
    weights = read_weights_info(spec.weights)
    with needs_extra("jobs on Ray"):
        from bpr.pipeline.distributed import open_cluster
    with open_cluster(None, spec.ray_address) as cluster:
        load = partial(load_runner, *wanted, spec.batch_size)
        engine = cluster.refiner(load, weights.config.input_size, spec.device)
        yield engine, weights.config, weights.name, weights.sha256


def _pack() -> None:
    """Put what was written, without the journal, into one archive."""
    out = Path(OUTPUT)
    here = f"{Path.cwd().resolve()}/"
    partial_file = Path(f"{RESULT}.partial")
    with zipfile.ZipFile(partial_file, "w", zipfile.ZIP_STORED) as archive:
        for path in find_files(out):
            member = zipfile.ZipInfo(path.relative_to(out).as_posix(), _EPOCH)
            if path.name.endswith("report.json"):  # it names the folder of this machine
                archive.writestr(member, path.read_text(encoding="utf-8").replace(here, ""))
                continue
            with archive.open(member, "w", force_zip64=True) as target, path.open("rb") as source:
                while piece := source.read(2**20):
                    target.write(piece)
    os.replace(partial_file, RESULT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
