"""Images as people have them: turned, transparent, deep, of odd formats, broken, of many sizes."""

from __future__ import annotations

import os
import re
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from pudnet_bench.suites.sources import SourceError
from pudnet_bench.suites.sources.catalog import Background
from pudnet_bench.suites.sources.image_folders import survey_image_folder
from pudnet_bench.suites.sources.loading import Source, load

ORIENTATION = 0x0112
BACK = {  # how a picture lies in a file whose orientation turns it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(seed: int, width: int = 16, height: int = 12, bands: int = 3) -> Image.Image:
    """A picture that lossy formats keep nearly as it is."""
    small = Image.fromarray(noise(seed, 2, 2, 3)).resize((width, height), Image.Resampling.BILINEAR)
    return small if bands == 3 else small.getchannel(0)


def read(root: Path, size: int | None = None, background: Background = Background.WHITE) -> Source:
    cache = root.parent / f"cache-{root.name}"
    return load("mine", data_dir=None, cache_dir=cache, folders={"mine": root}, size=size, background=background)


def pixels(source: Source, index: int = 0) -> np.ndarray:
    """[h, w] or [h, w, 3]."""
    return source.images[index].transpose(1, 2, 0).squeeze()


def put(root: Path, name: str, image: Image.Image, format: str | None = None, **options: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format, **options)
    return path


# --- EXIF -----------------------------------------------------------------------------------------


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),  # Pillow turns these itself
        ("tiff", {"compression": "tiff_lzw"}),
        ("jpg", {"quality": 100, "subsampling": 0}),
        ("webp", {"lossless": True}),
        pytest.param(
            "avif",
            {"quality": 100},
            marks=pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF"),
        ),
    ],
)
def test_pictures_are_turned_upright(tmp_path: Path, suffix: str, options: dict[str, object], bands: int) -> None:
    root = tmp_path / "in"
    upright = [smooth(orientation, bands=bands) for orientation in range(1, 9)]
    for orientation, picture in enumerate(upright, 1):
        stored = picture.transpose(BACK[orientation]) if orientation > 1 else picture
        put(root, f"a/{orientation}.{suffix}", stored, exif=exif(orientation), **options)
    source = read(root)
    assert source.images.shape[2:] == (12, 16)
    for index, picture in enumerate(upright):
        shown = pixels(source, index) if source.images.shape[1] == bands else pixels(source, index)[..., 0]
        assert np.abs(shown.astype(int) - np.asarray(picture)).mean() < 3, index + 1
    assert survey_image_folder(root)[0].turned == 7


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_exif_that_a_png_has_after_its_pixels_counts_too(tmp_path: Path) -> None:
    upright = smooth(0)
    path = put(tmp_path / "in", "a/0.png", upright.transpose(BACK[6]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")) + whole[-12:])
    put(tmp_path / "in", "a/1.png", smooth(1))
    source = read(tmp_path / "in")
    np.testing.assert_array_equal(pixels(source), np.asarray(upright))


@pytest.mark.parametrize("damaged", [b"Exif\0\0junk", b"Exif\0\0", b"\xff" * 40])
def test_damaged_exif_does_not_spoil_a_picture(tmp_path: Path, damaged: bytes) -> None:
    put(tmp_path / "in", "a/0.jpg", smooth(0), exif=damaged)
    assert read(tmp_path / "in").images.shape == (1, 3, 12, 16)


# --- transparency ---------------------------------------------------------------------------------


def with_alpha(mode: str) -> Image.Image:
    """Black everywhere; its first column transparent, its second half so."""
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:, 0], alpha[:, 1] = 0, 128
    black = np.zeros((8, 8, 1), np.uint8)
    bands = 1 if mode == "LA" else 3
    return Image.fromarray(np.concatenate([black] * bands + [alpha[..., None]], axis=2))


def palette(transparency: object) -> tuple[Image.Image, dict[str, object]]:
    image = Image.fromarray(np.full((8, 8), 2, np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
    image.putpixel((0, 0), 0)
    image.putpixel((1, 0), 1)
    return image, {"transparency": transparency}


@pytest.mark.parametrize("background", list(Background))
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("LA", "tif"), ("RGBA", "tga")],
)
def test_transparency_is_laid_on_the_background(tmp_path: Path, mode: str, suffix: str, background: Background) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    put(tmp_path / "in", f"a/0.{suffix}", with_alpha(mode), **options)
    source = read(tmp_path / "in", background=background)
    assert source.images.shape[1] == (1 if mode == "LA" else 3)
    row = source.images[0, 0, 0]
    full = 255 if background == Background.WHITE else 0
    assert row[0] == full
    assert abs(int(row[1]) - full * 127 / 255) <= 1
    assert (row[2:] == 0).all()


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_transparency_of_a_palette_is_laid_on_white(tmp_path: Path, transparency: object) -> None:
    image, options = palette(transparency)
    put(tmp_path / "in", "a/0.png", image, **options)
    shown = pixels(read(tmp_path / "in"))
    np.testing.assert_array_equal(shown[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(shown[0, 1], [0, 255, 0] if transparency == 0 else [127, 255, 127])
    assert (shown[1:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_a_colour_that_stands_for_transparent_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    grey = np.full((8, 8), 255, np.uint8)
    grey[0] = 0
    stored = grey.astype(np.uint16) * 257 if mode == "I;16" else grey
    image = Image.fromarray(stored) if mode == "I;16" else Image.fromarray(stored).convert(mode)
    put(tmp_path / "in", "a/0.png", image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (read(tmp_path / "in").images == 255).all()
    black = read(tmp_path / "in", background=Background.BLACK)
    assert (black.images[0, :, 0] == 0).all()


def test_backgrounds_have_caches_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "in", "a/0.png", with_alpha("RGBA"))
    first = read(tmp_path / "in")
    assert read(tmp_path / "in", background=Background.BLACK).fingerprint != first.fingerprint
    assert read(tmp_path / "in").fingerprint == first.fingerprint


def test_shapes_in_the_alpha_channel_alone_are_seen(tmp_path: Path) -> None:
    alpha = noise(0, 8, 8)
    icon = np.dstack([np.zeros((8, 8, 3), np.uint8), alpha])
    put(tmp_path / "in", "a/0.png", Image.fromarray(icon))
    np.testing.assert_allclose(read(tmp_path / "in").images[0, 0].astype(int), 255 - alpha.astype(int), atol=1)


# --- more than 8 bits, and other modes ------------------------------------------------------------


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff(array: np.ndarray, sample_format: int) -> bytes:
    """An uncompressed TIFF; formats: 1 unsigned, 2 signed, 3 float."""
    height, width = array.shape
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, array.itemsize * 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 3, height), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHIHxx" if kind == 3 else "<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("stored", "sample_format"),
    [
        (GREY.astype(np.uint16) * 257, 1),  # 16 bits
        (GREY.astype(np.uint16) * 16, 1),  # 12 bits, 0 to 4080
        (GREY.astype(np.uint16) * 4, 1),
        (GREY.astype(np.uint16), 1),
        (GREY.astype(np.uint16) + 40_000, 1),  # a narrow range far from zero
        (GREY.astype(np.int16) - 128, 2),
        (GREY.astype(np.int32) * 1000 - 90_000, 2),
        (GREY.astype(np.uint32) * 16_843_009, 1),  # beyond 2^31
        (GREY.astype(np.float32) / 255, 3),
        (GREY.astype(np.float32), 3),
        (GREY.astype(np.float32) * 257, 3),
        (GREY.astype(np.float32) / 100 - 1.5, 3),
        (GREY.astype(np.float32) * 1e30, 3),
    ],
)
def test_deep_images_keep_their_levels(tmp_path: Path, stored: np.ndarray, sample_format: int) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.tif").write_bytes(tiff(stored, sample_format))
    source = read(tmp_path / "in")
    assert source.images.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(source.images[0, 0].astype(int), GREY.astype(int), atol=1)


def test_one_scale_for_all_images_of_a_source(tmp_path: Path) -> None:
    dark, bright = (GREY // 4).astype(np.uint16) * 16, GREY.astype(np.uint16) * 16
    put(tmp_path / "in", "a/dark.png", Image.fromarray(dark))
    put(tmp_path / "in", "b/bright.png", Image.fromarray(bright))
    put(tmp_path / "in", "c/plain.png", Image.fromarray(GREY))
    source = read(tmp_path / "in")
    np.testing.assert_array_equal(source.images[0, 0], GREY // 4)
    np.testing.assert_array_equal(source.images[1, 0], GREY)
    np.testing.assert_array_equal(source.images[2, 0], GREY)  # 8 bits stay


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    put(tmp_path / "in", "a/0.tif", Image.fromarray(GREY.astype(np.float32) / 255))
    put(tmp_path / "in", "a/1.tif", Image.fromarray(np.full((16, 16), value, np.float32)))
    with pytest.raises(SourceError, match=r"a/1\.tif \(it has values that are not finite\)"):
        read(tmp_path / "in")


def test_bytes_with_a_sign_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.tif").write_bytes(tiff((GREY.astype(int) - 128).astype(np.int8), 2))
    with pytest.raises(SourceError, match=r"a/0\.tif \(8 bits with a sign"):
        read(tmp_path / "in")


@pytest.mark.parametrize(("factor", "refused"), [(257, False), (16, True)])
def test_colour_of_12_bits_in_16_is_refused(tmp_path: Path, factor: int, refused: bool) -> None:
    colour = noise(0, 16, 16, 3).astype(">u2") * factor
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.png").write_bytes(png + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    if refused:
        with pytest.raises(SourceError, match=r"images of 16 bits a channel .* save them with 8 bits"):
            read(tmp_path / "in")
    else:
        np.testing.assert_array_equal(pixels(read(tmp_path / "in")), noise(0, 16, 16, 3))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif"), ("LAB", "tif"), ("P", "gif"), ("RGBX", "tif")],
)
def test_other_colours_become_what_is_seen(tmp_path: Path, mode: str, suffix: str) -> None:
    seen = smooth(0)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        stored = ImageCms.profileToProfile(seen, *profiles, outputMode="LAB")
    else:
        stored = seen.quantize(256) if mode == "P" else seen.convert(mode)
    assert stored is not None
    put(tmp_path / "in", f"a/0.{suffix}", stored)
    assert np.abs(pixels(read(tmp_path / "in")).astype(int) - np.asarray(seen)).mean() < 4


def test_a_palette_of_greys_is_grey_and_one_bit_is_black_and_white(tmp_path: Path) -> None:
    for suffix in ("png", "tif", "bmp", "gif"):
        put(tmp_path / "in", f"{suffix}/0.{suffix}", Image.fromarray(GREY).convert("P"))
    put(tmp_path / "in", "zz/bit.png", Image.fromarray(GREY > 127))
    source = read(tmp_path / "in")
    np.testing.assert_array_equal(source.images[:4, 0], [GREY] * 4)
    np.testing.assert_array_equal(source.images[4, 0], np.where(GREY > 127, 255, 0))
    put(tmp_path / "in", "zz/colour.png", Image.fromarray(noise(0, 16, 16, 3)).quantize(16))
    assert read(tmp_path / "in").images.shape[1] == 3


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("0.jfif", "JPEG"), ("0.jpe", "JPEG"), ("0.JPG", "JPEG"), ("0.mpo", "MPO"), ("0.png", "JPEG"), ("0.jpg", "PNG"),
        ("0.jpg", "WEBP"), ("0.jp2", "JPEG2000"), ("0.tga", "TGA"), ("0.ico", "ICO"), ("0.dds", "DDS"), ("0.pnm", "PPM"),
        ("0.sgi", "SGI"), ("0.qoi", "QOI"), ("0.pcx", "PCX"), ("without suffix", "JPEG"), ("0.jpg?w=300", "JPEG"),
        ("0.txt", "PNG"), ("0.heic", "JPEG"), ("0.avif", "AVIF"), ("0.jpg", "AVIF"),
    ],
)  # fmt: skip
def test_formats_are_told_by_content(tmp_path: Path, name: str, format: str) -> None:
    Image.init()
    if format not in Image.SAVE or (format == "AVIF" and not features.check("avif")):
        pytest.skip(f"a Pillow without {format}")
    put(tmp_path / "in", f"a/{name}", smooth(0, 16, 16), format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = read(tmp_path / "in")
    assert np.abs(pixels(source).astype(int) - np.asarray(smooth(0, 16, 16))).mean() < 6


@pytest.mark.parametrize(
    ("suffix", "format"), [("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF"), ("jpg", "MPO")]
)
def test_of_an_animation_the_first_picture_is_read(tmp_path: Path, suffix: str, format: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    put(tmp_path / "in", f"a/0.{suffix}", first, format, save_all=True, append_images=[second], **options)
    np.testing.assert_allclose(pixels(read(tmp_path / "in")).astype(int), np.asarray(first).astype(int), atol=2)


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a" + bytes(60), b"<svg/>"],
    ids=["eps", "pdf", "wmf", "svg"],
)
def test_no_reader_that_runs_something_is_used(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = tmp_path / "executed"
    for program in ("gs", "convert"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {executed}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    put(tmp_path / "in", "a/0.png", smooth(0))
    for name in ("1.png", "2.eps"):
        (tmp_path / "in" / "a" / name).write_bytes(content)
    with pytest.raises(
        SourceError, match=r"cannot decode 1 of the 2 images .*: a/1\.png \(not an image that can be read\)"
    ):
        read(tmp_path / "in")
    (tmp_path / "in" / "a" / "1.png").unlink()
    with pytest.warns(UserWarning, match=r"passed over 1 file of other kinds \(1 \.eps\)"):
        read(tmp_path / "in")
    assert not executed.exists()


# --- broken files ---------------------------------------------------------------------------------


def break_by(how: str, path: Path, sound: bytes) -> None:
    if how == "html":
        path.write_text("<html>404</html>")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(sound[: len(sound) * 2 // 3])
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "link":
        path.symlink_to("nowhere")
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))


BREAKAGES = ("html", "empty", "truncated", "pipe", "device", "link", "loop", "bomb", "socket")


def test_all_broken_files_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    root = tmp_path / "in"
    sound = put(root, "a/0.jpg", smooth(0, 64, 64)).read_bytes()
    for how in BREAKAGES:
        break_by(how, root / "a" / f"{how}.jpg", sound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SourceError) as caught:
            read(root)
    said = str(caught.value)
    assert said.startswith("cannot decode 9 of the 10 images of ")
    assert said.endswith(": replace or remove them")
    assert "\n" not in said
    for how in BREAKAGES:
        assert re.search(rf"a/{how}\.jpg \([^)]+\)", said), how


def test_of_many_broken_files_ten_are_named(tmp_path: Path) -> None:
    put(tmp_path / "in", "a/0.png", smooth(0))
    for i in range(25):
        (tmp_path / "in" / "a" / f"bad{i:02}.png").write_text("bad")
    with pytest.raises(SourceError, match=r"cannot decode 25 of the 26 .* and 15 more: replace") as caught:
        read(tmp_path / "in")
    assert str(caught.value).count("bad") == 10


def test_files_that_break_after_their_header_are_named_together(tmp_path: Path) -> None:
    for i in range(4):
        path = put(tmp_path / "in", f"a/{i}.png", Image.fromarray(noise(i, 16, 16, 3)))
        if i % 2:
            path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"cannot decode 2 of the 4 images .*: a/1\.png .*, a/3\.png "):
        read(tmp_path / "in")


# --- sizes ----------------------------------------------------------------------------------------


def test_sizes_are_counted_and_the_option_is_named(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "in", f"a/{i}.png", smooth(i, 16, 12))
    put(tmp_path / "in", "a/tall.png", smooth(9, 12, 16))
    (tmp_path / "in" / "a" / "bad.png").write_text("bad")
    with pytest.raises(SourceError) as caught:
        read(tmp_path / "in")
    said = str(caught.value)
    assert "have 2 sizes: 3 of 16x12 (a/0.png), 1 of 12x16 (a/tall.png)" in said
    assert "--image-size N" in said
    assert "a/bad.png" in said  # in the same breath


def test_images_are_cut_as_torchvision_cuts_them(tmp_path: Path) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    sizes = [(40, 30), (30, 41), (9, 33), (24, 24), (7, 5), (25, 24)]
    images = [Image.fromarray(noise(i, height, width, 3)) for i, (width, height) in enumerate(sizes)]
    for i, image in enumerate(images):
        put(tmp_path / "in", f"a/{i}.png", image)
    source = read(tmp_path / "in", size=24)
    assert source.images.shape == (6, 3, 24, 24)
    cut = Compose([Resize(24), CenterCrop(24)])
    for i, image in enumerate(images):
        np.testing.assert_array_equal(pixels(source, i), np.asarray(cut(image)), sizes[i])


def test_an_image_too_long_to_resize_is_named(tmp_path: Path) -> None:
    put(tmp_path / "in", "a/0.png", Image.new("L", (60_000, 1)))
    with pytest.raises(SourceError, match=r"a/0\.png \(60000x1 pixels"):
        read(tmp_path / "in", size=256)


def test_a_class_of_equal_images_is_refused(tmp_path: Path) -> None:
    same = smooth(0)
    for name, images in {"a": [same] * 3, "b": [smooth(1), smooth(2)], "c": [same], "d": [same] * 2}.items():
        for i, image in enumerate(images):
            put(tmp_path / "in", f"{name}/{i}.png", image)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            SourceError, match=r"all images of the class 'a' in .* are equal, and those of 1 other class"
        ):
            read(tmp_path / "in")
