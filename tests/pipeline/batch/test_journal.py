from __future__ import annotations

import json
import threading

import pytest

from bpr.pipeline.batch.journal import Journal, OtherSetup

HEADER = {"settings": {"patch_size": 64}, "weights": "a"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work/journal.jsonl"


def filled(path, *keys):
    journal = Journal(path, HEADER)
    for key in keys:
        journal.append(key, {"value": key.upper()})
    journal.close()


def test_entries_are_there_again_after_opening_anew(path):
    filled(path, "a", "ö")
    journal = Journal(path, HEADER)
    assert "a" in journal
    assert "b" not in journal
    assert journal.read("a") == {"key": "a", "value": "A"}
    assert journal.read("ö") == {"key": "ö", "value": "Ö"}
    journal.close()


def test_the_last_entry_of_a_key_counts(path):
    journal = Journal(path, HEADER)
    journal.append("a", {"value": 1})
    journal.append("b", {"value": 2})
    journal.append("a", {"value": 3})
    assert journal.read("a")["value"] == 3
    journal.close()
    journal = Journal(path, HEADER)
    assert journal.read("a")["value"] == 3
    journal.close()


def test_entries_are_in_the_file_when_append_returns(path):
    journal = Journal(path, HEADER)
    journal.append("a", {"value": 1})
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"key": "a", "value": 1}
    journal.close()


@pytest.mark.parametrize("lost", range(1, 27))
def test_a_torn_last_line_is_dropped_and_written_over(path, lost):
    filled(path, "a", "b")
    content = path.read_bytes()
    assert len(content.splitlines()[-1]) == 26
    path.write_bytes(content[:-lost])
    journal = Journal(path, HEADER)
    assert "a" in journal
    assert "b" not in journal
    journal.append("c", {"value": 1})
    assert journal.read("a")["value"] == "A"
    journal.close()
    journal = Journal(path, HEADER)
    assert journal.read("c")["value"] == 1
    journal.close()


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"3\n", b"{}\n", b"[1]\n", b"\n", b"\0" * 99])
def test_what_is_no_entry_ends_the_journal(path, garbage):
    filled(path, "a")
    path.write_bytes(path.read_bytes() + garbage)
    journal = Journal(path, HEADER)
    assert journal.read("a")["value"] == "A"
    journal.append("b", {"value": 1})
    journal.close()
    journal = Journal(path, HEADER)
    assert journal.read("b")["value"] == 1
    journal.close()


@pytest.mark.parametrize("length", [0, 1, 20])
def test_a_torn_header_starts_over(path, length):
    filled(path)
    path.write_bytes(path.read_bytes()[:length])
    journal = Journal(path, HEADER)
    journal.append("a", {})
    journal.close()
    Journal(path, HEADER).close()


def test_entries_of_another_setup_are_refused_with_what_differs(path):
    filled(path, "a")
    with pytest.raises(OtherSetup, match=r"^weights was 'a', is 'b'$"):
        Journal(path, {**HEADER, "weights": "b"})
    with pytest.raises(OtherSetup, match=r"more was None, is 1"):
        Journal(path, {**HEADER, "more": 1})
    journal = Journal(path, HEADER)
    assert "a" in journal
    journal.close()


def test_another_setup_takes_over_a_journal_without_entries(path):
    filled(path)
    Journal(path, {**HEADER, "weights": "b"}).close()
    filled(path, "a")
    with pytest.raises(OtherSetup):
        Journal(path, {**HEADER, "weights": "b"})


def test_starting_over_forgets_all_entries(path):
    filled(path, "a")
    journal = Journal(path, {"other": 1}, start_over=True)
    assert "a" not in journal
    journal.append("b", {})
    journal.close()
    journal = Journal(path, {"other": 1})
    assert "b" in journal
    assert "a" not in journal
    journal.close()


def test_a_second_run_is_kept_out_until_the_first_ends(path):
    pytest.importorskip("fcntl")
    journal = Journal(path, HEADER)
    journal.append("a", {})
    with pytest.raises(ValueError, match="another run is using it"):
        Journal(path, HEADER)
    with pytest.raises(ValueError, match="another run is using it"):
        Journal(path, HEADER, start_over=True)
    assert "a" in journal
    journal.close()
    journal = Journal(path, HEADER)
    assert "a" in journal
    journal.close()


def test_threads_may_read_while_others_append(path):
    journal = Journal(path, HEADER)
    keys = [f"key {index}" for index in range(40)]
    for key in keys:
        journal.append(key, {"value": key * 50})
    wrong = []

    def read():
        for _ in range(20):
            wrong.extend(key for key in keys if journal.read(key)["value"] != key * 50)

    def append(name):
        for index in range(300):
            journal.append(f"{name} {index}", {"value": "x" * (index % 100)})

    threads = [threading.Thread(target=read) for _ in range(3)]
    threads += [threading.Thread(target=append, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for name in "ab":
        for index in range(300):
            assert journal.read(f"{name} {index}")["value"] == "x" * (index % 100)
    journal.close()
