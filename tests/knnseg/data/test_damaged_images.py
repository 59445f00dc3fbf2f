"""Files of cameras, of other programs, and of nobody: what can be seen is read, and the rest is one kind of error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from knnseg.data.reading import load_annotated, load_image, load_label_map, load_panoptic_png
from knnseg.errors import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), np.uint8)
UPRIGHT = {
    1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB),
}  # fmt: skip
"""What a person sees of RGB, by orientation."""


def saved(kind="PNG", image=RGB, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(*entries, order="<", magic=42):
    """EXIF data of one directory; an entry is tag, type, count and four bytes."""
    body = b"".join(struct.pack(f"{order}HHI4s", tag, kind, count, value) for tag, kind, count, value in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", magic, 8)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + body + b"\0\0\0\0"


def turned(orientation):
    return (0x0112, 3, 1, struct.pack("<HH", orientation, 0))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_upright_and_as_stored(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = saved(kind, exif=tags, **options)
    assert np.array_equal(load_image(data), UPRIGHT[orientation])
    assert np.array_equal(load_image(data, upright=False), RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_picture_that_a_map_was_drawn_on(kind, orientation):
    """Where both fit, it is what a person sees."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = saved(kind, exif=tags)
    stored = load_annotated(data, (12, 20))
    assert np.array_equal(stored, RGB if orientation >= 5 else UPRIGHT[orientation])
    assert np.array_equal(load_annotated(data, UPRIGHT[orientation].shape[:2]), UPRIGHT[orientation])
    assert np.array_equal(load_annotated(data, (5, 5)), UPRIGHT[orientation])
    assert np.array_equal(load_annotated(RGB, (20, 12)), RGB)


DAMAGED = {
    "a text where a number belongs": exif((0x0112, 2, 4, b"six\0")),
    "a text in another tag": exif((0x011A, 2, 4, b"abc\0"), turned(6)),
    "a negative number over nothing": exif((0x011A, 10, 1, struct.pack("<I", 8)), turned(6)),
    "an orientation of 77": exif(turned(77)),
    "no directory": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "the header of BigTIFF": exif(turned(6), magic=43),
    "a count of billions": exif((0x0112, 3, 0xFFFFFFFF, b"\0\0\0\0")),
    "an unknown type": exif((0x0112, 99, 1, b"\6\0\0\0"), turned(6)),
    "two numbers": exif((0x0112, 3, 2, struct.pack("<HH", 6, 6))),
    "a share of -1 and 0": exif((0x0112, 10, 1, struct.pack("<I", 0))) + struct.pack("<ii", -1, 0),
    "nothing": b"",
    "half of it": exif(turned(6))[:20],
    "no TIFF": b"Exif\0\0hello, world",
}


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_metadata_do_not_spoil_a_picture(kind, what, upright):
    data = saved(kind, exif=DAMAGED[what], **({"lossless": True} if kind == "WEBP" else {}))
    seen = load_image(data, upright=upright)
    shapes = {(12, 20, 3), (20, 12, 3)} if upright else {(12, 20, 3)}
    assert seen.shape in shapes
    if kind != "JPEG":
        assert any(np.array_equal(seen, view) for view in UPRIGHT.values())


def test_the_orientation_is_read_beside_damaged_entries():
    for what in ("a text in another tag", "a negative number over nothing"):
        assert np.array_equal(load_image(saved(exif=DAMAGED[what])), UPRIGHT[6])


def test_an_orientation_in_xmp_counts():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    data = saved("WEBP", lossless=True, xmp=packet)
    assert np.array_equal(load_image(data), UPRIGHT[8])


def test_numbers_of_more_than_16_bits_are_no_picture():
    with pytest.raises(ImageError, match="8 or 16 bits"):
        load_image(saved("TIFF", np.full((4, 4), 70_000, np.int32)))


# -- nothing but ImageError ---------------------------------------------------------------------------------------------

TAGGED = exif(turned(6), (0x011A, 5, 1, struct.pack("<I", 8)), (0x010F, 2, 4, b"abc\0"))
FILES = {
    "png": saved(exif=TAGGED),
    "grey": saved(image=RGB[..., 0]),
    "jpeg": saved("JPEG", exif=TAGGED),
    "tiff": saved("TIFF", compression="raw"),
    "lzw": saved("TIFF", compression="tiff_lzw"),
    "webp": saved("WEBP", exif=TAGGED),
    "gif": saved("GIF", image=RGB[..., 0]),
    "bmp": saved("BMP"),
    "ppm": saved("PPM"),
}
READERS = (load_image, lambda data: load_image(data, upright=False), load_label_map, load_panoptic_png)


def only_image_errors(data):
    for read in READERS:
        try:
            found = read(data)
        except ImageError as error:
            assert str(error).startswith("bytes: ")
        else:
            assert isinstance(found, np.ndarray) and found.size


def checksummed(data):
    """The chunks of a PNG with checksums that are right again, so that what is in them is looked at."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]


@st.composite
def damaged(draw):
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, min(len(data), 400) - 1) | st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    whole = draw(st.booleans())
    return checksummed(bytes(data if whole else data[: draw(st.integers(0, len(data)))]))


@st.composite
def tagged(draw):
    """Pictures with EXIF data that look right from afar."""
    order, magic = draw(st.sampled_from("<>")), draw(st.sampled_from([42, 42, 42, 43, 0]))
    entry = st.tuples(
        st.sampled_from([0x0112, 0x011A, 0x011B, 0x0128, 0x8769, 0x8825, 0xA005, 0x010F, 0x9286]),
        st.integers(0, 20), st.sampled_from([0, 1, 2, 4, 8, 2**31, 2**32 - 1]), st.binary(min_size=4, max_size=4),
    )  # fmt: skip
    blob = exif(*draw(st.lists(entry, max_size=4)), order=order, magic=magic) + draw(st.binary(max_size=40))
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    return saved(kind, exif=draw(st.sampled_from([blob, blob[: len(blob) // 2], draw(st.binary(max_size=60))])))


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(damaged() | tagged())
def test_nothing_but_image_errors(data):
    only_image_errors(data)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, database=None)
@given(damaged() | tagged() | st.binary(max_size=300))
def test_nothing_but_image_errors_at_length(data):
    only_image_errors(data)


def test_a_tag_that_says_it_is_a_text_and_another_that_is_minus_one_over_zero_in_a_tiff():
    """Of a TIFF they are in the directory of the picture itself."""
    data = saved("TIFF", compression="raw")
    (directory,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[directory : directory + 2])
    for i in range(count):
        for kind in (2, 10, 7, 12, 99):
            broken = bytearray(data)
            struct.pack_into("<H", broken, directory + 2 + 12 * i + 2, kind)
            only_image_errors(bytes(broken))
