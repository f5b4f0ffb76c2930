"""Jobs of the client: `Client.jobs`."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bpr.service.client_files import open_file_or_folder
from bpr.service.client_http import Connection, as_error

_POLL_S = 1.0


class JobFailed(Exception):
    """A job could not be done; the message says why."""


class Job:
    """A job of a service.

    Args:
        connection: to the service.
        job_id: what the service calls it.
    """

    def __init__(self, connection: Connection, job_id: str) -> None:
        self.id = job_id
        self._connection = connection

    def state(self) -> Mapping[str, Any]:
        """How far it is: the json of GET /jobs/{id}.

        Raises:
            ServiceError: there is no such job.
            httpx.TransportError: there is no such service.
        """
        http = self._connection.http
        answer = self._connection.until_taken(lambda: http.get(f"/jobs/{self.id}"))
        state: Mapping[str, Any] = answer.json()
        return state

    def wait(
        self, on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None
    ) -> Mapping[str, Any]:
        """Wait until it is done.

        Args:
            on_progress: called each second with what `state` gives.

        Returns:
            The last state.

        Raises:
            JobFailed: it cannot be done.
            ServiceError: it was deleted.
        """
        while True:
            state = self.state()
            on_progress(state)
            if state["status"] == "failed":
                raise JobFailed(state["detail"])
            if state["status"] == "done":
                return state
            time.sleep(_POLL_S)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the refined files, as `bpr refine` does, into a folder; returns their paths.

        Raises:
            ServiceError: it is not done, or its files are in an object store.
        """
        folder = Path(folder)
        with tempfile.TemporaryFile() as packed:
            with self._connection.http.stream("GET", f"/jobs/{self.id}/result") as answer:
                if not answer.is_success:
                    raise as_error(answer)
                for piece in answer.iter_bytes():
                    packed.write(piece)
            with zipfile.ZipFile(packed) as archive:
                return [Path(archive.extract(name, folder)) for name in archive.namelist()]

    def delete(self) -> None:
        """Cancel it, or delete its result.

        Raises:
            ServiceError: there is no such job.
        """
        http = self._connection.http
        self._connection.until_taken(lambda: http.delete(f"/jobs/{self.id}"))


class Jobs:
    """Work that is too large for one request.

    Args:
        connection: to the service.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(
        self,
        predictions: str | Path,
        images: str | Path | Sequence[str | Path] = (),
        *,
        images_json: str | Path | None = None,
        format: str | None = None,
    ) -> Job:
        """Send masks of many images with the images, as `bpr refine` takes them.

        Args:
            predictions: a folder, a zip archive or a COCO json.
            images: a folder, a zip archive, or image files; none where they lie with the masks.
            images_json: a COCO json with the file name of each image id.
            format: what the masks are (`bpr refine --format`); None: told by what is there.

        Raises:
            ServiceError: the service refuses, or is busy for longer than `max_wait_s`.
            httpx.TransportError: there is no such service.
        """
        several = [images] if isinstance(images, (str, Path)) else list(images)
        named = [("predictions", predictions), *(("images", image) for image in several)]
        if images_json is not None:
            named.append(("images_json", images_json))
        with ExitStack() as stack:
            files = []
            for name, path in named:
                file_name, content = open_file_or_folder(path)
                files.append((name, (file_name, stack.enter_context(content))))

            def post() -> Any:
                for _, (_, content) in files:
                    content.seek(0)  # an earlier try has read it
                params = {} if format is None else {"format": format}
                return self._connection.http.post("/jobs", files=files, params=params)

            return self._taken(post)

    def send_places(
        self,
        predictions: str,
        images: str | None = None,
        *,
        images_json: str | None = None,
        out: str | None = None,
    ) -> Job:
        """Name files that lie in a store which the service may read (its setting `job_stores`).

        Args:
            predictions: s3://bucket/results.json for instance.
            images: a folder there.
            images_json: a COCO json there.
            out: where the refined files go; None: they are fetched with `Job.save`.

        Raises:
            ServiceError: as `send`.
            httpx.TransportError: there is no such service.
        """
        named = {
            "predictions": predictions, "images": images, "images_json": images_json, "out": out,
        }  # fmt: skip
        body = {name: place for name, place in named.items() if place is not None}
        return self._taken(lambda: self._connection.http.post("/jobs", json=body))

    def get(self, job_id: str) -> Job:
        """A job that was sent before. Whether there is one, `Job.state` tells."""
        return Job(self._connection, job_id)

    def _taken(self, post: Callable[[], Any]) -> Job:
        return Job(self._connection, self._connection.until_taken(post).json()["id"])
