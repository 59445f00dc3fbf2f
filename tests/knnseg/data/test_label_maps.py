"""Label maps are the numbers that a file stores, whatever its depth, or an error. Files are written here byte by byte."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from knnseg.data.masks import Masks
from knnseg.data.reading import load_image, load_label_map, load_panoptic_png
from knnseg.errors import ImageError, MaskError, ShapeError
from knnseg.evaluation.metrics import ConfusionMatrix, PanopticQuality

GREY, COLOUR, PALETTE, GREY_ALPHA = 0, 2, 3, 4
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column and row of each pass, and the steps."""


def numbers(depth, size=(9, 13), seed=0):
    return np.random.default_rng(seed).integers(0, min(2**depth, 1 << 16), size)


def packed(row, depth):
    """Samples of a row from the highest bits on, filled up to whole bytes."""
    bits = "".join(f"{int(value):0{depth}b}" for value in row)
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, depth, colour=GREY, interlaced=False, extra=b""):
    height, width = values.shape[:2]
    parts = [values[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [values]
    rows = b"".join(b"\0" + packed(row.reshape(-1), depth) for part in parts if part.size for row in part)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(np.random.default_rng(1).integers(0, 256, 3 * 2**depth, np.uint8)))
    return b"\x89PNG\r\n\x1a\n" + header + (palette if colour == PALETTE else b"") + extra + chunk(
        b"IDAT", zlib.compress(rows)
    ) + chunk(b"IEND", b"")  # fmt: skip


def tiff(values, depth, order="<", compression=1, photometric=1, **tags):
    """One strip; ``tags`` are shorts by name, such as ``fill_order``."""
    height, width = values.shape
    little = order == "<"
    if depth in (16, 32):
        data = values.astype(f"{order}u{depth // 8}").tobytes()
    else:
        data = b"".join(packed(row, depth) for row in values)
    data = zlib.compress(data) if compression == 8 else data
    named = {"fill_order": 266, "orientation": 274, "sample_format": 339}
    shorts = {256: width, 257: height, 258: depth, 259: compression, 262: photometric, 277: 1, 278: height}
    shorts |= {named[name]: value for name, value in tags.items()}
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()]
    colours, offset = 3 * 2**depth, 8
    if photometric == 3:
        entries.append(struct.pack(f"{order}HHII", 320, 3, colours, 8 + len(data) + len(data) % 2))
    entries += [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in ((273, offset), (279, len(data)))]
    entries.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    body = data + b"\0" * (len(data) % 2) + (bytes(range(256)) * 24)[: 2 * colours] * (photometric == 3)
    head = (b"II*\0" if little else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


def bmp(values, depth, palette):
    height, width = values.shape
    rows = [packed(row, depth) for row in values[::-1]]
    data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    colours = b"".join(bytes([*palette(i), 0]) for i in range(2**depth))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, 0, len(data), 0, 0, 2**depth, 0)
    offset = 14 + 40 + len(colours)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + colours + data


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"), [*((GREY, depth) for depth in (1, 2, 4, 8, 16)), *((PALETTE, depth) for depth in (1, 2, 4, 8))]
)
def test_a_png_of_any_depth_is_read_as_it_is_stored(tmp_path, colour, depth, interlaced):
    values = numbers(depth)
    data = png(values, depth, colour, interlaced)
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", Image.open(io.BytesIO(data))):
        loaded = load_label_map(source)
        assert loaded.dtype == np.int32 and np.array_equal(loaded, values)


def test_transparency_does_not_change_labels():
    values = numbers(4)
    assert np.array_equal(load_label_map(png(values, 4, GREY, extra=chunk(b"tRNS", b"\0\3"))), values)
    assert np.array_equal(load_label_map(png(values, 4, PALETTE, extra=chunk(b"tRNS", b"\0" * 8))), values)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_tiff_of_any_depth_is_read_as_it_is_stored(depth, order, compression):
    values = numbers(depth, (8, 16))
    assert np.array_equal(load_label_map(tiff(values, depth, order, compression)), values)
    if depth < 16:
        assert np.array_equal(load_label_map(tiff(values, depth, order, compression, photometric=3)), values)


def test_a_tiff_of_32_bits_is_read_or_refused():
    values = numbers(16) * 30_000
    assert np.array_equal(load_label_map(tiff(values, 32)), values)
    with pytest.raises(ImageError, match="below 2³¹"):
        load_label_map(tiff(values + 2**31, 32))


@pytest.mark.parametrize(
    "change", [{"photometric": 0}, {"fill_order": 2}, {"sample_format": 2}, {"photometric": 0, "compression": 8}]
)
def test_a_tiff_whose_samples_mean_something_else_is_refused(change):
    with pytest.raises(ImageError, match=r"stored as they are.*L;"):
        load_label_map(tiff(numbers(8), 8, **change))


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_a_bmp_is_read_as_it_is_stored_or_refused(depth):
    values = numbers(depth)
    assert np.array_equal(load_label_map(bmp(values, depth, lambda i: (i, 255 - i, 7))), values)
    grey = bmp(values, depth, (lambda i: (255 * i,) * 3) if depth == 1 else lambda i: (i,) * 3)
    if depth == 4:  # which Pillow reads as if it had 8 bits
        with pytest.raises(ImageError, match="L of 4 bits"):
            load_label_map(grey)
    else:
        assert np.array_equal(load_label_map(grey), values)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_gif_of_one_whole_frame_is_read():
    values = numbers(8).astype(np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putpalette(list(np.random.default_rng(2).integers(0, 256, 768)))
    palette.putdata(values.reshape(-1).tolist())
    assert np.array_equal(load_label_map(saved(palette, "GIF", optimize=False)), values)
    assert np.array_equal(load_label_map(saved(Image.fromarray(values), "GIF", optimize=False)), values)
    with pytest.raises(ImageError, match="2 frames"):
        frames = [Image.fromarray(values), Image.fromarray(values[::-1])]
        load_label_map(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    part = bytearray(saved(palette, "GIF", optimize=False))
    at = part.index(b"\x2c" + struct.pack("<HH", 0, 0))
    part[6:10] = struct.pack("<HH", 20, 20)  # a larger canvas around the frame
    assert at > 0
    with pytest.raises(ImageError, match="smaller frame"):
        load_label_map(bytes(part))


def test_a_pgm_is_read_unless_it_is_scaled():
    values = numbers(8).astype(np.uint8)
    for data, want in ((values.tobytes(), 255), (values.astype(">u2").tobytes(), 65535)):
        assert np.array_equal(load_label_map(b"P5 13 9 %d\n" % want + data), values)
    with pytest.raises(ImageError, match="of ppm"):
        load_label_map(b"P5 13 9 3\n" + (values % 4).tobytes())
    with pytest.raises(ImageError, match="1;I"):
        load_label_map(b"P4 13 9\n" + b"\0" * 18)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100}), ("JPEG2000", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "jpeg"}), ("AVIF", {}),
    ],
)  # fmt: skip
def test_formats_that_lose_a_little_are_refused_whatever_the_file_is_called(tmp_path, kind, options):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    mask = Image.fromarray((numbers(1, (32, 32)) * 255).astype(np.uint8))
    for image, load in ((mask, load_label_map), (mask.convert("RGB"), load_panoptic_png)):
        (tmp_path / "mask.png").write_bytes(saved(image, kind, **options))
        with pytest.raises(ImageError, match=r"mask\.png: .*: expected .*, got"):
            load(tmp_path / "mask.png")
        if kind != "WEBP":  # which has no grey, so that the mode says it first
            with pytest.raises(ImageError, match=f"keeps every number.*PNG, got {kind}"):
                load(tmp_path / "mask.png")


def test_several_pages_or_frames_are_refused():
    pages = [Image.fromarray(numbers(8, seed=i).astype(np.uint8)) for i in range(3)]
    for kind in ("TIFF", "PNG"):
        with pytest.raises(ImageError, match="3 frames or pages"):
            load_label_map(saved(pages[0], kind, save_all=True, append_images=pages[1:]))


def test_a_map_of_several_channels_is_refused():
    for image in (png(numbers(8, (9, 13, 2)), 8, GREY_ALPHA), png(numbers(8, (9, 13, 3)), 8, COLOUR)):
        with pytest.raises(ImageError, match="one channel"):
            load_label_map(image)


def test_an_image_that_is_decoded_already_tells_no_numbers():
    opened = Image.open(io.BytesIO(png(numbers(2), 2)))
    opened.load()
    with pytest.raises(ImageError, match=r"has not been decoded.*numpy\.asarray"):
        load_label_map(opened)
    made = Image.fromarray(numbers(8).astype(np.uint8))
    assert np.array_equal(load_label_map(made), numbers(8))


def test_panoptic_pngs_are_of_8_bits_a_channel():
    values = numbers(8, (9, 13, 3))
    assert np.array_equal(load_panoptic_png(png(values, 8, COLOUR)), values @ [1, 256, 65536])
    with pytest.raises(ImageError, match="RGB;16B"):
        load_panoptic_png(png(values, 16, COLOUR))


def test_a_map_that_is_tagged_as_lying_on_its_side_is_turned_like_its_photograph():
    values = numbers(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(values.astype(np.uint8))
    assert np.array_equal(load_label_map(saved(image, "PNG", exif=exif)), np.rot90(values, -1))
    assert np.array_equal(load_label_map(tiff(values, 8, orientation=6)), np.rot90(values, -1))


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2**24 - 1)))
def test_what_is_written_is_read_back(values):
    """As results are saved: classes in 16 bits, segments in three channels; and classes in 8 bits."""
    for dtype in (np.uint8, np.uint16):
        assert np.array_equal(load_label_map(saved(Image.fromarray(values.astype(dtype)), "PNG")), values.astype(dtype))
    digits = np.stack([values // 256**i % 256 for i in range(3)], -1).astype(np.uint8)
    assert np.array_equal(load_panoptic_png(saved(Image.fromarray(digits), "PNG")), values)


# -- arrays -----------------------------------------------------------------------------------------------------------

MASKED = np.ma.masked_equal(np.array([[0, 1], [255, 1]], np.uint8), 255)


def test_arrays_that_are_whole_numbers_are_taken():
    for dtype in (bool, np.uint8, np.int64, np.uint64):
        assert load_label_map(np.eye(3, dtype=dtype)).tolist() == np.eye(3).tolist()
    assert load_label_map(np.full((2, 2), -1)).min() == -1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (MASKED, r"masked.*filled"), (np.eye(3), "expected an integer array"), (np.full((2, 2), 2**40), "fit int32"),
        (np.full((2, 2), 2**63, np.uint64), "fit int32"), (np.zeros((2, 2, 3), np.uint8), r"\(H, W\)"),
        (np.array([["a"]]), "integer"), (np.array([[None]]), "objects"),
    ],
)  # fmt: skip
def test_arrays_that_are_none_are_refused(array, said):
    with pytest.raises(ImageError, match=said):
        load_label_map(array)


def test_a_mask_is_never_forgotten():
    image = np.ma.masked_equal(np.zeros((2, 2, 3), np.uint8), 0)
    with pytest.raises(ImageError, match="masked"):
        load_image(image)
    for make in (lambda: Masks.from_dense((MASKED == 1)[None]), lambda: Masks.from_partition(MASKED)):
        with pytest.raises(MaskError, match="masked"):
            make()
    plain = np.zeros((2, 2), np.int32)
    for truth, predicted in ((MASKED, plain), (plain, MASKED)):
        with pytest.raises(ShapeError, match="masked"):
            ConfusionMatrix(2).add(truth, predicted)
        with pytest.raises(ShapeError, match="masked"):
            PanopticQuality(2).add(truth, {1: 0}, predicted, {1: 0})


def test_classes_are_no_fractions():
    with pytest.raises(ShapeError, match="integer array"):
        ConfusionMatrix(2).add(np.full((2, 2), 0.5), np.zeros((2, 2), int))
    with pytest.raises(MaskError, match="integer array"):
        Masks.from_partition(np.zeros((2, 2)))


def test_a_tensor_that_wants_a_gradient_is_refused_by_name():
    tensor = torch.ones((1, 2, 2), requires_grad=True)
    with pytest.raises(MaskError, match=r"Tensor.*detach"):
        Masks.from_dense(tensor)
    with pytest.raises(ImageError, match="Tensor"):
        load_image(tensor)
    with pytest.raises(ImageError, match="Tensor"):
        load_label_map(tensor)
    assert Masks.from_dense(tensor.detach()).areas.tolist() == [4]
