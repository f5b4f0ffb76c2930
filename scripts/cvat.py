"""Refine the masks, polygons and tracks of a CVAT task, and upload them again.

bpr cvat 42 --host https://cvat.example.org --token-file token --backup before.json
"""

from __future__ import annotations

import argparse
import getpass
import json
from pathlib import Path
from typing import Any

from bpr._extras import needs_extra
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.polygons import MAX_TOLERANCE
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import parse_path, print_some
from bpr.scripts.progress import ProgressLine
from bpr.scripts.refine import add_refine_options, chosen_weights


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr cvat`."""
    parser.add_argument("id", type=int, metavar="ID", help="number of the task, from its address")
    parser.add_argument("--job", action="store_true", help="ID is the number of a job")
    parser.add_argument(
        "--host", required=True, metavar="URL", help="address of CVAT: https://cvat.example.org"
    )
    login = parser.add_mutually_exclusive_group(required=True)
    login.add_argument(
        "--token-file", type=parse_path, metavar="FILE", help="file with a personal access token"
    )
    login.add_argument(
        "--user", metavar="NAME", help="name of a user; the command asks for the password"
    )
    parser.add_argument(
        "--backup",
        type=parse_path,
        required=True,
        metavar="FILE",
        help="json file to save the annotations in before anything changes; never overwritten",
    )
    parser.add_argument(
        "--restore", action="store_true", help="only upload the annotations of --backup again"
    )
    parser.add_argument(
        "--frames", type=_frames, metavar="0-9,17", help="refine these frames only (default: all)"
    )
    parser.add_argument(
        "--polygon-tolerance",
        type=float,
        metavar="PX",
        help="write polygons again, within so many pixels of the refined outlines (default: "
        "single polygons become masks; polygons of tracks stay polygons, within 0.5)",
    )
    parser.add_argument("--dry-run", action="store_true", help="upload nothing")
    add_refine_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refine; 1 where some frames failed."""
    _check(arguments)
    with needs_extra("bpr cvat"):
        from cvat_sdk import exceptions, make_client
        from urllib3.exceptions import HTTPError
    try:
        with make_client(
            arguments.host,
            access_token=_token(arguments.token_file),
            credentials=(arguments.user, getpass.getpass()) if arguments.user else None,
        ) as client:
            entities = client.jobs if arguments.job else client.tasks
            return _run(arguments, entities.retrieve(arguments.id))
    except exceptions.ApiException as error:
        what = "job" if arguments.job else "task"
        raise ValueError(
            f"{arguments.host}, {what} {arguments.id}: expected an answer, got status "
            f"{error.status} ({error.reason})"
        ) from None
    except (HTTPError, exceptions.OpenApiException, exceptions.CvatSdkException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"--host: expected CVAT at {arguments.host}, got: {reason}") from None


def _run(arguments: argparse.Namespace, entity: Any) -> int:
    from bpr.pipeline.adapters import cvat, cvat_drawn
    from bpr.pipeline.adapters.refiner import load_refiner

    if arguments.restore:
        cvat.restore(entity, arguments.backup.read_bytes())
        print(f"The annotations of {arguments.backup} are back.")
        return 0
    before = cvat.fetch_annotations(entity)
    write_atomically(arguments.backup, before)
    annotations = json.loads(before)
    by_frame = cvat_drawn.group_by_frame(annotations, arguments.frames)
    refiner = load_refiner(
        chosen_weights(arguments),
        arguments.device,
        arguments.backend,
        arguments.patch_size,
        arguments.padding,
        arguments.nms_iou,
        arguments.compat,
    )

    def fetch(frame: int) -> bytes:
        content: bytes = entity.get_frame(frame, quality="original").read()
        return content

    frames = []
    with ProgressLine("frames", len(by_frame)) as line:
        for refined in cvat.refine_frames(by_frame, fetch, refiner, arguments.polygon_tolerance):
            frames.append(refined)
            line.show(len(frames), f"{sum(len(one.changed) for one in frames)} shapes changed")
    changed = [one for refined in frames for one in refined.changed]
    if changed and not arguments.dry_run:
        tracks = cvat_drawn.changed_tracks(annotations, changed)
        cvat.push(entity, cvat_drawn.changed_shapes(changed), tracks)
    failed = [f"frame {one.frame}: {one.reason}" for one in frames if one.reason]
    print(
        f"{len(changed)} of {sum(one.num_drawn for one in frames)} shapes in {len(frames)} frames "
        f"changed ({sum(one.changed_pixels for one in frames)} pixels), {len(failed)} frames "
        f"failed{'; nothing uploaded' if arguments.dry_run else ''}. Backup: {arguments.backup}"
    )
    left = [f"frame {one.frame}, {reason}" for one in frames for reason in one.left]
    print_some("left as it is", left, "")
    lost = [f"frame {one.frame}, {note}" for one in frames for note in one.lost]
    print_some("not all of the refined mask fits into a polygon", lost, "")
    print_some("failed", failed, "")
    return INPUT_FAILED if failed or left else 0


def _check(arguments: argparse.Namespace) -> None:
    tolerance = arguments.polygon_tolerance
    if tolerance is not None and not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(
            f"--polygon-tolerance: expected pixels in 0..{MAX_TOLERANCE:g}, got {tolerance:g}"
        )
    if arguments.restore and not arguments.backup.is_file():
        raise ValueError(
            f"--backup: expected a backup to restore, found no file {arguments.backup}"
        )
    if not arguments.restore and arguments.backup.exists():
        raise ValueError(
            f"--backup: expected a new file, but {arguments.backup} exists; it may hold what was "
            "there before an earlier run"
        )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    token = path.read_text().strip()
    if not token:
        raise ValueError(f"--token-file: expected a token in {path}, got an empty file")
    return token


def _frames(text: str) -> frozenset[int]:
    """`0-9,17` as numbers."""
    frames: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            frames.update(range(int(first), int(last or first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected frames as 0-9,17, got {text!r}") from None
    return frozenset(frames)
