"""The parts of a request as an upload: which there are and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from bpr.pipeline.formats.images import NamedFile
from bpr.service.inputs import Upload
from bpr.service.multipart import Part, read_parts
from bpr.service.problems import bad_request, wrong_type
from bpr.service.settings import ServiceSettings

_KINDS = ("masks", "instance_map", "instances")
_LONGEST_NAME = 60


async def read_upload(request: Request, settings: ServiceSettings) -> Upload:
    """Read the body of a request.

    Raises:
        Problem: 400 parts missing, unknown or repeated; 413 too many; 415 not multipart.
    """
    return _sort(await _parts(request, settings))


async def read_image_alone(request: Request, settings: ServiceSettings) -> Upload:
    """Read the body of a request that has nothing but an image.

    Raises:
        Problem: as `read_upload`.
    """
    parts = await _parts(request, settings)
    if unknown := {part.name for part in parts} - {"image"}:
        raise bad_request(
            f"expected the part image alone, got {plain(min(unknown))!r} too; masks go to /refine"
        )
    part = _only(parts, "image")
    return Upload(image=_as_file(part, "image"), image_name=part.file_name)


def media_type_of(request: Request) -> str:
    """The type of a request's body, without parameters; "" where it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parts(request: Request, settings: ServiceSettings) -> list[Part]:
    media_type = media_type_of(request)
    if media_type != "multipart/form-data":
        raise wrong_type(
            f"body: expected multipart/form-data, got {plain(media_type) or 'no type'}"
        )
    # the image besides the masks, and one more: `read_inputs` says what there is too much of
    content_type = request.headers["content-type"]
    return await read_parts(request.stream(), content_type, settings.max_instances + 2)


def _sort(parts: Sequence[Part]) -> Upload:
    names = {part.name for part in parts}
    if unknown := names - {"image", *_KINDS}:
        raise bad_request(
            f"expected the parts image and one of {', '.join(_KINDS)}, got {plain(min(unknown))!r}"
        )
    given = [kind for kind in _KINDS if kind in names]
    if len(given) != 1:
        raise bad_request(
            f"expected exactly one of {', '.join(_KINDS)}, got {' and '.join(given) or 'none'}"
        )
    (kind,) = given
    part = _only(parts, "image")
    image = _as_file(part, "image")
    if kind == "masks":
        masks = [part for part in parts if part.name == "masks"]
        files = (_as_file(mask, f"masks[{index}]") for index, mask in enumerate(masks))
        return Upload(image=image, image_name=part.file_name, masks=tuple(files))
    other = _only(parts, kind)
    if kind == "instance_map":
        return Upload(image=image, image_name=part.file_name, instance_map=_as_file(other, kind))
    return Upload(image=image, image_name=part.file_name, instances=other.content)


def _only(parts: Sequence[Part], name: str) -> Part:
    """The one part of a name."""
    found = [part for part in parts if part.name == name]
    if len(found) != 1:
        raise bad_request(f"{name}: expected one file, got {len(found)}")
    return found[0]


def _as_file(part: Part, name: str) -> NamedFile:
    shown = plain(part.file_name)
    return NamedFile(part.content, f"{name} ({shown})" if shown else name)


def plain(text: str, longest: int = _LONGEST_NAME) -> str:
    """A name from outside, fit to be shown."""
    shown = "".join(character for character in text if character.isprintable())
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."
