"""Published weights by name, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bpr.detector.presets import PRESETS
from bpr.detector.published_table import PublishedWeights, fetch, published_table

CONTENT = b"weights " * 1000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "weights.pth").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def entry(url: str, sha256: str = hashlib.sha256(CONTENT).hexdigest()[:8]) -> PublishedWeights:
    return PublishedWeights(
        url=url,
        sha256=sha256,
        preset="small",
        data="noise",
        licence="none",
        mask_ap=1.0,
        ap_of="nothing",
    )


def test_weights_are_downloaded_once_and_checked(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "downloads"
    path = fetch("mine", entry(f"{address}/weights.pth"), folder)
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    (tmp_path / "server" / "weights.pth").unlink()
    assert fetch("mine", entry(f"{address}/weights.pth"), folder) == path
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="got another one; delete it"):
        fetch("mine", entry(f"{address}/weights.pth"), folder)


def test_another_file_is_refused_and_not_kept(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ValueError, match=r"mine: expected sha256 00000000\.\.\.,"):
        fetch("mine", entry(f"{address}/weights.pth", "0" * 8), tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_what_cannot_be_reached_is_told_with_the_place_for_the_file(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"{address}/missing.pth"
    with pytest.raises(ValueError, match="404") as error:
        fetch("mine", entry(url), tmp_path / "downloads")
    place = tmp_path / "downloads" / "missing.pth"
    assert f"download {url} elsewhere and put it at {place}" in str(error.value)


def test_the_table_names_torchvisions_own_files() -> None:
    from torchvision.models import detection

    table = published_table()
    assert all(weights.preset in PRESETS for weights in table.values())
    theirs = {
        "maskrcnn_resnet50_fpn_coco": detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
        "maskrcnn_resnet50_fpn_v2_coco": detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    }
    for name, weights in theirs.items():
        assert table[name].url == weights.url
        assert table[name].mask_ap == weights.meta["_metrics"]["COCO-val2017"]["mask_map"]
        assert table[name].sha256 in weights.url
