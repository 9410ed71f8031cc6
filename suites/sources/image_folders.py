"""Image folders: `DIR/<class>/*` or `DIR/{train,val,test}/<class>/*`."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from pudnet_bench.suites.sources import photographs
from pudnet_bench.suites.sources.catalog import Background, SourceError
from pudnet_bench.suites.sources.content import Content, Listing, images_per_block
from pudnet_bench.suites.sources.folder_layout import Layout, counted, recognise, shown
from pudnet_bench.suites.sources.photographs import Reading, Span, Window, read_header, read_pixels, reason_of

NAMED = 10  # broken files in a message
SIZES_NAMED = 5
HEADERS = 512  # files whose headers one thread reads at a time

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Survey:
    """What the headers of images say; the counts of `new family`.

    Attributes:
        grey, alpha, turned, deep: Images that are grey, have transparency, are turned by EXIF, have more than 8 bits.
        sizes: Images by (width, height); an image of each size is in `examples`.
        spans: The smallest and largest value over all deep images, by `Header.kind`.
        broken: Why a file cannot be read, by its path.
    """

    grey: int = 0
    alpha: int = 0
    turned: int = 0
    deep: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    examples: dict[tuple[int, int], str] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return self.sizes.total()

    def __iadd__(self, other: Survey) -> Survey:
        self.grey += other.grey
        self.alpha += other.alpha
        self.turned += other.turned
        self.deep += other.deep
        self.sizes += other.sizes
        self.examples = other.examples | self.examples
        self.broken |= other.broken
        for kind, span in other.spans.items():
            self._widen(kind, span)
        return self

    def add(self, path: str, header: photographs.Header) -> None:
        """Count one image."""
        self.grey += header.grey
        self.alpha += header.alpha
        self.turned += header.turned
        self.deep += bool(header.kind)
        self.sizes[header.size] += 1
        self.examples.setdefault(header.size, path)
        if header.kind:
            self._widen(header.kind, header.span)

    def _widen(self, kind: str, span: Span) -> None:
        low, high = self.spans.get(kind, span)
        self.spans[kind] = (min(low, span[0]), max(high, span[1]))


def list_image_folder(
    root: Path, channels: int | None, *, crop: bool = False, background: Background = Background.WHITE
) -> Listing:
    """List the images under `root`: those of a class pooled over the splits, classes in the order of their names.

    Args:
        channels: 1 or 3; None: 1 if every image is grey, else 3.
        crop: Whether an image is resized by its shorter side and its centre cut out; otherwise its aspect ratio may change.
        background: What transparent pixels are laid on.

    Raises SourceError if the classes cannot be told or a folder cannot be read; a broken image only when it is decoded.
    """
    layout = recognise(root)
    stamps = [image.stamp for images in layout.classes.values() for image in images]
    reading = f"{'crop' if crop else 'squash'} {background}"
    decode = _Decoding(root, layout, channels, crop, background)
    paths = [image.path for images in layout.classes.values() for image in images]
    return Listing(root, stamps, decode, reading, _warning(root, layout), paths)


def survey_image_folder(root: Path) -> tuple[Survey, Layout]:
    """Return what the headers of the images under `root` say, and the layout. Raises SourceError as `list_image_folder` does."""
    layout = recognise(root)
    paths = [image.path for images in layout.classes.values() for image in images]
    return _surveyed(paths, spans=False), layout


def _warning(root: Path, layout: Layout) -> str:
    passed = [f"passed over {'; '.join(layout.passed_over)}"] if layout.passed_over else []
    said = [*passed, *layout.doubts]
    return f"{shown(str(root))}: {'; '.join(said)}" if said else ""


@dataclass(frozen=True)
class _Decoding:
    """Reads the images of a layout at a size (None: as stored)."""

    root: Path
    layout: Layout
    channels: int | None
    crop: bool
    background: Background

    def __call__(self, size: int | None) -> Content:
        names = tuple(self.layout.classes)
        paths = [image.path for name in names for image in self.layout.classes[name]]
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(self.layout.classes[name]) for name in names])
        survey = _surveyed(paths)
        n_channels = self.channels or (1 if survey.grey == survey.images else 3)
        windows = {kind: self._window(kind, span) for kind, span in survey.spans.items()}
        reading = Reading(n_channels, size, self.crop, self.background, windows)
        if survey.broken or (size is None and len(survey.sizes) > 1):
            raise self._refused(paths, survey, reading)
        width, height = (size, size) if size else next(iter(survey.sizes))
        broken: dict[str, str] = {}

        def block(batch: Sequence[str]) -> np.ndarray:
            out = np.zeros((len(batch), n_channels, height, width), dtype=np.uint8)
            for i, path in enumerate(batch):
                pixels = _pixels(path, reading)
                if isinstance(pixels, str):
                    broken[path] = pixels
                elif pixels.shape[:2] != (height, width):
                    broken[path] = (
                        f"{pixels.shape[1]}x{pixels.shape[0]} pixels and not {width}x{height}; see --image-size"
                    )
                else:
                    out[i] = pixels if n_channels == 1 else pixels.transpose(2, 0, 1)
            return out

        def blocks() -> Iterator[np.ndarray]:
            yield from _in_threads(block, _batches(paths, images_per_block((n_channels, height, width))))
            if broken:  # all of them are named at once
                raise SourceError(self._names_broken(broken, len(paths)))

        return Content((len(paths), n_channels, height, width), labels, names, blocks())

    def _window(self, kind: str, span: Span) -> Window:
        if kind == "colour" and span[1] < 128:
            raise SourceError(
                f"the images of 16 bits a channel in {shown(str(self.root))} do not use the upper ones (all values are below "
                f"{int(span[1] + 1) << 8} of 65536), and the others would be lost: save them with 8 bits"
            )
        return photographs.window_of(kind, span)

    def _refused(self, paths: Sequence[str], survey: Survey, reading: Reading) -> SourceError:
        """Return the error for images that are broken or of several sizes. Decodes all of them, to find every broken one."""
        rest = [path for path in paths if path not in survey.broken]

        def reasons(batch: Sequence[str]) -> dict[str, str]:
            found = ((path, _pixels(path, reading)) for path in batch)
            return {path: pixels for path, pixels in found if isinstance(pixels, str)}

        broken = dict(survey.broken)
        for found in _in_threads(reasons, _batches(rest, HEADERS)):
            broken |= found
        said = [self._names_broken(broken, len(paths))] if broken else []
        if reading.size is None and len(survey.sizes) > 1:
            said.append(self._names_sizes(survey))
        return SourceError("; ".join(said))

    def _names_broken(self, broken: dict[str, str], total: int) -> str:
        names = sorted(broken)[:NAMED]
        listed = ", ".join(f"{shown(os.path.relpath(path, self.root))} ({broken[path]})" for path in names)
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        they = "replace or remove it" if len(broken) == 1 else "replace or remove them"
        return f"cannot decode {len(broken)} of the {total} images of {shown(str(self.root))}: {listed}{more}: {they}"

    def _names_sizes(self, survey: Survey) -> str:
        common = ", ".join(
            f"{n} of {size[0]}x{size[1]} ({shown(os.path.relpath(survey.examples[size], self.root))})"
            for size, n in survey.sizes.most_common(SIZES_NAMED)
        )
        rest = len(survey.sizes) - SIZES_NAMED
        more = f" and {counted(rest, 'other size')}" if rest > 0 else ""
        return (
            f"the images of {shown(str(self.root))} have {len(survey.sizes)} sizes: {common}{more}; bring them to one with "
            "--image-size N, which resizes the shorter side to N pixels and cuts out the centre"
        )


def _batches(paths: Sequence[str], size: int) -> list[Sequence[str]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def _surveyed(paths: Sequence[str], *, spans: bool = True) -> Survey:
    """Return what the headers of the images say; `spans` are those of deep images, which are decoded for it."""

    def one(batch: Sequence[str]) -> Survey:
        survey = Survey()
        for path in batch:
            try:
                survey.add(path, read_header(path, spans=spans))
            except Exception as error:  # Pillow's readers raise nearly every kind of exception on a damaged file
                survey.broken[path] = reason_of(error)
        return survey

    whole = Survey()
    for survey in _in_threads(one, _batches(paths, HEADERS)):
        whole += survey
    return whole


def _pixels(path: str, reading: Reading) -> np.ndarray | str:
    """Return the pixels of an image, or why it cannot be decoded."""
    try:
        return read_pixels(path, reading)
    except Exception as error:
        return reason_of(error)


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`map` over threads, in order and at most one item ahead of each: Pillow releases the interpreter lock.

    `Executor.map` would hold all results that its consumer has not taken yet.
    """
    photographs.formats()  # loading Pillow's readers is not thread-safe
    threads = min(8, os.cpu_count() or 1)
    ahead = deque[Future[R]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # after an error, or if the consumer stops early, do not decode the rest
            pool.shutdown(wait=True, cancel_futures=True)
