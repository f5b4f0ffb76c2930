"""CI, hooks and the pages about the code say what is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_layout import GROUND, MAY_IMPORT, ROOT

HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
BOOTSTRAP = (ROOT / "scripts/bootstrap.py").read_text(encoding="utf-8")


def test_github_runs_what_every_other_place_runs():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert f'requires-python = ">={supported[0]}"' in project
    assert job["strategy"]["matrix"]["python"] == supported


def test_hooks_are_the_checks_of_ci():
    hooks = [hook for repo in HOOKS["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in HOOKS["repos"]} == {"local"}
    checks = [hook for hook in hooks if hook.get("stages") != ["commit-msg"]]
    modules = [re.search(r"-m (\w+)", hook["entry"])[1] for hook in checks]
    in_ci = re.findall(r'^        \["(\w+)"', BOOTSTRAP, re.MULTILINE)
    assert modules == in_ci
    for hook in checks:
        for word in hook["entry"].split():
            assert not word.startswith("tests/") or (ROOT / word).exists()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("Keep patches inside the right edge\n\nThey left it by a pixel.\n", None),
        ("Merge branch 'readers'\n", None),
        ("x" * 73 + "\n\nWhy.\n", "at most 72 characters, got 73"),
        ("Keep patches inside.\n\nWhy.\n", "no full stop"),
        ("Keep patches inside\n# a comment of git\n", "body: expected what was wrong"),
        ("Keep patches inside\nWhy.\n", "an empty line"),
    ],
)
def test_the_hook_reads_commit_messages(message, complaint, tmp_path):
    (hook,) = (h for repo in HOOKS["repos"] for h in repo["hooks"] if h["id"] == "commit-message")
    file = tmp_path / "message"
    file.write_text(message, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / hook["entry"], file], capture_output=True, text=True
    )
    assert (done.returncode, complaint is None) in ((0, True), (1, False))
    assert complaint is None or complaint in done.stderr


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docker/README.md"])
def test_paths_in_pages_about_the_code_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text))
    named |= set(re.findall(r"\]\(([^)#]+)\)", text))
    assert named
    folder = (ROOT / page).parent
    missing = [name for name in named if not ((folder / name).exists() or (ROOT / name).exists())]
    assert missing == []


def test_the_architecture_names_every_package_and_its_arrows():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    order = re.search(r"```\n(.*<-.*)\n```", text)[1]
    ranks = [re.findall(r"\w+", part) for part in order.split("<-")]
    rank = {package: index for index, part in enumerate(ranks) for package in part}
    assert rank.keys() == {"bpr", *MAY_IMPORT}
    for package, allowed in MAY_IMPORT.items():
        assert {"bpr" if other in GROUND else other for other in allowed - {package}} <= {
            other for other in rank if rank[other] < rank[package]
        }
        assert f"| `{package}/` |" in text
    jobs = {path.name for path in (ROOT / "pipeline/batch").glob("*_job.py")}
    named = {Path(name).name for name in re.findall(r"`([\w/]+_job\.py)`", text)}
    assert named <= jobs
