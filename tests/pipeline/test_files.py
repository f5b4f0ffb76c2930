import hashlib
import os
import stat
import threading

import pytest

from bpr._replace import replace_file
from bpr._weight_files import file_sha256
from bpr.pipeline.files import find_files, stamp, write_atomically


def test_a_file_is_written_whole_with_its_folder_and_its_sha256(tmp_path):
    path = tmp_path / "a/b/c.txt"
    digest = write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    assert digest == hashlib.sha256(b"content").hexdigest() == file_sha256(path)
    assert os.listdir(path.parent) == ["c.txt"]


def test_pieces_are_written_in_order(tmp_path):
    digest = write_atomically(tmp_path / "a", (str(n).encode() for n in range(5)))
    assert (tmp_path / "a").read_bytes() == b"01234"
    assert digest == hashlib.sha256(b"01234").hexdigest()


def test_an_error_on_the_way_leaves_the_old_file_and_no_other(tmp_path):
    path, partial = tmp_path / "a", tmp_path / "partial"
    partial.mkdir()
    path.write_bytes(b"old")

    def pieces():
        yield b"new"
        raise KeyError("broken")

    with pytest.raises(KeyError):
        write_atomically(path, pieces(), partial)
    assert path.read_bytes() == b"old"
    assert os.listdir(partial) == []


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "a", b"x")
    assert caught.value.filename == str(tmp_path / "a")
    assert caught.value.filename2 is None
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    def pieces():
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        yield b""

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "a", pieces())
    assert caught.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_files_are_as_public_as_the_users_umask_allows_whatever_threads_write(tmp_path):
    before = os.umask(0o027)
    try:

        def write(name):
            for index in range(50):
                write_atomically(tmp_path / f"{name}{index}", b"")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    finally:
        assert os.umask(before) == 0o027


def test_a_stamp_changes_with_size_time_and_presence(tmp_path):
    path = tmp_path / "a"
    stamps = [stamp(path)]
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    stamps.append(stamp(path))
    os.utime(path, ns=(1, 2))
    stamps.append(stamp(path))
    path.write_bytes(b"xy")
    os.utime(path, ns=(1, 2))
    stamps.append(stamp(path))
    assert len(set(stamps)) == 4


def test_files_are_found_in_order_without_folders_and_what_is_hidden(tmp_path):
    names = ["b.png", "a/z.png", "c/d/e"]
    for name in [*names, ".git/x.png", "a/._z.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_files(tmp_path) == sorted(tmp_path / name for name in names)


def test_links_are_followed_but_not_around_in_circles(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "a").touch()
    (one / "link").symlink_to(two)
    (two / "link").symlink_to(one)
    (one / "broken").symlink_to(tmp_path / "nowhere")
    assert find_files(one) == [one / "a", one / "broken", one / "link/a"]
    assert find_files(two) == [two / "a", two / "link/a", two / "link/broken"]


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_files(tmp_path / "missing")


def test_a_file_that_another_program_has_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    """As on Windows, where renaming over an open file is refused."""
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    rename, refused = os.replace, iter([True, True, False])

    def replace(*paths):
        if next(refused):
            raise PermissionError(13, "in use")
        rename(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError):
        replace_file(source, target)
    monkeypatch.setattr("bpr._replace._WAITS_S", (0.001, 0.001))
    replace_file(source, target)
    assert target.read_text() == "new"
    assert not source.exists()
