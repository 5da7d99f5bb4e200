"""Decoding of one image file: every colour mode, and files that must not load."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from unmask_tf.data.images import MAX_PIXELS, read_image
from unmask_tf.errors import InputError


def saved(path, image, **arguments):
    image.save(path, **arguments)
    return read_image(path)


def test_rgb_is_read_as_it_is(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    read = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    assert np.array_equal(saved(tmp_path / "l.png", Image.fromarray(grey)), np.stack([grey] * 3, axis=-1))
    assert saved(tmp_path / "1.png", Image.new("1", (2, 1), 1)).tolist() == [[[255] * 3] * 2]

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert saved(tmp_path / "p.png", palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half_clear = saved(tmp_path / "pt.png", palette, transparency=bytes([0, 128]))
    assert half_clear.tolist() == [[[10, 20, 30], [40, 50, 60]]]

    assert saved(tmp_path / "a.png", Image.new("RGBA", (1, 1), (1, 2, 3, 0))).tolist() == [[[1, 2, 3]]]
    assert saved(tmp_path / "la.png", Image.new("LA", (1, 1), (7, 128))).tolist() == [[[7, 7, 7]]]


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path):
    values = np.array([[0, 256, 65535, 32768]], np.uint16)
    assert saved(tmp_path / "g.png", Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 255, 128]


def test_the_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 8, 8))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left side comes to the top
    read = saved(tmp_path / "o.jpg", image, exif=exif, quality=95, subsampling=0)
    assert read.shape == (16, 8, 3)
    assert read[2, 4, 0] > 200 > 60 > read[13, 4, 0]


@pytest.fixture
def jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("allowed_elsewhere", [False, True])
def test_a_truncated_jpeg_is_refused(tmp_path, monkeypatch, jpeg, kept, allowed_elsewhere):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed_elsewhere)
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg)
    assert read_image(path).shape == (48, 64, 3)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed_elsewhere)
    path.write_bytes(jpeg[: int(kept * len(jpeg))])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        read_image(path)


def test_a_truncated_png_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / "cut.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut\.png is damaged or truncated"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an image"),
        (b"<html>not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an image|damaged"),
    ],
)
def test_a_file_that_is_no_image_is_refused(tmp_path, content, complaint):
    path = tmp_path / "fake.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"fake\.jpg is ({complaint})"):
        read_image(path)


def png_of_declared_size(width, height):
    """A PNG whose header promises width x height pixels; its data is a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width", [MAX_PIXELS // 8192 + 1, 2**20])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, width):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_declared_size(width, 8192))
    with pytest.raises(InputError, match=r"bomb\.png has .*pixels"):
        read_image(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)
