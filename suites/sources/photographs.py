"""Read one image file as 8-bit pixels: by content, upright, flattened, scaled and cut to size.

Raster formats with a signature only: Pillow's EPS reader, for one, would run Ghostscript on untrusted files.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImagePalette, UnidentifiedImageError

from pudnet_bench.suites.sources.catalog import Background
from pudnet_bench.suites.sources.content import resized

FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM",
    "BLP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "ICNS", "ICO", "MSP", "PCX", "PIXAR", "PSD", "QOI", "SGI", "SUN",
    "XBM", "XPM", "TGA",
)  # fmt: skip
MOST_PIXELS = 2 * 89_478_485  # where Pillow takes an image for a decompression bomb
SIGNATURE = 16  # bytes that tell a format
INTEGERS = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
DEEP = INTEGERS | {"F"}  # more than 8 bits; always grey
GREY = DEEP | {"1", "L", "LA", "La"}
ORIENTATION = 0x0112  # of EXIF
BITS, SAMPLE_FORMAT = 258, 339  # of TIFF
UNSIGNED, SIGNED = 1, 2
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
WHITES = (1.0, 255.0, 65_535.0)  # what floats are usually scaled to
Span = tuple[float, float]  # the smallest and the largest value


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded.

    Attributes:
        size: Width and height in pixels, upright.
        turned: Whether EXIF says to turn or mirror it.
        kind: "integers" or "floats" of more than 8 bits, "colour" of 16 bits, or "".
        span: Of a kind: the values in it; Pillow keeps the upper 8 bits of 16-bit colour.
    """

    size: tuple[int, int]
    grey: bool
    alpha: bool
    turned: bool
    kind: str = ""
    span: Span = (0, 0)


@dataclass(frozen=True)
class Window:
    """The values that become black and white, the same for all images of a kind in a source."""

    black: float
    white: float


@dataclass(frozen=True)
class Reading:
    """How the images of a source become pixels.

    Attributes:
        channels: 1 or 3.
        size: Side in pixels; None: as stored.
        crop: Whether the shorter side becomes `size` and the centre is cut out; otherwise both sides are resized.
        background: What transparent pixels lie on.
        windows: By `Header.kind`.
    """

    channels: int
    size: int | None
    crop: bool
    background: Background
    windows: Mapping[str, Window]


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow reads. Loading its readers is not thread-safe: call this first."""
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_opened` has a limit of its own
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the names of images, in lower case: `.png`, `.jpg`, ..."""
    readable = {*formats(), "MPO"}
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def is_image(path: str) -> bool:
    """Whether the content of a file is that of an image, whatever its name says."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with Path(path).open("rb") as file:
            start = file.read(SIGNATURE)
        if not any(accept(start) for name in formats() if (accept := Image.OPEN[name][1]) is not None):
            return False
        with _opened(path) as image:
            return image.format != "TGA"  # which has no signature
    except Exception:
        return False


def read_header(path: str, *, spans: bool = True) -> Header:
    """Read what a file says of its image; the values of a deep one too, with `spans`. Raises nearly any exception."""
    with _opened(path) as image:
        kind = _kind(image)
        orientation = _orientation(image, _late_exif(image) if image.format == "PNG" else b"")
        turned = orientation != 1
        if turned and image.format == "TIFF":
            image.load()
            orientation = _orientation(image)  # upright now: Pillow turns these itself
        size = image.size[::-1] if orientation in SIDEWAYS else image.size
        grey = image.mode in GREY or (image.mode in ("P", "PA") and _is_grey(image.palette))
        alpha = image.has_transparency_data
        span = _span(image, kind) if kind and spans else (0, 0)
    return Header(size, grey, alpha, turned, kind, span)


def read_pixels(path: str, reading: Reading) -> np.ndarray:
    """Return uint8 [h, w] for one channel, [h, w, 3] for three. Raises nearly any exception for a damaged file."""
    with _opened(path) as stored:
        kind = _kind(stored)
        stored.load()
        image = _eight_bits(stored, reading.windows[kind], reading.background) if stored.mode in DEEP else stored
        if image is stored and stored.has_transparency_data:
            image = _flattened(stored, reading.background)
        orientation = _orientation(stored)
        image = _converted(image, "L" if reading.channels == 1 else "RGB")
        if orientation != 1:
            image = image.transpose(UPRIGHT[orientation])
    if reading.size is None or image.size == (reading.size, reading.size):
        return np.asarray(image)
    return _cropped(image, reading.size) if reading.crop else resized(image, reading.size)


def reason_of(error: Exception) -> str:
    """Return why a file could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(reason.split())[:120]


def window_of(kind: str, span: Span) -> Window:
    """Return the window for the values of all images of a kind in a source.

    White is the most that their bits hold (4095 for 12 bits), or 1, 255 or 65535 for floats. Values that use less than half
    of that, or are negative, have a window of their own: the smallest is black and the largest white.
    """
    low, high = span
    whites = WHITES if kind == "floats" else [float(2 ** max(1, int(high).bit_length()) - 1)] if high >= 0 else []
    white = next((white for white in whites if high <= white), None)
    if white is not None and low >= 0 and high - low >= white / 2:
        return Window(0, white)
    return Window(low, high)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open a regular file as an image of an allowed format; a pipe or a device would block."""
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        if not found.st_size:
            raise OSError("an empty file")
    except FileNotFoundError:
        raise OSError("a link to nothing" if Path(path).is_symlink() else "it is gone") from None
    # Not by its name: Pillow would map an uncompressed TIFF into memory, and misread one that is turned on its side.
    with Path(path).open("rb") as file, Image.open(file, formats=formats()) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        if image.mode == "L" and getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (1,)) == (SIGNED,):
            raise ValueError("8 bits with a sign, which Pillow misreads")
        yield image


def _orientation(image: Image.Image, late: bytes = b"") -> int:
    """Return EXIF's orientation, 1 for upright, without decoding the image; that of `late` data where its header has none."""
    try:
        exif = Image.Image.getexif(image)  # the method of PNG would decode it
        if late and ORIENTATION not in exif:
            exif.load(late)
        orientation = exif.get(ORIENTATION, 1)
    except Exception:  # damaged EXIF, which viewers pass over too
        return 1
    return orientation if orientation in UPRIGHT else 1


def _late_exif(image: Image.Image) -> bytes:
    """Return the EXIF of a PNG that is not decoded yet; ImageMagick writes it after the pixels, where no header is read."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
        return b""
    finally:
        file.seek(position)


def _kind(image: Image.Image) -> str:
    """Return the `Header.kind` of an image that is not decoded yet."""
    if image.mode in DEEP:
        return "floats" if image.mode == "F" else "integers"
    tiles = getattr(image, "tile", ())
    return "colour" if image.format in ("PNG", "TIFF", "SGI") and any(";16" in str(tile[3]) for tile in tiles) else ""


def _span(image: Image.Image, kind: str) -> Span:
    values = np.asarray(image.convert("RGB")) if kind == "colour" else _values(image)
    return float(values.min()), float(values.max())


def _values(image: Image.Image) -> np.ndarray:
    """Return float64 [h, w] of an image in one of the modes `DEEP`. Raises ValueError for values that are not finite."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,):
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    return values


def _eight_bits(image: Image.Image, window: Window, background: Background) -> Image.Image:
    """Return the image of one of the modes `DEEP` as 8-bit grey; a value that stands for transparent as the background."""
    values = _values(image)
    width = window.white - window.black
    if image.mode == "F":
        scaled = np.rint((values - window.black) * (255 / width if width else 0))
    else:
        scaled = np.floor((values - window.black) * 256 / (width + 1))
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[values == clear] = 255 if background == Background.WHITE else 0
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _flattened(image: Image.Image, background: Background) -> Image.Image:
    """Return the image as RGBA, composed on the background."""
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)  # from colour multiplied by alpha
    layer = image.convert(straight).convert("RGBA")
    canvas = Image.new("RGBA", layer.size, background.value)
    canvas.alpha_composite(layer)
    return canvas


def _converted(image: Image.Image, mode: str) -> Image.Image:
    direct = image.mode in ("1", "L", "P", "PA", "RGB", "RGBA", "RGBX")
    return image.convert(mode) if direct or mode == "RGB" else image.convert("RGB").convert(mode)


def _is_grey(palette: ImagePalette.ImagePalette | None) -> bool:
    """Whether the colours of a palette are all grey."""
    if palette is None:
        return False
    mode = palette.rawmode or palette.mode
    colours = np.frombuffer(bytes(palette.palette), np.uint8)
    bands = len(mode.split(";")[0])
    if not len(colours) or bands < 3:
        return False
    if mode.endswith(";L"):  # one band after the other, as in TIFF
        planes = colours[: len(colours) // bands * bands].reshape(bands, -1)
    else:
        planes = colours[: len(colours) // bands * bands].reshape(-1, bands).T
    return bool((planes[1:3] == planes[0]).all())


def _cropped(image: Image.Image, size: int) -> np.ndarray:
    """Return the pixels of the centre of `image`, its shorter side resized to `size`; torchvision's Resize and CenterCrop."""
    shorter = min(image.size)
    width, height = (max(size, int(size * side / shorter)) for side in image.size)
    if width * height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels: too long and thin to resize")
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
