"""Several jobs as one: the splits of a data set, each with a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from copy import copy
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Job, Loaded
from bpr.pipeline.batch.journal import AnyJournal, Entry
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.instance import Prediction


class JobsTogether:
    """Does what several jobs do; a key is the name of a job, a slash, and its own key.

    Args:
        source: the folder of all inputs.
        jobs: by name; they write below `out`.
        out: folder of all outputs.

    Raises:
        ValueError: the output is a file, or the input.
    """

    def __init__(self, source: AnyPath, jobs: Mapping[str, Job], out: AnyPath) -> None:
        if out.resolve() == source.resolve():
            raise ValueError(f"{out}: expected another folder than the input {source}")
        folder = OutputFolder(out)
        self.source, self.work, self.report = source, folder.work, folder.report
        self._jobs = dict(jobs)
        own = ((name, key) for name, job in jobs.items() for key in list(job.keys()))
        self._keys = {f"{name}/{key}": (name, key) for name, key in own}

    @property
    def remarks(self) -> Sequence[str]:
        """Those of all jobs, each once."""
        return list(dict.fromkeys(text for job in self._jobs.values() for text in job.remarks))

    def keys(self) -> Sequence[str]:
        """Those of all jobs."""
        return list(self._keys)

    def part(self, key: str) -> JobsTogether:
        """The job with one image."""
        part = copy(self)
        name, own = self._keys[key]
        part._jobs, part._keys = {name: self._jobs[name].part(own)}, {key: (name, own)}
        return part

    def stamp(self, key: str) -> str:
        """As the image's job says."""
        job, own = self._of(key)
        return job.stamp(own)

    def read(self, key: str) -> Loaded:
        """As the image's job does."""
        job, own = self._of(key)
        return job.read(own)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """As the image's job does, and the name of it."""
        job, own = self._of(key)
        job.work.mkdir(parents=True, exist_ok=True)
        return {"job": self._keys[key][0], **job.write(own, source, prediction)}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """As the image's job says."""
        return entry.get("job") in self._jobs and self._jobs[entry["job"]].is_written(entry)

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """As the image's job says."""
        return entry.get("job") in self._jobs and self._jobs[entry["job"]].leaves_files(entry)

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Finish each job."""
        for name, job in self._jobs.items():
            job.work.mkdir(parents=True, exist_ok=True)
            own = {key for of, key in (self._keys[key] for key in failed) if of == name}
            job.finish(_Part(journal, f"{name}/"), own)  # type: ignore[arg-type]

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        found = (job.existing_output() for job in self._jobs.values())
        return next((path for path in found if path is not None), None)

    def _of(self, key: str) -> tuple[Job, str]:
        name, own = self._keys[key]
        return self._jobs[name], own


class _Part:
    """The entries of one job in the journal of all."""

    def __init__(self, journal: AnyJournal, prefix: str) -> None:
        self._journal, self._prefix = journal, prefix

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._journal

    def __iter__(self) -> Iterator[str]:
        own = (key for key in self._journal if key.startswith(self._prefix))
        return (key.removeprefix(self._prefix) for key in own)

    def read(self, key: str) -> Entry:
        """The last entry of a key."""
        return self._journal.read(self._prefix + key)
