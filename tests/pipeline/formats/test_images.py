from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import (
    Header,
    NamedFile,
    encode_mask,
    encode_png,
    read_header,
    read_image,
    read_mask,
)
from bpr.pipeline.instance import Mask
from tests.strategies import masks, quick

HEIGHT, WIDTH = 6, 9
SIXTEEN_BITS = "16 bits per channel: the upper 8 are used"
ORIENTATION = 0x0112


def colours():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def deep():
    return np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)


def grey(pixels):
    return np.repeat(pixels[..., None], 3, axis=-1)


def smooth(size=(40, 56)):
    """A picture that survives JPEG compression nearly unchanged."""
    noise = np.random.default_rng(2).uniform(0, 255, (3, 4, 3)).astype(np.float32)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)


# every kind of image


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm"])
def test_pixels_of_a_plain_rgb_image_come_as_they_are(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(colours()).save(path, **options)
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == ()


def test_the_ending_of_a_name_does_not_matter(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(colours()).save(path, "png")
    np.testing.assert_array_equal(read_image(path).pixels, colours())


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_alpha_is_dropped_without_blending_and_noted(tmp_path, ending):
    alpha = np.full((HEIGHT, WIDTH, 1), 3, np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.dstack([colours(), alpha])).save(path)
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == ("alpha channel dropped",)


def test_grey_with_alpha_is_repeated_and_noted(tmp_path):
    values = colours()[..., :2]
    path = tmp_path / "a.png"
    Image.fromarray(values, "LA").save(path)
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, grey(values[..., 0]))
    assert photograph.notes == ("alpha channel dropped",)


@pytest.mark.parametrize("transparency", [None, 2, bytes([0, 255, 128, 0])])
def test_a_palette_gives_its_colours_whatever_is_transparent(tmp_path, transparency):
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4
    palette = np.array([[0, 0, 0], [255, 0, 0], [9, 8, 7], [1, 200, 3]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    path = tmp_path / "a.png"
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, palette[indices])
    assert photograph.notes == (() if transparency is None else ("alpha channel dropped",))


def test_a_transparent_colour_of_an_rgb_png_is_noted(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(colours()).save(path, transparency=(1, 2, 3))
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == ("alpha channel dropped",)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_of_16_bit_grey_the_upper_8_are_used(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), deep()[..., 0])
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, grey(deep()[..., 0] >> 8))
    assert photograph.pixels.dtype == np.uint8
    assert photograph.notes == (SIXTEEN_BITS,)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_of_16_bit_colours_the_upper_8_are_used(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), deep()[..., 2::-1])  # OpenCV writes blue first
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, deep()[..., :3] >> 8)
    assert photograph.notes == (SIXTEEN_BITS,)


def test_16_bit_colours_with_alpha_leave_both_notes(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), deep()[..., [2, 1, 0, 3]])
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, deep()[..., :3] >> 8)
    assert photograph.notes == (SIXTEEN_BITS, "alpha channel dropped")


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (29000, 31000), (60000, 60500), (7, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_that_use_little_of_16_bits_are_stretched(tmp_path, low, high, channels):
    ramp = np.linspace(low, high, HEIGHT * WIDTH).round().astype(np.uint16)
    values = np.repeat(ramp.reshape(HEIGHT, WIDTH, 1), channels, axis=-1)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), values)
    photograph = read_image(path)
    assert (photograph.pixels.min(), photograph.pixels.max()) == (0, 255)
    wanted = (values[..., :1].astype(float) - low) / (high - low) * 255
    assert np.abs(photograph.pixels.astype(float) - wanted).max() < 3
    assert "stretched to 0 to 255" in photograph.notes[0]


def test_more_than_16_bits_are_stretched(tmp_path):
    values = np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH) * 100_000 - 5
    Image.fromarray(values).save(tmp_path / "a.tiff")
    photograph = read_image(tmp_path / "a.tiff")
    assert (photograph.pixels.min(), photograph.pixels.max()) == (0, 255)
    assert "stretched" in photograph.notes[0]


def test_of_several_pages_the_first_is_read_and_noted(tmp_path):
    pages = [Image.fromarray(colours()), Image.fromarray(255 - colours())]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    photograph = read_image(tmp_path / "a.tiff")
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == ("the first of 2 pages is used",)


def test_the_limit_of_pixels_is_the_readers(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(colours()).save(path)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=r"a\.png: expected an image of at most 53 pixels"):
            read(path, max_pixels=HEIGHT * WIDTH - 1)
    assert read_image(path, max_pixels=HEIGHT * WIDTH).pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("frame", "is_turned"),
    [
        (Frame(reach=(WIDTH - 0.5, HEIGHT - 0.5)), False),
        (Frame(reach=(HEIGHT - 0.5, WIDTH - 0.5), claimed=(HEIGHT, WIDTH)), True),
        (Frame(claimed=(HEIGHT, WIDTH)), False),
        (Frame(claimed=(WIDTH, HEIGHT)), True),
    ],
)
def test_outlines_and_then_the_claimed_size_say_which_way_is_up(tmp_path, frame, is_turned):
    path = tmp_path / "a.png"
    save_turned(path, 6, colours())
    photograph = read_image(path, frame)
    expected = transposed(path) if is_turned else colours()
    np.testing.assert_array_equal(photograph.pixels, expected)
    assert photograph.stored == (HEIGHT, WIDTH)
    assert "EXIF orientation 6" in photograph.notes[0]


def test_one_bit_becomes_black_and_white(tmp_path):
    values = colours()[..., 0] > 127
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, grey(np.where(values, 255, 0)))
    assert photograph.notes == ()


def test_grey_is_repeated_without_a_note(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(colours()[..., 0]).save(path)
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, grey(colours()[..., 0]))
    assert photograph.notes == ()


def test_a_cmyk_jpeg_gives_about_its_colours_and_a_note(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth()).convert("CMYK").save(path, quality=100)
    photograph = read_image(path)
    assert np.abs(photograph.pixels.astype(int) - smooth()).max() < 8
    assert photograph.notes == ("CMYK converted to RGB without a colour profile",)


def test_floating_point_is_refused(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.float32)).save(path)
    with pytest.raises(ValueError, match=r"a\.tiff: expected 8 or 16 bits per channel, got float"):
        read_image(path)


# EXIF orientation


def save_turned(path, orientation, pixels):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif, lossless=True)


def transposed(path):
    with Image.open(path) as file:
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))


@pytest.mark.parametrize("ending", ["png", "webp", "jpg", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_where_the_masks_say_nothing(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    save_turned(path, orientation, colours())
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, transposed(path))
    assert photograph.pixels.flags.c_contiguous
    expected = () if orientation == 1 else (f"EXIF orientation {orientation} applied",)
    assert photograph.notes == expected


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied_where_masks_fit_the_turned_image(tmp_path, orientation):
    path = tmp_path / "a.png"
    save_turned(path, orientation, colours())
    expected = transposed(path)
    photograph = read_image(path, Frame(bitmaps=expected.shape[:2]))
    np.testing.assert_array_equal(photograph.pixels, expected)
    assert photograph.notes == (f"EXIF orientation {orientation} applied",)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_orientation_is_ignored_where_only_the_stored_pixels_fit_the_masks(tmp_path, orientation):
    path = tmp_path / "a.png"
    save_turned(path, orientation, colours())
    photograph = read_image(path, Frame(bitmaps=(HEIGHT, WIDTH)))
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == (
        f"EXIF orientation {orientation} ignored: the masks fit the stored pixels",
    )


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied_where_masks_fit_neither_way(tmp_path, orientation):
    path = tmp_path / "a.png"
    save_turned(path, orientation, colours())
    photograph = read_image(path, Frame(bitmaps=(100, 100)))
    np.testing.assert_array_equal(photograph.pixels, transposed(path))


@pytest.mark.parametrize("orientation", [2, 6])
def test_a_square_image_is_turned_though_the_masks_fit_either_way(tmp_path, orientation):
    path = tmp_path / "a.png"
    save_turned(path, orientation, colours()[:, :HEIGHT])
    photograph = read_image(path, Frame(bitmaps=(HEIGHT, HEIGHT)))
    np.testing.assert_array_equal(photograph.pixels, transposed(path))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(tmp_path, orientation):
    path = tmp_path / "a.png"
    save_turned(path, orientation, colours())
    photograph = read_image(path)
    np.testing.assert_array_equal(photograph.pixels, colours())
    assert photograph.notes == ()


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_damaged_exif_does_not_make_an_image_unreadable(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    save_turned(path, 6, colours())
    content = path.read_bytes()
    for header in (b"II*\0", b"MM\0*"):
        content = content.replace(header, b"\0\0\0\0")
    if ending == "png":  # a wrong checksum would be found first
        start = content.index(b"eXIf")
        length = struct.unpack(">I", content[start - 4 : start])[0]
        end = start + 4 + length
        content = (
            content[:end] + struct.pack(">I", zlib.crc32(content[start:end])) + content[end + 4 :]
        )
    path.write_bytes(content)
    assert read_image(path).pixels.shape == (HEIGHT, WIDTH, 3)


# files that are no image


def read_or_error(read, path):
    """The pixels and no error, or none and the error's text."""
    try:
        return read(path), ""
    except ValueError as error:
        return None, str(error)


def encoded(kind, tmp_path):
    path = tmp_path / "whole"
    options = {"progressive": True} if kind == "progressive jpeg" else {}
    Image.fromarray(smooth()).save(path, kind.split()[-1], **options)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["png", "jpeg", "progressive jpeg", "webp", "bmp", "tiff", "ppm"])
def test_a_truncated_image_is_refused_by_name_or_lacks_no_pixel(tmp_path, kind):
    content = encoded(kind, tmp_path)
    whole = read_image(tmp_path / "whole").pixels
    path = tmp_path / "cut.png"
    some = np.linspace(1, len(content) - 1, 60).astype(int).tolist()
    for length in sorted({*some, *range(len(content) - 20, len(content))}):
        path.write_bytes(content[:length])
        photograph, error = read_or_error(read_image, path)
        if photograph is None:
            assert str(path) in error
        else:
            assert length > len(content) - 30  # what ends a file may be missing, no pixel
            np.testing.assert_array_equal(photograph.pixels, whole)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "expected an image"),
        (b"this is no image", "expected an image"),
        (b"\x89PNG\r\n\x1a\n", "expected a"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "expected an image"),
    ],
    ids=["empty", "text", "only a signature", "PostScript"],
)
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, read, content, rule):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.png: {rule}"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_missing_file_is_refused_by_name(tmp_path, read):
    with pytest.raises(ValueError, match=r"missing\.png: expected an image, found no file"):
        read(tmp_path / "missing.png")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_directory_is_refused_by_name(tmp_path, read):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ValueError, match=r"a\.png: expected a readable image, got: Is a directory"):
        read(tmp_path / "a.png")


def test_a_header_that_claims_a_gigantic_image_is_refused_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data
        chunks += struct.pack(">I", zlib.crc32(name + data))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(
        ValueError, match=r"bomb\.png: expected .* got 60000 x 60000 .*--max-pixels"
    ):
        read_image(path)


def test_pages_of_a_damaged_tiff_are_counted_without_a_warning(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(smooth()).save(path)
    content = bytearray(path.read_bytes())
    content[8] = 255  # so many entries has the table of tags
    path.write_bytes(content)
    result, error = read_or_error(read_image, path)  # warnings are errors in these tests
    assert result is not None or str(path) in error


@quick
@given(data=st.data(), kind=st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff", "ppm"]))
def test_a_damaged_image_gives_pixels_or_an_error_that_names_it(data, kind, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    Image.fromarray(smooth()).save(path, kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, min(len(content), 300) - 1))
        content[place] = data.draw(st.sampled_from([0, 255, 1, 128]))
    path.write_bytes(content)
    for read in (read_image, read_mask):
        result, error = read_or_error(read, path)
        assert result is not None or str(path) in error


# masks


def test_a_palette_mask_is_where_the_index_is_not_zero(tmp_path):
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 2
    image = Image.fromarray(indices)
    image.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white: colours say nothing
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), indices != 0)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "LA"])
def test_a_mask_is_where_any_colour_is_not_zero(tmp_path, mode):
    expected = np.random.default_rng(3).integers(0, 2, (HEIGHT, WIDTH)).astype(np.bool_)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    one = expected.astype(np.uint8)
    arrays = {
        "1": expected,
        "L": one,
        "I;16": expected.astype(np.uint16) * 256,  # the lower 8 bits are zero
        "RGB": np.dstack([empty, empty, one]),
        "RGBA": np.dstack([empty, one, empty, alpha]),
        "LA": np.dstack([one, alpha]),
    }
    Image.fromarray(arrays[mode], "LA" if mode == "LA" else None).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_any_value_of_a_16_bit_mask_is_the_object(tmp_path, value):
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[2, 3] = value
    cv2.imwrite(str(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values != 0)


# files without a path


def test_a_file_that_came_over_the_wire_is_read_alike_and_named(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    file = NamedFile(content, "image (a.png)")
    assert read_header(file) == Header("PNG", colours().shape[:2])
    np.testing.assert_array_equal(read_image(file).pixels, colours())
    with pytest.raises(ValueError, match=r"^image \(a\.png\): expected a readable image"):
        read_image(NamedFile(content[:60], "image (a.png)"))


def test_a_header_tells_type_and_size_of_what_cannot_be_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (7000, 5000)).save(buffer, "jpeg")
    assert read_header(NamedFile(buffer.getvalue()[:1000], "a")) == Header("JPEG", (5000, 7000))


def test_a_palette_that_is_missing_is_an_error_that_names_the_file():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)
    data = zlib.compress(bytes(20))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*one) for one in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
    with pytest.raises(ValueError, match=r"^a\.png: expected a readable image, got: "):
        read_image(NamedFile(content, "a.png"))


# writing


@quick
@given(mask=masks(max_side=40))
def test_a_written_mask_is_read_back(mask: Mask, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mask.png"
    path.write_bytes(encode_mask(mask))
    np.testing.assert_array_equal(read_mask(path), mask.to_array())
    with Image.open(path) as file:
        assert file.mode == "L"
        assert set(np.unique(np.asarray(file))) <= {0, 255}


def test_written_pixels_are_read_back(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(colours()))
    np.testing.assert_array_equal(read_image(path).pixels, colours())
