"""Every command of README and docs: run, or read by the parser that would run it.

They run in the slow suite, since together they take minutes:

    pytest -m slow tests/docs

Weights are random and small, trainings one step long: what is tested is that commands work on
what they name and leave what the page says.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from bpr.scripts.main import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, Command, commands
from tests.docs.world import World
from tests.networks import save_random_network

ALL = [command for path in PAGES for command in commands(path)]

REFINING = ("refine", "demo")
SHORTER = {
    "train-refiner": ["--steps", "1", "--batch-size", "2", "--threads", "1"],
    "train-detector": ["--steps", "1", "--batch-size", "1"],
    "extract": ["--patch-size", "32"],
}
# Not run here, and why; the parser still reads the commands of bpr among them
NOT_RUN = {
    r"^bpr serve": "tests/service starts it",
    r"^bpr cvat": "tests/scripts/test_cvat_command.py runs it against a server",
    r"\.\.\./?$|\.\.\. ": "left open by the page",
    r"\b(PRED|GT|SRC\.pth|IMAGES)\b": "names stand for the reader's",
    r"--start-from imagenet|--start-from first": "weights that are not here",
    r"\bDATA\b": "minutes of work on data outside of the repository",
    r"--ray-address|--workers": "tests/pipeline/test_distributed.py runs them",
    r"--start-from coco\.safetensors": "a large detector; tests/scripts starts from a small one",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


def is_mention(command: Command) -> bool:
    """`bpr refine --weights`: a name in a sentence, with or without one of its options."""
    return all(re.fullmatch(r"--[a-z-]+", word) for word in command.words[2:])


def is_runnable(command: Command) -> bool:
    words = command.words
    if words[0] != "bpr" or any(re.search(p, command.text) for p in NOT_RUN):
        return False
    return words == ["bpr", "demo"] or not is_mention(command)


def runnable(page: str) -> list[Command]:
    return [command for command in ALL if command.page == page and is_runnable(command)]


PAGES_TO_RUN = [
    pytest.param(page, marks=pytest.mark.slow)
    for page in dict.fromkeys(command.page for command in ALL)
    if runnable(page)
]


def prepare(command: Command) -> None:
    """What the command writes is not there yet, and what it reads as refined is."""
    for out in written(command.words):
        path = Path(out)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if command.words[2:3] == ["refined"] and not list(Path("refined").glob("*_pred.txt")):
        shutil.rmtree("refined", ignore_errors=True)
        shutil.copytree("predictions", "refined")


def written(words: list[str]) -> list[str]:
    return [word for option, word in pairwise(words) if option == "--out"]


@pytest.mark.parametrize("page", PAGES_TO_RUN)
def test_the_commands_of_a_page_run_one_after_the_other(
    page, weights, tmp_path, monkeypatch, capsys
):
    World(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda _address: True)
    for command in dict.fromkeys(runnable(page)):
        prepare(command)
        name, *arguments = command.words[1:]
        if name in REFINING:
            arguments += ["--weights", str(weights), "--backend", "torch", "--device", "cpu"]
        if "--patches" in arguments:
            arguments += ["--input-size", "32"]
        arguments += SHORTER.get(name, [])
        status = main([name, *arguments])
        said = capsys.readouterr()
        assert status == 0, f"{command.text}\n{said.out}\n{said.err}"
        for out in written(command.words):
            assert Path(out).exists(), command.text


class Parsed(BaseException):
    """The arguments are fine."""


def parse(words: list[str], monkeypatch) -> None:
    """Let the program read its arguments, and stop it there."""
    original = argparse.ArgumentParser.parse_known_args

    def stop(self, *given, **named):
        _, unknown = original(self, *given, **named)
        assert not unknown
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(sys, "argv", ["program", *words[3:]])
    run = partial(main, words[1:])
    if words[0] != "bpr":
        file = ROOT / f"{words[2].replace('.', '/')}.py"
        run = partial(runpy.run_path, str(file), run_name="__main__")
    with pytest.raises(Parsed):
        run()


OPEN = {"refine": "PRED --images D --out O", "extract": "--images D --ground-truth G --out O"}


@pytest.mark.parametrize(
    "command", [c for c in dict.fromkeys(ALL) if c.words[0] == "bpr" and not is_runnable(c)],
    ids=lambda command: f"{command.page}: {command.text}",
)  # fmt: skip
def test_the_parser_takes_what_is_not_run(command, monkeypatch, capsys):
    name = command.words[1]
    assert name in COMMANDS
    if is_mention(command):
        parser = argparse.ArgumentParser()
        importlib.import_module(f"bpr.scripts.{name.replace('-', '_')}").configure(parser)
        known = set(parser._option_string_actions)
        assert set(command.words[2:]) <= known
        return
    words = command.words
    if "..." in words:
        at = words.index("...")
        words[at : at + 1] = OPEN[name].split()
    parse(words, monkeypatch)


BENCHMARKS = [c for c in dict.fromkeys(ALL) if c.text.startswith("python -m benchmarks.")]


@pytest.mark.slow
@pytest.mark.parametrize("command", BENCHMARKS, ids=lambda c: f"{c.page}: {c.text}")
def test_benchmarks_take_the_options_of_their_page(command, monkeypatch):
    source = (ROOT / f"benchmarks/{command.words[2].split('.')[1]}.py").read_text(encoding="utf-8")
    if "parse_args" not in source:
        assert command.words[3:] == []
        return
    if len(command.words) == 3 and re.search(r'add_argument\(\s*"[a-z]|required=True', source):
        return  # named for what it does, its arguments stand elsewhere
    monkeypatch.chdir(ROOT)
    parse(command.words, monkeypatch)


OTHERS = ("tritonclient[http]", "napari[all]")
"""Programs of others that a page works with."""


def test_extras_and_packages_that_are_installed_are_ours():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([a-z-]+) = \[", text, re.MULTILINE))
    for command in ALL:
        if command.words[:2] == ["pip", "install"]:
            for word in command.words[2:]:
                named = re.fullmatch(r"(?:bpr-refine|\.)\[([a-z,-]+)\]", word)
                if named:
                    assert set(named[1].split(",")) <= extras, command.text
                else:
                    known = word in ("bpr-refine", "bpr-refine[...]", *OTHERS)
                    known |= (ROOT / word / "pyproject.toml").is_file()
                    assert known or f'"{word}' in text, command.text


def test_files_that_commands_name_are_there():
    for command in ALL:
        words = command.words
        if words[0] in ("python", "python3") and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), command.text
        if words[:2] == ["python", "-m"] and words[2].startswith(("bpr", "benchmarks")):
            assert importlib.util.find_spec(words[2]) is not None, command.text
        if words[:2] == ["docker", "compose"]:
            assert (ROOT / words[words.index("-f") + 1]).exists(), command.text


def test_no_command_is_passed_over():
    """What is neither bpr, a benchmark nor checked above is one of these."""
    rest = [
        command.text
        for command in ALL
        if command.words[0] not in ("bpr", "python", "python3", "pip", "docker")
    ]
    unknown = [text for text in rest if not re.match(r"git clone <this|curl -", text)]
    assert unknown == []


@pytest.mark.slow
def test_pictures_are_those_that_the_code_draws(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from bpr.scripts import draw_docs

    monkeypatch.setattr(draw_docs, "FOLDER", tmp_path)
    draw_docs.main()
    pictures = sorted((ROOT / "docs/pictures").glob("*.png"))
    assert [path.name for path in pictures] == sorted(path.name for path in tmp_path.iterdir())
    for path in pictures:
        with Image.open(path) as then, Image.open(tmp_path / path.name) as now:
            difference = np.asarray(then).astype(int) - np.asarray(now)
        assert np.abs(difference).mean() < 0.5, "run python -m bpr.scripts.draw_docs"


def test_the_help_of_bpr_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "bpr", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
