import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from knnseg.data.image import content_hash
from knnseg.data.reading import fit, load_image, load_label_map, load_panoptic_png, resize
from knnseg.errors import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def test_an_rgb_file_comes_back_as_it_is(tmp_path):
    assert np.array_equal(load_image(saved(Image.fromarray(RGB), tmp_path / "a.png")), RGB)
    assert np.array_equal(load_image((tmp_path / "a.png").read_bytes()), RGB)
    assert np.array_equal(load_image(Image.fromarray(RGB)), RGB)


def test_arrays_are_copied():
    array = RGB.copy()
    loaded = load_image(array)
    array[:] = 0
    assert np.array_equal(loaded, RGB)
    assert load_image(RGB[..., 0]).shape == (12, 20, 3)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    path = saved(Image.fromarray(RGB), tmp_path / "a.png", exif=exif)
    loaded = load_image(path)
    assert np.array_equal(load_image(path, upright=False), RGB)
    assert np.array_equal(loaded, np.rot90(RGB, -1))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    wide = (np.arange(240, dtype=np.uint16).reshape(12, 20)) * 257
    loaded = load_image(saved(Image.fromarray(wide), tmp_path / "a.png"))
    assert np.array_equal(loaded[..., 0], np.arange(240).reshape(12, 20))


def test_cmyk_grey_palette_and_alpha(tmp_path):
    image = Image.fromarray(RGB)
    assert load_image(saved(image.convert("CMYK"), tmp_path / "a.jpg")).shape == (12, 20, 3)
    assert np.array_equal(
        load_image(saved(image.convert("L"), tmp_path / "g.png"))[..., 0], np.asarray(image.convert("L"))
    )
    palette = image.quantize(8)
    assert np.array_equal(load_image(saved(palette, tmp_path / "p.png")), np.asarray(palette.convert("RGB")))
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (load_image(saved(clear, tmp_path / "t.png")) == 255).all()


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (load_image(tmp_path / "a.gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("cut", [40, 200])
def test_truncated_files(tmp_path, cut):
    path = saved(Image.fromarray(RGB), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ImageError, match=r"a\.png"):
        load_image(path)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"a\.png"):
        load_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageError):
        load_image(tmp_path)  # a folder


def bomb(width, height):
    """A PNG of a few bytes that claims any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 10_000, 60_000])
def test_decompression_bombs_are_refused_before_decoding(side):
    with pytest.raises(ImageError, match="pixels"):
        load_image(bomb(side, side))


@pytest.mark.parametrize(
    "array", [RGB.astype(np.float32), RGB[None], np.zeros((0, 5, 3), np.uint8), RGB.transpose(2, 0, 1)]
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ImageError, match="expected"):
        load_image(array)


def test_floating_point_images_are_refused(tmp_path):
    path = saved(Image.fromarray(RGB[..., 0].astype(np.float32)), tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating point"):
        load_image(path)


def test_label_maps_keep_their_numbers(tmp_path):
    numbers = RNG.integers(0, 200, (12, 20)).astype(np.uint8)
    assert np.array_equal(load_label_map(saved(Image.fromarray(numbers), tmp_path / "a.png")), numbers)
    wide = numbers.astype(np.uint16) * 300
    assert np.array_equal(load_label_map(saved(Image.fromarray(wide), tmp_path / "b.png")), wide)
    palette = Image.fromarray(numbers % 16).convert("P")
    palette.putpalette(list(range(48)))
    assert np.array_equal(load_label_map(saved(palette, tmp_path / "c.png")), numbers % 16)
    with pytest.raises(ImageError, match="one channel"):
        load_label_map(saved(Image.fromarray(RGB), tmp_path / "d.png"))


def test_panoptic_pngs_are_decoded(tmp_path):
    path = saved(Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)), tmp_path / "a.png")
    assert load_panoptic_png(path)[0, 0] == 1 + 2 * 256 + 3 * 65536
    with pytest.raises(ImageError, match="RGB"):
        load_panoptic_png(saved(Image.fromarray(RGB[..., 0]), tmp_path / "b.png"))


def test_the_hash_is_of_the_picture_not_of_the_file(tmp_path):
    png, tif = saved(Image.fromarray(RGB), tmp_path / "a.png"), saved(Image.fromarray(RGB), tmp_path / "a.tif")
    assert content_hash(load_image(png)) == content_hash(load_image(tif)) != content_hash(RGB.reshape(20, 12, 3))


def test_fit_and_resize():
    assert fit((213, 320), 224, 16) == (224, 336)
    assert fit((5, 1000), 32, 14) == (28, 6398)
    assert resize(RGB, (6, 10)).shape == (6, 10, 3)


def test_images_in_unusual_modes_from_memory():
    assert load_image(Image.new("LA", (4, 4), (10, 0))).max() == 255
    buffer = io.BytesIO()
    Image.new("1", (4, 4), 1).save(buffer, "PNG")
    assert (load_image(buffer.getvalue()) == 255).all()


def test_an_image_too_narrow_to_be_resized_is_refused():
    assert fit((100, 300), 224, 14) == (224, 672)
    with pytest.raises(ImageError, match=r"300000×1.*more usual ratio.*short_side"):
        fit((1, 300_000), 224, 14)
