"""The images of docker/ hold what they need: each file that they copy is there, and is sent."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layout import FOLDERS, ROOT

READER = runpy.run_path(str(ROOT / "docker/dockerfile.py"))
read_instructions, needed_stages = READER["read_instructions"], READER["needed_stages"]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVICE, TRAINING = ROOT / "docker/service.Dockerfile", ROOT / "docker/training.Dockerfile"
HEAD = "ray start --head --block --num-cpus=0 --disable-usage-stats"
IMAGES = {"cpu": SERVICE, "cuda": SERVICE, "training": TRAINING}
START = {  # arguments of check.py that start an image here
    "cpu": ("--run",),
    "cuda": ("--run", "--set", "BPR_DEVICE=cpu"),
    "training": ("--run", HEAD, "--set", "HOME=/tmp"),
}
can_mount = pytest.mark.skipif(
    os.name != "posix" or os.getuid() != 0 or shutil.which("mount") is None,
    reason="needs root, to mount the layers of an image",
)


def copied(dockerfile: Path) -> set[str]:
    return {name for line in read_instructions(dockerfile) for name in line.copied()}


def build(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "docker/check.py", "build", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfiles:
    def test_every_file_that_is_copied_exists_and_is_sent(self, dockerfile):
        patterns = READER["ignored_patterns"](dockerfile)
        assert patterns
        lacking = {name for name in copied(dockerfile) if not (ROOT / name).exists()}
        unsent = {name for name in copied(dockerfile) if not READER["is_sent"](name, patterns)}
        assert (lacking, unsent) == (set(), set())

    def test_every_package_is_copied_and_so_is_what_its_links_point_to(self, dockerfile):
        links = {path.resolve().name for path in (ROOT / "bpr").iterdir() if path.is_symlink()}
        assert links == set(FOLDERS)
        assert {"bpr", *FOLDERS} <= copied(dockerfile)

    def test_what_the_wheel_is_built_from_is_copied(self, dockerfile):
        text = (ROOT / "pyproject.toml").read_text()
        (readme,) = re.findall(r'^readme = "(.*)"', text, re.MULTILINE)
        (licences,) = re.findall(r"^license-files = \[(.*)\]", text, re.MULTILINE)
        needed = {"pyproject.toml", readme, *re.findall(r'"(.*?)"', licences)}
        files = {name for name in needed if not name.startswith(tuple(copied(dockerfile)))}
        assert files == set()

    def test_a_step_reads_requirements_that_its_stages_have_copied(self, dockerfile):
        instructions = read_instructions(dockerfile)
        for step in instructions:
            stages = needed_stages(instructions, step.stage)
            there = {n for line in instructions if line.stage in stages for n in line.copied()}
            if step.name == "RUN":
                assert set(re.findall(r"requirements/[\w-]+\.txt", step.rest)) <= there


def test_every_stage_belongs_to_an_image_that_is_built():
    for dockerfile in DOCKERFILES:
        instructions = read_instructions(dockerfile)
        built = [target for target, path in IMAGES.items() if path == dockerfile]
        needed = {stage for target in built for stage in needed_stages(instructions, target)}
        assert needed == {line.stage for line in instructions}


def test_the_image_for_a_cpu_has_no_pytorch():
    instructions = read_instructions(SERVICE)
    stages = needed_stages(instructions, "cpu")
    pins = {name for line in instructions if line.stage in stages for name in line.copied()}
    pins = {name for name in pins if name.startswith("requirements/")}
    assert pins == {"requirements/uv.txt", "requirements/serve.txt"}
    for name in pins:
        assert not re.search(r"^(torch|timm|nvidia)", (ROOT / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("bpr", True),
        ("pipeline/formats/rle.py", True),
        ("pipeline/__pycache__", False),
        ("pipeline/formats/__pycache__/rle.pyc", False),
        ("tests", False),
        ("bpr.py", False),
    ],
)
def test_the_last_pattern_that_matches_decides_what_is_sent(path, sent):
    patterns = ("*", "!bpr", "!pipeline", "**/__pycache__")
    assert READER["is_sent"](path, patterns) is sent


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a shell and nothing else, from this machine's own."""
    root = tmp_path_factory.mktemp("bare")
    for folder in ("bin", "dev", "etc", "usr/bin"):
        (root / folder).mkdir(parents=True)
    for program in ("/bin/sh", "/usr/bin/env"):
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for file in (program, *re.findall(r"(/\S+) \(", libraries)):
            (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file[1:])
    return root


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file to write a Dockerfile to."""
    return tmp_path / "Dockerfile"


@can_mount
class TestCheck:
    def test_it_runs_each_step_of_the_target_and_no_other(self, bare, written):
        written.write_text(
            "FROM debian AS base\nENV WORD=one\nRUN echo $WORD > /first\n"
            "FROM base AS other\nRUN exit 3\n"
            "FROM base AS packages\nWORKDIR /build\nCOPY bpr bpr\nCOPY pipeline pipeline\n"
            "RUN read word < /first && echo $word two > second \\\n    && echo joined\n"
            "FROM base AS image\nCOPY --from=packages /build /build\n"
            "RUN read words < /build/second && echo words: $words\n"
            "RUN test -e /build/bpr/pipeline/instance.py && test ! -e /build/tests\n"
        )
        done = build(written, "--target", "image", "--base", bare)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "words: one two" in done.stdout
        assert re.search(r"image: ran 4 RUN steps; \d+ MB", done.stdout)

    @pytest.mark.parametrize(
        ("step", "words"),
        [
            ("RUN exit 3", "exit status 3"),
            ("COPY training training", "training"),
            ("COPY tests tests", "COPY tests: expected a file that .dockerignore sends"),
        ],
    )
    def test_a_step_that_fails_fails_the_build(self, bare, written, step, words):
        written.write_text(f"FROM debian AS image\n{step}\n")
        (written.parent / "Dockerfile.dockerignore").write_text("tests\n")
        done = build(written, "--base", bare)
        assert done.returncode == 1
        assert words in done.stderr


@can_mount
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap")
@pytest.mark.parametrize("target", IMAGES)
def test_every_step_of_an_image_runs_in_a_bare_debian_and_the_image_gets_healthy(target):
    done = build(IMAGES[target], "--target", target, *START[target])
    print(done.stdout[-4000:], done.stderr[-4000:])
    assert done.returncode == 0
    instructions = read_instructions(IMAGES[target])
    needed = needed_stages(instructions, target)
    steps = sum(line.name == "RUN" and line.stage in needed for line in instructions)
    assert f"{target}: ran {steps} RUN steps" in done.stdout
    assert "healthy" in done.stdout
