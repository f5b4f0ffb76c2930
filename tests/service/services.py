"""Services that run: in this process for speed, or as `bpr serve` for what processes do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bpr.pipeline.detection import InstanceDetector
from bpr.pipeline.network import network_of
from bpr.refiner.predictor import LoadedPredictor
from bpr.service.app import Networks, create_app
from bpr.service.server import DrainingServer, listen
from bpr.service.settings import ServiceSettings
from bpr.service.tracing import Tracing

ROOT = Path(__file__).parents[2]
START_S = 240  # torch takes its time to load on a busy machine


class Service:
    """A service under test, and a client of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60)

    def refine(self, parts, accept="application/json", **options):
        """POST /refine with a list of (name, (file name, content[, type])) parts."""
        return self.client.post("/refine", files=parts, headers={"Accept": accept}, **options)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics, 0 where it is not there yet."""
        for row in self.client.get("/metrics").text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def wait_until_ready(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, "the service did not get ready"
            time.sleep(0.02)


@contextmanager
def running(
    predictor: LoadedPredictor,
    wait: bool = True,
    detector: InstanceDetector | None = None,
    loaded: threading.Event | None = None,
    tracing: Tracing | None = None,
    **settings,
) -> Iterator[Service]:
    """The app behind a real uvicorn in a thread of this process; ready, unless not waited for.

    Where `loaded` is given, loading takes until it is set.
    """

    def load() -> Networks:
        assert loaded is None or loaded.wait(60)
        return Networks(network_of(predictor), detector)

    named = {} if detector is None else {"detector": detector.name}
    chosen = ServiceSettings(**named, **settings)
    listener = listen("127.0.0.1", 0)
    server = DrainingServer(create_app(chosen, load, tracing), chosen)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    service = Service(f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        if wait:
            service.wait_until_ready()
        yield service
    finally:
        service.client.close()
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


class Process(Service):
    """`bpr serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen, url: str, said: list[str]) -> None:
        super().__init__(url)
        self.process, self.said = process, said

    def logged(self) -> list[dict]:
        """The structured lines of its log so far."""
        return [json.loads(line) for line in self.said if line.startswith("{")]


@contextmanager
def bpr_serve(*arguments: str, **variables: str) -> Iterator[Process]:
    """Start `bpr serve` on a free port and wait until it is ready."""
    command = [sys.executable, "-m", "bpr", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    said: list[str] = []
    listening = threading.Event()

    def read() -> None:
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            if '"listening"' in line:
                listening.set()
        listening.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert listening.wait(START_S), said
        assert process.poll() is None, said
        url = next(json.loads(line)["url"] for line in said if '"listening"' in line)
        service = Process(process, url, said)
        with service.client:
            service.wait_until_ready()
            yield service
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
        reader.join()
        process.stderr.close()


def until(condition, seconds=20.0):
    """Wait for something that comes soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def connected(
    service: Service, source: str = "127.0.0.1", window: int | None = None
) -> Iterator[socket.socket]:
    """A bare connection to a service, from any address of this machine (127.0.0.2, ...).

    `window` is how many bytes the kernel takes of what nobody has read.
    """
    where = httpx.URL(service.url)
    with socket.socket() as connection:
        connection.settimeout(60)
        if window is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.bind((source, 0))
        connection.connect((where.host, where.port))
        yield connection


def request_bytes(parts, path: str = "/refine") -> bytes:
    """A good POST with files, as bytes."""
    request = httpx.Request("POST", f"http://service{path}", files=parts)
    body = request.read()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: {request.headers['content-type']}\r\n\r\n"
    )
    return head.encode() + body


def read_all(connection: socket.socket) -> bytes:
    """What comes until the connection ends, in good order or not."""
    said = b""
    try:
        while piece := connection.recv(65536):
            said += piece
    except ConnectionError:
        pass
    return said
