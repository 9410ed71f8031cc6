"""Recognise the layout of an image folder: which folders are classes, which are splits, and what is passed over.

    DIR/<class>/*    DIR/{train,val,test}/<class>/*    either of them in one or more folders of its own

A class has all images below its folder. What cannot be told is refused with what was seen, never guessed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.photographs import is_image, suffixes

# What operating systems, file servers and notebooks leave behind, besides names that begin with a dot.
LITTER = frozenset({
    "__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "@recycle",
    "system volume information", "lost+found", "__pycache__",
})  # fmt: skip
UNLABELLED = frozenset({"unknown", "unlabelled", "unlabeled", "unsorted"})  # words for images without a class
# A split is named by words of the first kind, with or without ones of the second: train, Test, seg_train, training-set.
ROLES = frozenset({
    "train", "training", "trn", "trainval", "metatrain", "base", "support", "background",
    "val", "valid", "validation", "dev", "metaval", "holdout",
    "test", "testing", "tst", "eval", "evaluation", "metatest", "novel", "query", "pred", "prediction", "predict",
})  # fmt: skip
CERTAIN = frozenset({"training", "test", "testing", "val", "validation", "trainval"})  # what no class is called
FILLERS = frozenset({
    "set", "sets", "split", "image", "images", "img", "imgs", "data", "folder", "meta", "seg", "all", "part",
})  # fmt: skip
PHOTOGRAPHS = frozenset({".heic", ".heif", ".jxl", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng"})  # Pillow reads none
MOST_LEVELS = 16  # below the source's folder
SHOWN = 6  # names in a message


@dataclass(frozen=True)
class ImageFile:
    """An image's path, and its stamp: the path below the source's folder, bytes and time of the last change."""

    path: str
    stamp: tuple[str, int, int]


@dataclass(eq=False)
class Folder:
    """A folder below an image folder, litter left out."""

    name: str
    path: str
    images: list[ImageFile] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # files of other kinds, by suffix
    links: list[str] = field(default_factory=list)  # to folders that are read elsewhere

    def below(self) -> Iterator[Folder]:
        """Yield this folder and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def all_images(self) -> list[ImageFile]:
        """Return the images in and below this folder."""
        return [image for folder in self.below() for image in folder.images]

    @property
    def bearing(self) -> list[Folder]:
        """The folders in this one that have images in or below them."""
        return [folder for folder in self.folders if any(each.images for each in folder.below())]


@dataclass(frozen=True)
class Layout:
    """The classes of an image folder.

    Attributes:
        classes: Images by class, pooled over splits, in the order of the names.
        seen: What was recognised, for people.
        passed_over: What was not read and why, a phrase each.
        doubts: What was read and may not be meant, a sentence each.
    """

    classes: dict[str, list[ImageFile]]
    seen: str
    passed_over: tuple[str, ...]
    doubts: tuple[str, ...]


def recognise(root: Path) -> Layout:
    """Return the layout of the image folder `root`. Raises SourceError if there are no classes, or if they cannot be told."""
    whole = _scan(str(root), root.name, str(root), _places_above(root), MOST_LEVELS)
    top = _unwrapped(whole)
    tops, passed, doubts = top.bearing, list[str](), list[str]()
    if not tops:
        raise _no_classes(root, whole, top)
    tops = _labelled(root, tops, passed)
    splits = [folder for folder in tops if names_split(folder.name)]
    # One class may well be called train, which is a vehicle too.
    lone = len(splits) == 1 < len(tops) and bool(splits[0].images) and not CERTAIN & {*_words(splits[0].name)}
    if not tops or (len(tops) == 1 and names_no_class(tops[0].name, top.name) and not splits):
        raise _unclear(root, top, f"all images are in {_relative(root, top.bearing[0])}")
    if len(splits) == len(tops):
        classes, seen = _pooled(root, top, tops, passed, doubts)
    elif splits and not lone:
        raise _unclear(root, top, f"{_listed(splits)} may be a split or a class")
    else:
        classes = _classes(root, top, tops, passed)
        seen = f"{len(classes)} class folders"
        if lone:
            doubts.append(f"the folder {shown(splits[0].name)} is taken for a class, not for a split")
    if not classes:
        raise _unclear(root, top, "no folder has images of one class")
    if top.images:
        passed.insert(0, f"{counted(len(top.images), 'image')} beside the class folders")
    passed += _not_read(whole, top)
    return Layout(dict(sorted(classes.items())), seen, tuple(passed), tuple(doubts))


def names_split(name: str) -> bool:
    """Whether a folder's name is that of a split, such as `train`, `Test`, `val2017` or `training_set`."""
    words = _words(name)
    return any(word in ROLES for word in words) and all(word in ROLES | FILLERS for word in words)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def shown(name: str) -> str:
    """Return a name of a file or folder for a sentence of one line."""
    return "".join("\\n" if c == "\n" else "\\r" if c == "\r" else c for c in name)


def _places_above(root: Path) -> set[tuple[int, int]]:
    """Return device and inode of the folders that `root` lies in."""
    try:
        stats = [parent.stat() for parent in root.resolve().parents]
    except OSError as error:
        raise SourceError(f"cannot read the folder {shown(str(root))}: {error.strerror}") from error
    return {(each.st_dev, each.st_ino) for each in stats}


def _scan(root: str, name: str, path: str, read: set[tuple[int, int]], levels: int) -> Folder:
    """Read a folder and those below it, but none at one of the places that are `read` already; adds those that it reads."""
    folder = Folder(name, path)
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: (_distance(entry), entry.name))
        stat = Path(path).stat()
    except OSError as error:
        raise SourceError(f"cannot read the folder {shown(path)}: {error.strerror or error}") from error
    read.add((stat.st_dev, stat.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LITTER:
            continue
        place = _place(entry)
        if place is None:
            _take_file(folder, root, entry)
        elif place in read:
            folder.links.append(entry.name)
        elif not levels:
            raise SourceError(f"{shown(entry.path)} lies more than {MOST_LEVELS} folders deep: move the images up")
        else:
            folder.folders.append(_scan(root, entry.name, entry.path, read, levels - 1))
    folder.images.sort(key=lambda image: image.path)
    folder.folders.sort(key=lambda each: each.name)
    return folder


def _distance(entry: os.DirEntry[str]) -> int:
    """0 for what is no link, 1 for a link with its target's name, 2 for others: the first of a folder's names is its class."""
    if not entry.is_symlink():
        return 0
    try:
        return 1 if Path(entry.path).readlink().name == entry.name else 2
    except OSError:
        return 2


def _place(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Return device and inode of a folder or a link to one; None for anything else."""
    try:
        stat = Path(entry.path).stat() if entry.is_dir() else None
    except OSError:  # such as a link to itself
        return None
    return (stat.st_dev, stat.st_ino) if stat else None


def _take_file(folder: Folder, root: str, entry: os.DirEntry[str]) -> None:
    suffix = Path(entry.name).suffix.lower()
    if suffix not in suffixes() and not is_image(entry.path):
        folder.others[suffix if re.fullmatch(r"\.\w{1,8}", suffix) else "without a suffix"] += 1
        return
    relative = entry.path[len(root) :].lstrip(os.sep)
    try:
        stat = entry.stat()
        stamp = (relative, stat.st_size, stat.st_mtime_ns)
    except OSError:  # such as a link to nothing: an error when it is decoded, together with all others
        stamp = (relative, -1, -1)
    folder.images.append(ImageFile(entry.path, stamp))


def _unwrapped(folder: Folder) -> Folder:
    """Return the folder that has the class folders: an archive may unpack into a folder of its own, or into several."""
    while not folder.images and len(bearing := folder.bearing) == 1 and not bearing[0].images:
        folder = bearing[0]
    return folder


def _classes(root: Path, top: Folder, folders: Sequence[Folder], passed: list[str]) -> dict[str, list[ImageFile]]:
    """Return the images of class folders; `top` is what they lie in. Raises SourceError if one holds several folders."""
    classes: dict[str, list[ImageFile]] = {}
    for folder in _labelled(root, folders, passed):
        if not _single(folder):
            raise _unclear(root, top, f"{_relative(root, folder)} holds folders of images and no images itself")
        classes.setdefault(_class_name(folder.name), []).extend(folder.all_images())
    return classes


def _labelled(root: Path, folders: Sequence[Folder], passed: list[str]) -> list[Folder]:
    """Return the folders whose names do not say that their images have no class."""
    kept = []
    for folder in folders:
        words = {*_words(folder.name)}
        if UNLABELLED & words and words <= UNLABELLED | FILLERS | ROLES:
            count = counted(len(folder.all_images()), "image")
            passed.append(f"{count} of {_relative(root, folder)}, whose name says that they have no class")
        else:
            kept.append(folder)
    return kept


def _class_name(name: str) -> str:
    """Return a folder's name as composed text; bytes that are no UTF-8 are taken for Latin-1, as in archives of old."""
    try:
        text = os.fsencode(name).decode()
    except UnicodeDecodeError:
        text = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", text)  # macOS decomposes: one class may have both forms in two splits


def _single(folder: Folder) -> bool:
    """Whether the images of a folder all lie in one folder below it, such as `<class>/images/*`."""
    bearing = folder.bearing
    return bool(folder.images) or (len(bearing) == 1 and _single(bearing[0]))


def _pooled(
    root: Path, top: Folder, splits: Sequence[Folder], passed: list[str], doubts: list[str]
) -> tuple[dict[str, list[ImageFile]], str]:
    """Return the images by class over all splits, and what was seen. Images of a split without class folders have no class."""
    classes: dict[str, list[ImageFile]] = {}
    names: dict[str, set[str]] = {}
    for split in splits:
        inner = _unwrapped(split)
        if inner.images:
            passed.append(
                f"{counted(len(inner.images), 'image')} of {_relative(root, inner)} that are in no class folder"
            )
        folders = inner.bearing
        if len(folders) == 1 and names_no_class(folders[0].name, split.name):
            passed.append(
                f"{counted(len(folders[0].all_images()), 'image')} of {_relative(root, folders[0])} without a class"
            )
            continue
        found = _classes(root, top, folders, passed)
        for name, images in found.items():
            classes.setdefault(name, []).extend(images)
        if found:
            names[split.name] = set(found)
    if not classes:
        raise _unclear(root, top, f"there are no class folders in {_listed(splits)}")
    doubts += _disagreements(names)
    return classes, ", ".join(f"{shown(split)}: {counted(len(found), 'class')}" for split, found in names.items())


def names_no_class(name: str, split: str) -> bool:
    """Whether the only folder in a split is there to hold its images, not to name their class: test/images, test/test."""
    words = _words(name)
    return (
        name.lower() == split.lower() or names_split(name) or (bool(words) and all(word in FILLERS for word in words))
    )


def _disagreements(names: dict[str, set[str]]) -> list[str]:
    """Say which splits have classes that no other has, where splits share classes; few-shot splits share none."""
    spellings: dict[str, set[str]] = {}
    for name in set().union(*names.values()):
        spellings.setdefault(name.casefold(), set()).add(name)
    for several in spellings.values():
        if len(several) > 1 and not any(several <= found for found in names.values()):
            return [f"{' and '.join(map(shown, sorted(several)))} are taken for two classes"]
    if sum(map(len, names.values())) == len(set().union(*names.values())):
        return []
    largest = max(names.values(), key=len)
    said = []
    for split, found in names.items():
        others = set().union(*(each for other, each in names.items() if other != split))
        if found is not largest and (own := sorted(found - others)):
            has = f"{shown(split)} has {counted(len(own), 'class')} that no other split has"
            said.append(f"{has} ({', '.join(map(shown, own[:SHOWN]))})")
    return said


def _not_read(whole: Folder, top: Folder) -> list[str]:
    """Say which folders, links and files of other kinds were passed over; files beside the class folders are not counted."""
    said, others = [], Counter[str]()
    bearing = top.bearing
    empty = [folder for folder in top.folders if folder not in bearing]
    for folder in top.below():
        others += folder.others if folder is not top else Counter()
    if others:
        count = sum(others.values())
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(SHOWN))
        more = ", ..." if len(others) > SHOWN else ""
        hint = ": save photographs as JPEG or PNG to use them" if PHOTOGRAPHS & {*others} else ""
        said.append(f"{counted(count, 'file')} of other kinds ({kinds}{more}){hint}")
    if empty:
        said.append(f"{counted(len(empty), 'folder')} without images ({_listed(empty)})")
    if links := [name for folder in whole.below() for name in folder.links]:
        names = ", ".join(map(shown, links[:SHOWN]))
        said.append(f"{counted(len(links), 'link')} to folders that are read already ({names})")
    return said


def _no_classes(root: Path, whole: Folder, top: Folder) -> SourceError:
    others = sum((folder.others for folder in whole.below()), Counter[str]())
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(SHOWN))
    if top.images:
        seen = f"{counted(len(top.images), 'image')} in {shown(top.path)} itself"
    elif others:
        hint = ", which must be saved as JPEG or PNG" if PHOTOGRAPHS & {*others} else ""
        seen = f"no image, and {counted(sum(others.values()), 'file')} of other kinds ({kinds}){hint}"
    else:
        seen = f"no image in {counted(len(list(whole.below())) - 1, 'folder')}" if whole.folders else "an empty folder"
    where = f"put the images of each class into {shown(str(root))}/<class>/"
    return SourceError(f"{shown(str(root))} has no class folders: {where}; seen: {seen}")


def _unclear(root: Path, top: Folder, why: str) -> SourceError:
    """Return the error for a layout in which the classes cannot be told: what was seen, and what is expected."""
    seen = []
    for folder in top.bearing[:SHOWN]:
        inside = [counted(len(folder.bearing), "folder")] if folder.bearing else []
        inside += [counted(len(folder.images), "image")] if folder.images else []
        seen.append(f"{_relative(root, folder)} ({', '.join(inside)})")
    more = len(top.bearing) - SHOWN
    where = shown(str(root))
    return SourceError(
        f"cannot tell the classes of {where}, as {why}: seen {', '.join(seen)}{f' and {more} more' if more > 0 else ''}; "
        f"expected {where}/<class>/<images> or {where}/{{train,val,test}}/<class>/<images>: move or rename folders, or give "
        "the one that has the class folders"
    )


def _relative(root: Path, folder: Folder) -> str:
    return shown(os.path.relpath(folder.path, root)) + "/"


def _listed(folders: Sequence[Folder]) -> str:
    names = ", ".join(shown(folder.name) for folder in folders[:SHOWN])
    return names + (", ..." if len(folders) > SHOWN else "")


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it needs one."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}es" if noun.endswith("s") else f"{n} {noun}s"
