"""Requests as nobody should send them: good ones, mutated; the same for the same seed."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import httpx

BOUNDARY = b"frontier-7f3a"
LINGER_S = 15.0


@dataclass
class Request:
    """What goes over the wire, and how."""

    parts: list[tuple[str, str | None, bytes]]  # name, file name (None: text), content
    headers: dict[str, str]
    method: str = "POST"
    path: str = "/refine"
    body: bytes | None = None  # instead of the parts
    length: int | None = None  # instead of the true Content-Length
    is_chunked: bool = False
    cut: float | None = None  # share of the bytes after which the client hangs up
    pause: float = 0.0  # in the middle

    def to_bytes(self) -> bytes:
        body = b"".join(_part(*part) for part in self.parts) + b"--" + BOUNDARY + b"--\r\n"
        body = body if self.body is None else self.body
        headers = {
            "Host": "service",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
            "Connection": "close",
            **self.headers,
        }
        if self.is_chunked:
            headers["Transfer-Encoding"] = "chunked"
            pieces = [body[k : k + 5000] for k in range(0, len(body), 5000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\n\r\n"
        else:
            headers["Content-Length"] = str(len(body) if self.length is None else self.length)
        head = f"{self.method} {self.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return head.encode("latin-1", "replace") + b"\r\n" + body


def _part(name: str, file_name: str | None, content: bytes) -> bytes:
    head = f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"'
    if file_name is not None:
        head += f'; filename="{file_name}"\r\nContent-Type: application/octet-stream'
    return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content + b"\r\n"


def good(parts) -> Request:
    """A request as httpx would send the parts of a Scene."""
    return Request([(name, file[0], file[1]) for name, file in parts], {})


def send(url: str, request: Request) -> int | None:
    """Send a request as it is; the status of the answer, None where there is none."""
    content = request.to_bytes()
    where = httpx.URL(url)
    try:
        with socket.create_connection((where.host, where.port), timeout=60) as connection:
            end = len(content) if request.cut is None else int(len(content) * request.cut)
            half = end // 2
            connection.sendall(content[:half])
            if request.pause:
                time.sleep(request.pause)
            connection.sendall(content[half:end])
            if request.cut is not None and request.length is None:
                return None  # hang up
            connection.settimeout(LINGER_S)
            said = b""
            while piece := connection.recv(65536):
                said += piece
    except (ConnectionError, TimeoutError):
        return None
    said = said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    words = said.split(b" ", 2)
    return int(words[1]) if said.startswith(b"HTTP/1.1 ") else None


def mutate(rng: random.Random, seeds: list[Request]) -> Request:
    """A good request with one to three things wrong."""
    seed = rng.choice(seeds)
    request = Request(list(seed.parts), dict(seed.headers))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(MUTATIONS)(rng, request)
    return request


def _change_content(rng: random.Random, request: Request, change: Callable) -> None:
    if request.parts:
        index = rng.randrange(len(request.parts))
        name, file_name, content = request.parts[index]
        request.parts[index] = (name, file_name, change(rng, content))


def _damage(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return rng.randbytes(rng.randrange(50))
    data = bytearray(content)
    kind = rng.randrange(5)
    at = rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.choice([1, 1, 5, 50])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.choice([1, 4, 100, 5000]))
    elif kind == 3:
        data[at:at] = data[at : at + rng.choice([1, 10, 1000])]
    else:
        data = bytearray(rng.randbytes(rng.choice([0, 1, 10, 1000])))
    return bytes(data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _lie_in_png(rng: random.Random, content: bytes) -> bytes:
    """Another header with a true checksum, or a chunk that unpacks to megabytes."""
    if content[:4] != b"\x89PNG" or len(content) < 33:
        return content
    if rng.random() < 0.6:
        sides = [0, 1, 59, 60, 61, 80, 500, 999, 5000, 30000, 2**31 - 1, 2**32 - 1]
        header = struct.pack(
            ">IIBBBBB", rng.choice(sides), rng.choice(sides), rng.choice([1, 2, 4, 8, 16, 3]),
            rng.choice([0, 2, 3, 4, 6, 1]), rng.choice([0, 0, 0, 1]), rng.choice([0, 0, 0, 1]),
            rng.choice([0, 0, 1, 2]),
        )  # fmt: skip
        return content[:8] + _chunk(b"IHDR", header) + content[33:]
    bomb = zlib.compress(b"\0" * rng.choice([10**5, 10**7, 5 * 10**7]))
    extra = rng.choice(
        [
            _chunk(b"zTXt", b"a\0\0" + bomb),
            _chunk(b"iCCP", b"a\0\0" + bomb),
            _chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
            _chunk(b"IDAT", bomb),
            _chunk(b"eXIf", rng.randbytes(200)),
            _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            _chunk(b"PLTE", rng.randbytes(rng.choice([3, 5, 3000]))),
            _chunk(b"tRNS", rng.randbytes(rng.choice([1, 2, 300]))),
        ]
    )
    return content[:33] + extra + content[33:]


_ODD_VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -1.5, 1e308, "", "0",
    "PPPPPPPP0", "\x00", "é\u2028", "a" * 10_000, [], {}, [[]], [[[[]]]], {"size": [60, 80]},
    [60, 80], [80, 60], [10**9, 10**9], [1, 2, 3], [4800], [0, 4800], [10**18] * 20,
    [[0, 0, 79, 0, 79, 59, 0, 59]], [[0, 0] * 3], [[1e9, 1e9] * 3], [[0, 0, 90, 70] * 2000],
    {"counts": "PP1", "size": [60, 80]}, {"counts": [2400] * 2, "size": [60, 80]},
]  # fmt: skip


def _change_json(rng: random.Random, request: Request) -> None:
    """Replace, remove or add values anywhere in `instances`."""
    for index, (name, file_name, content) in enumerate(request.parts):
        if name != "instances":
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return
        for _ in range(rng.choice([1, 1, 2, 4])):
            value = _replace_inside(rng, value)
        text = json.dumps(value)
        if rng.random() < 0.1:
            text = text.replace("0", rng.choice(["NaN", "Infinity", "1e999", "9" * 5000]), 1)
        if rng.random() < 0.03:
            depth = rng.choice([100, 1000, 100_000])
            text = "[" * depth + text + "]" * depth
        request.parts[index] = (name, file_name, text.encode())


def _replace_inside(rng: random.Random, value):
    if isinstance(value, list) and value and rng.random() < 0.8:
        copy, index = list(value), rng.randrange(len(value))
        copy[index] = _replace_inside(rng, copy[index])
        return copy * rng.choice([1, 1, 1, 1, 10])
    if isinstance(value, dict) and value and rng.random() < 0.8:
        copy, key = dict(value), rng.choice(list(value))
        if rng.random() < 0.15:
            del copy[key]
        elif rng.random() < 0.2:
            copy[rng.choice(["size", "counts", "score", "category_id", "image_id", "x"])] = (
                rng.choice(_ODD_VALUES)
            )
        else:
            copy[key] = _replace_inside(rng, copy[key])
        return copy
    if isinstance(value, str) and value and rng.random() < 0.6:
        text, at = list(value), rng.randrange(len(value))
        text[at : at + rng.randrange(3)] = rng.choice(["", "0", "o", "PP", "\x7f", "é"])
        return "".join(text)
    return rng.choice(_ODD_VALUES)


def _rearrange_parts(rng: random.Random, request: Request) -> None:
    kind = rng.randrange(6)
    if not request.parts:
        return
    index = rng.randrange(len(request.parts))
    name, file_name, content = request.parts[index]
    if kind == 0:
        del request.parts[index]
    elif kind == 1:
        request.parts += [request.parts[index]] * rng.choice([1, 2, 30, 200])
    elif kind == 2:
        names = [
            "image",
            "masks",
            "instance_map",
            "instances",
            "",
            "x",
            'a"b',
            "é\udc80",
            "a" * 9000,
        ]
        request.parts[index] = (rng.choice(names), file_name, content)
    elif kind == 3:
        files = [None, "", "../../x", "\x01\x02", "é\udcff", "a" * 5000, "x.zip", "x%00.png"]
        request.parts[index] = (name, rng.choice(files), content)
    elif kind == 4:
        other = rng.choice(request.parts)
        request.parts[index] = (name, file_name, other[2])
    else:
        rng.shuffle(request.parts)


def _spoil_headers(rng: random.Random, request: Request) -> None:
    odd = rng.choice(
        [
            ("Content-Type", "multipart/form-data"),
            ("Content-Type", "multipart/form-data; boundary="),
            ("Content-Type", "multipart/form-data; boundary=other"),
            ("Content-Type", f"multipart/form-data; boundary={'b' * 300}"),
            ("Content-Type", f"multipart/form-data; boundary={BOUNDARY.decode()}; charset=klingon"),
            ("Content-Type", "multipart/form-data; boundary=\xe9\xff"),
            ("Content-Type", "application/json"),
            ("Content-Type", ""),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Encoding", "gzip"),
            ("Accept", "image/png"),
            ("Accept", "application/zip"),
            ("Accept", "text/plain"),
            ("Accept", "a/b;q=x, */*;q=9,;,"),
            ("Accept", "*" * 5000),
            ("X-Request-ID", "\xe9" * 50),
            ("X-API-Key", "\xff\x80"),
            ("Authorization", "Bearer"),
            ("Expect", "100-continue"),
            ("Range", "bytes=0-1"),
            ("Origin", "null"),
            ("Upgrade", "websocket"),
            ("Content-Length", "-5"),
            ("Content-Length", "99999999999999999999999"),
            ("Content-Length", "abc"),
            ("X-Long", "a" * 70_000),
        ]
    )  # fmt: skip
    request.headers[odd[0]] = odd[1]


def _spoil_transport(rng: random.Random, request: Request) -> None:
    kind = rng.randrange(8)
    size = len(request.to_bytes())
    if kind == 0:
        request.cut = rng.random()
    elif kind == 1:
        request.is_chunked = True
    elif kind == 2:
        request.length = rng.choice([0, 1, size // 2])  # less than is sent
    elif kind == 3:
        request.length = size + 100_000  # more than is sent; the client stays a moment
        request.cut = 1.0
    elif kind == 4:
        request.body = _damage(rng, request.to_bytes().partition(b"\r\n\r\n")[2])
    elif kind == 5:
        request.method = rng.choice(["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW", "post"])
    elif kind == 6:
        request.path = rng.choice(
            ["/refine/", "/refine?details=x", "/refine?details=1", "//refine", "/../etc",
             "/refine%00", "/%ff", "/" + "a" * 5000, "/docs/../refine", "/v2/models/%2e%2e/ready"]
        )  # fmt: skip
    else:
        request.parts.append(("masks", "large.png", b"\0" * rng.choice([10**6, 3 * 10**6])))


def _send_slowly(rng: random.Random, request: Request) -> None:
    if rng.random() < 0.1:  # they take their time
        request.pause = rng.choice([0.1, 0.5, 3.0])


MUTATIONS = [
    lambda rng, request: _change_content(rng, request, _damage),
    lambda rng, request: _change_content(rng, request, _lie_in_png),
    _change_json,
    _change_json,
    _rearrange_parts,
    _spoil_headers,
    _spoil_transport,
    _send_slowly,
]
