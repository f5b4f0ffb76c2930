"""The extraction: plan the shards, have them done, and say what came of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.extraction.settings import FOLDERS, ExtractionSettings
from bpr.pipeline.extraction.shard import (
    FailedImage,
    Shard,
    ShardResult,
    extract_shard,
    read_note,
    software,
)
from bpr.pipeline.extraction.source import Source
from bpr.pipeline.files import claimed, read_if_there, write_atomically

FORMAT = 1  # of the dataset; grows when readers must change
SIMULATED_INSTANCES = 10_000  # numbers that an image takes where nobody counted its objects

ExtractEngine = Callable[[Iterable[Shard]], Iterator[ShardResult]]
"""Has shards done, in any order."""


@dataclass(frozen=True, kw_only=True)
class ExtractProgress:
    """How far an extraction is."""

    total: int  # images
    extracted: int = 0  # by this run
    already_done: int = 0
    failures: tuple[FailedImage, ...] = ()
    patches: int = 0  # of all finished shards
    new_patches: int = 0  # of this run

    @property
    def finished(self) -> int:
        """Images that need no more work."""
        return self.extracted + self.already_done + len(self.failures)


@dataclass(frozen=True, eq=False)
class Extraction:
    """What is to be extracted, and where to."""

    source: Source
    settings: ExtractionSettings
    out: AnyPath
    inputs: Mapping[str, str] = field(default_factory=dict)  # where the source lies, for the record

    @property
    def work(self) -> AnyPath:
        """For temporary files and notes."""
        return self.out / ".bpr" / self.settings.split

    @property
    def manifest(self) -> AnyPath:
        """Lists the dataset: it is complete when this is there."""
        return self.out / manifest_name(self.settings.split)

    @property
    def report(self) -> AnyPath:
        """How the last run went."""
        return self.out / f"report-{self.settings.split}.json"


def manifest_name(split: str) -> str:
    """File name of the manifest of a split."""
    return f"manifest-{split}.json"


def one_after_another(shards: Iterable[Shard]) -> Iterator[ShardResult]:
    """The engine of a single process."""
    return map(extract_shard, shards)


def extract(
    extraction: Extraction,
    engine: ExtractEngine = one_after_another,
    overwrite: bool = False,
    on_progress: Callable[[ExtractProgress], None] = lambda _: None,
) -> ExtractProgress:
    """Make a patch dataset.

    Shards are a function of the sorted images and the settings; each is written under a
    temporary name, renamed, and noted. A rerun verifies what is noted and does the rest, so the
    files are the same whatever engine runs, in whatever order, after whatever kill.

    Args:
        extraction: what to do.
        engine: who does the shards.
        overwrite: remove what earlier runs of the split wrote, and begin anew.
        on_progress: called after every shard.

    Raises:
        ValueError: the output belongs to a run with another set-up, or to something else.
        OSError: the output cannot be written.
    """
    started = time.perf_counter()
    keys = extraction.source.keys()
    if not keys:
        raise ValueError("ground truth: expected images that there are predictions for, got none")
    setup = _setup(extraction, keys)
    with claimed(extraction.work / "lock", str(extraction.work)):
        _begin(extraction, setup, overwrite)
        strays = tuple(
            FailedImage(key, "expected ground truth for its predictions, found none")
            for key in extraction.source.strays()
        )
        progress = ExtractProgress(total=len(keys) + len(strays), failures=strays)
        results: dict[int, ShardResult] = {}
        for result in engine(_shards(extraction, keys, _digest(setup))):
            results[result.shard] = result
            progress = _add(progress, result)
            on_progress(progress)
        in_order = [results[number] for number in sorted(results)]
        failures = strays + tuple(failure for one in in_order for failure in one.failures)
        progress = replace(progress, failures=failures)
        manifest = _manifest(extraction, in_order, strays)
        write_atomically(extraction.manifest, _json(manifest), extraction.work)
        report = _report(setup, progress, in_order, time.perf_counter() - started)
        write_atomically(extraction.report, _json(report), extraction.work)
        _sweep(extraction)  # again: workers of a killed driver live a little longer than it
    return progress


def _setup(extraction: Extraction, keys: list[str]) -> dict[str, Any]:
    listed = hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape")).hexdigest()
    return {
        "inputs": dict(extraction.inputs),
        "settings": asdict(extraction.settings),
        "class_agnostic": extraction.source.class_agnostic,
        "software": software(),
        "images": f"{len(keys)} ({listed[:12]})",
    }


def _begin(extraction: Extraction, setup: Mapping[str, Any], overwrite: bool) -> None:
    """Check that the output is ours to continue; note how this run is set up."""
    path = extraction.work / "run.json"
    content = read_if_there(path)
    found = json.loads(content) if content else None
    if overwrite:
        _forget(extraction)
    elif found is not None and found != setup:
        changes = "; ".join(
            f"{name} was {found.get(name)}, is {setup.get(name)}"
            for name in sorted({*found, *setup})
            if found.get(name) != setup.get(name)
        )
        raise ValueError(
            f"{extraction.work}: belongs to a run with another set-up ({changes}); "
            "choose another place or add --overwrite"
        )
    elif found is None and (existing := _existing(extraction)) is not None:
        raise ValueError(
            f"{existing}: exists, but not from a run that can be continued; choose another place"
        )
    _sweep(extraction)
    write_atomically(path, _json(setup), extraction.work)


def _sweep(extraction: Extraction) -> None:
    """Remove what killed processes left half-written under temporary names."""
    for torn in extraction.work.glob("*.partial"):
        torn.unlink(missing_ok=True)


def _forget(extraction: Extraction) -> None:
    """Remove what earlier runs wrote: a smaller dataset must not keep shards of a larger one."""
    for file in (extraction.manifest, extraction.work / "run.json"):
        file.unlink(missing_ok=True)
    for note in extraction.work.glob(f"{extraction.settings.split}-*.json"):
        result = read_note(note)
        for name in result.files if result is not None else ():
            (extraction.out / name).unlink(missing_ok=True)
        note.unlink()


def _existing(extraction: Extraction) -> AnyPath | None:
    """A file that a run would write over or among."""
    split = extraction.settings.split
    if extraction.settings.layout == FOLDERS:
        folders = [
            extraction.out / part / split
            for part in ("img_dir", "mask_dir", "ann_dir", "detail_dir")
        ]
        there = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
        return next(there, None)
    if extraction.manifest.exists():
        return extraction.manifest
    return next(iter(sorted(extraction.out.glob(f"{split}-*.tar"))), None)


def _shards(extraction: Extraction, keys: list[str], setup: str) -> Iterator[Shard]:
    """The plan: the same shards for the same images and settings, whoever does them."""
    source, settings = extraction.source, extraction.settings
    versions, first_instance = software(), 0
    for number, start in enumerate(range(0, len(keys), settings.images_per_shard)):
        chosen = keys[start : start + settings.images_per_shard]
        first_instances = []
        for position, key in enumerate(chosen, start):
            if settings.layout == FOLDERS:
                count = source.count(key)
                if source.predictions is None:
                    first_instance, count = position * SIMULATED_INSTANCES, 0
                first_instances.append(first_instance)
                first_instance += count or 0
            else:
                first_instances.append(0)
        yield Shard(
            number=number,
            first_image=start,
            keys=tuple(chosen),
            first_instances=tuple(first_instances),
            source=source.part(chosen),
            settings=settings,
            setup=setup,
            software=versions,
            out=extraction.out,
            work=extraction.work,
        )


def _add(progress: ExtractProgress, result: ShardResult) -> ExtractProgress:
    done = "already_done" if result.already_done else "extracted"
    return replace(
        progress,
        **{done: getattr(progress, done) + result.images},
        failures=(*progress.failures, *result.failures),
        patches=progress.patches + result.patches,
        new_patches=progress.new_patches + (0 if result.already_done else result.patches),
    )


def _manifest(
    extraction: Extraction, results: list[ShardResult], strays: tuple[FailedImage, ...]
) -> dict[str, Any]:
    """What the dataset is and holds; nothing in it depends on the run or the place."""
    settings = asdict(extraction.settings)
    failures = [asdict(failure) for one in results for failure in one.failures]
    return {
        "format": FORMAT,
        "layout": settings.pop("layout"),
        "split": settings.pop("split"),
        "coarse_masks": "simulated" if extraction.source.predictions is None else "predictions",
        "settings": settings,
        "class_agnostic": extraction.source.class_agnostic,
        "categories": {str(k): name for k, name in sorted(extraction.source.categories().items())},
        "software": software(),
        **_totals(results),
        "failures": [asdict(stray) for stray in strays] + failures,
        "shards": [_entry(result) for result in results],
    }


def _totals(results: Iterable[ShardResult]) -> dict[str, int]:
    results = list(results)
    names = ("images", "instances", "left_out", "patches", "bytes")
    return {name: sum(getattr(result, name) for result in results) for name in names}


def _entry(result: ShardResult) -> dict[str, Any]:
    """A shard in the manifest: each file with its digest, or one digest of thousands."""
    entry = {"shard": result.shard, **_totals([result]), "num_files": len(result.files)}
    if len(result.files) <= 2:
        return {**entry, "files": dict(result.files)}
    # as `sha256sum` prints them, sorted by name
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(result.files.items()))
    return {**entry, "sha256_of_sha256sums": hashlib.sha256(lines.encode()).hexdigest()}


def _report(
    setup: Mapping[str, Any], progress: ExtractProgress, results: list[ShardResult], elapsed: float
) -> dict[str, Any]:
    return {
        **setup,
        "image_counts": {
            "total": progress.total,
            "extracted": progress.extracted,
            "already_done": progress.already_done,
            "failed": len(progress.failures),
        },
        **_totals(results),
        "elapsed_s": round(elapsed, 3),
        "images_per_s": round(progress.extracted / elapsed, 3),
        "patches_per_s": round(progress.new_patches / elapsed, 3),
        "failures": [asdict(failure) for failure in progress.failures],
    }


def _digest(setup: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(setup)).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
