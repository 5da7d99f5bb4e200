"""Image files of every kind that a user may have."""

import struct
import zlib

import numpy as np
from PIL import Image


def photo(height=60, width=80, seed=0):
    """A smooth picture: uint8 (height, width, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows):
    """A PNG of given bytes; `rows` may be too few, as in a file whose header lies."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rgb(path):
    Image.fromarray(photo()).save(path)


def grey(path):
    Image.fromarray(photo()).convert("L").save(path)


def cmyk(path):
    Image.fromarray(photo()).convert("CMYK").save(path, quality=95, subsampling=0)


def grey16(path):
    Image.fromarray(photo()[..., 0].astype(np.uint16) * 257).save(path)


def rgb16(path):
    """Pillow writes no such PNG."""
    rows = [(row.astype(">u2") * 257).tobytes() for row in photo().reshape(60, 240)]
    path.write_bytes(png(80, 60, 16, 2, rows))


def palette(path):
    Image.fromarray(photo()).convert("P").save(path)


def transparent(path):
    Image.fromarray(photo()).convert("RGBA").save(path)


def animated(path):
    frames = [Image.fromarray(photo(seed=i)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)


def turned(path):
    """Stored on its side, with the EXIF orientation that turns it upright again."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    Image.fromarray(np.rot90(photo())).save(path, exif=exif, quality=95, subsampling=0)


READ = {
    "rgb.png": rgb,
    "rgb.jpg": rgb,
    "grey.png": grey,
    "grey.jpg": grey,
    "cmyk.jpg": cmyk,
    "grey16.png": grey16,
    "rgb16.png": rgb16,
    "palette.png": palette,
    "transparent.png": transparent,
    "animated.png": animated,
    "animated.gif": animated,
    "animated.webp": animated,
    "turned.jpg": turned,
}


def text(path):
    path.write_text("<html>not found</html>")


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    rgb(path)
    path.write_bytes(path.read_bytes()[:-200])


def tiny(path):
    Image.fromarray(photo()[:2, :3]).save(path)


def strip(path):
    Image.fromarray(photo(20, 4000)).save(path)


def megapixels_100(path):
    """A hundred megapixels of grey, 100 kB."""
    path.write_bytes(png(10000, 10000, 8, 0, [bytes(10000)] * 10000))


def bomb(path):
    """A header that promises a million megapixels."""
    path.write_bytes(png(1000000, 1000000, 8, 2, [b"\0"]))


def missing(path):
    pass


def folder(path):
    path.mkdir()


REFUSED = {
    "text.jpg": (text, "is not an image of a known format"),
    "empty.png": (empty, "is not an image of a known format"),
    "truncated.png": (truncated, "is damaged or truncated"),
    "tiny.png": (tiny, r"has 3x2 pixels, which is too small .*at least 16"),
    "strip.png": (strip, r"has 4000x20 pixels, of which only the centre square .*Crop it"),
    "huge.png": (megapixels_100, r"has 100000000 pixels, more than 67108864\. Scale it down"),
    "bomb.png": (bomb, r"has too many pixels .*Scale it down"),
    "missing.png": (missing, "does not exist. Check the path"),
    "folder.png": (folder, "cannot be read"),
}
