"""A multipart request as an upload: which parts there are and what they are called."""

from __future__ import annotations

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipeline.images import NamedFile
from service.inputs import Upload
from service.problems import Problem, bad_request, too_large, wrong_type
from service.settings import ServiceSettings

_KINDS = ("masks", "instance_map", "instances")
_LONGEST_NAME = 60


async def read_upload(request: Request, settings: ServiceSettings) -> Upload:
    """Read the parts of a request's body.

    Raises:
        Problem: 400 parts missing, unknown or repeated; 413 too many; 415 not multipart.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise wrong_type(f"body: expected multipart/form-data, got {media_type or 'no type'}")
    try:
        # one file per mask, and the image; text is not needed beyond a small `instances`
        form = request.form(max_files=settings.max_instances + 2, max_fields=len(_KINDS))
        async with form as parts:
            return await _sort(parts)
    except Problem:
        raise
    except HTTPException as error:
        raise _explain(error, settings) from None


def _explain(error: HTTPException, settings: ServiceSettings) -> Problem:
    """What Starlette says of a form, with the status that fits."""
    if "Too many files" in error.detail:
        return too_large(f"masks: expected at most {settings.max_instances} files", "instances")
    if "exceeded maximum size" in error.detail:
        return too_large("expected long parts as files (with a filename), got text", "json_bytes")
    return bad_request(f"body: expected parts as in multipart/form-data, got: {error.detail}")


async def _sort(parts: FormData) -> Upload:
    names = {name for name, _ in parts.multi_items()}
    if unknown := names - {"image", *_KINDS}:
        raise bad_request(
            f"expected the parts image and one of {', '.join(_KINDS)}, got {_plain(min(unknown))!r}"
        )
    given = [kind for kind in _KINDS if kind in names]
    if len(given) != 1:
        raise bad_request(
            f"expected exactly one of {', '.join(_KINDS)}, got {' and '.join(given) or 'none'}"
        )
    (kind,) = given
    image, image_name = await _only_file(parts, "image")
    if kind == "masks":
        masks = [
            await _read_file(part, f"masks[{index}]")
            for index, part in enumerate(parts.getlist("masks"))
        ]
        return Upload(image, image_name, masks=tuple(masks))
    if kind == "instance_map":
        instance_map, _ = await _only_file(parts, "instance_map")
        return Upload(image, image_name, instance_map=instance_map)
    return Upload(image, image_name, instances=await _read_json(parts))


async def _only_file(parts: FormData, name: str) -> tuple[NamedFile, str]:
    """The one file of a name, and what its sender calls it."""
    files = parts.getlist(name)
    if len(files) != 1:
        raise bad_request(f"{name}: expected one file, got {len(files)}")
    (part,) = files
    file_name = (part.filename or "") if isinstance(part, UploadFile) else ""
    return await _read_file(part, name), file_name


async def _read_file(part: UploadFile | str, name: str) -> NamedFile:
    if isinstance(part, str):
        raise bad_request(f"{name}: expected a file (a part with a filename), got text")
    shown = _plain(part.filename or "")
    return NamedFile(await part.read(), f"{name} ({shown})" if shown else name)


async def _read_json(parts: FormData) -> bytes:
    found = parts.getlist("instances")
    if len(found) != 1:
        raise bad_request(f"instances: expected one json, got {len(found)}")
    (part,) = found
    return part.encode() if isinstance(part, str) else await part.read()


def _plain(text: str) -> str:
    """A name from outside, fit to be shown."""
    shown = "".join(character for character in text if character.isprintable())
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 3] + "..."
