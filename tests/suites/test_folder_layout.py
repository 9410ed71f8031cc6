"""Layouts of image folders: which folders become classes, what is passed over and said, and what is refused."""

from __future__ import annotations

import os
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pudnet_bench.suites.sources import SourceError
from pudnet_bench.suites.sources.folder_layout import recognise
from pudnet_bench.suites.sources.loading import Source, load

CLASSES = "abcdef"


def at(folder: str = ".", classes: str = CLASSES, images: int = 2) -> list[str]:
    """Paths of images by class below a folder."""
    return [f"{folder}/{name}/{i}.png" for name in classes for i in range(images)]


def flat(folder: str, images: int = 3) -> list[str]:
    return [f"{folder}/{i}.png" for i in range(images)]


def tree(root: Path, *paths: str) -> Path:
    """Write images, each different, where a path ends in .png; other files where not, and a folder where it ends in /."""
    root.mkdir(exist_ok=True)
    for number, path in enumerate(paths):
        file = root / path
        (file if path.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if path.endswith(".png"):
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)).save(file)
        elif not path.endswith("/"):
            file.write_text("nothing")
    return root


def read(root: Path) -> tuple[Source, str]:
    """The source, and what was warned of but for copies; one warning at most."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = load("mine", data_dir=None, cache_dir=root.parent / f"cache-{root.name}", folders={"mine": root})
    said = [text for text in (str(each.message) for each in caught) if "--allow-copies" not in text]
    assert len(said) <= 1
    return source, said[0] if said else ""


@contextmanager
def as_a_user() -> Iterator[None]:
    """Drop the rights of root, who may read everything, in the block."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.mark.parametrize(
    ("paths", "per_class"),
    [
        (at(), 2),
        (at("flowers"), 2),  # an archive unpacked into a folder of its name
        ([*at("a/b/c/flowers"), "a/README.txt"], 2),
        ([*at("images"), "train.csv", "labels.txt"], 2),
        ([*at("Train"), *at("Test")], 4),
        ([*at("TRAINING"), *at("testing")], 4),
        ([*at("train"), *at("valid"), *at("test")], 6),
        ([*at("data/train2017"), *at("data/val2017")], 4),
        ([*at("cats/training_set/training_set"), *at("cats/test_set/test_set")], 4),
        ([*at("base", "abc"), *at("val", "d"), *at("novel", "ef")], 2),
        ([*at("meta-train", "abc"), *at("meta-val", "d"), *at("meta-test", "ef")], 2),
        ([*at("support"), *at("query")], 4),
        ([f"{name}/images/{i}.png" for name in CLASSES for i in range(2)], 2),
        # what systems leave behind
        ([*at(), "__MACOSX/a/._0.png", "__MACOSX/b/0.png", "a/.DS_Store", "a/._0.png"], 2),
        ([*at(), "a/Thumbs.db", "b/desktop.ini", "a/@eaDir/0.png/", "@eaDir/class0@SynoEAStream"], 2),
        ([*at(), ".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", ".git/x"], 2),
        ([*at(), "$RECYCLE.BIN/x.png", "lost+found/x.png", "System Volume Information/x.png"], 2),
        ([*at(), "README.txt", "labels.csv"], 2),
    ],
)
def test_classes_are_found_in_silence(tmp_path: Path, paths: list[str], per_class: int) -> None:
    source, said = read(tree(tmp_path / "in", *paths))
    assert said == ""
    assert source.class_names == tuple(CLASSES)
    np.testing.assert_array_equal(np.bincount(source.labels), [per_class] * 6)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([*at("train"), *flat("test")], "passed over 3 images of test/ that are in no class folder"),
        ([*at("train"), *flat("test1")], "3 images of test1/ that are in no class folder"),
        ([*at("train"), *flat("test/unknown")], "3 images of test/unknown/, whose name says that they have no class"),
        ([*at("train"), *flat("test/Unlabelled_images")], "3 images of test/Unlabelled_images/"),
        (
            [*at("train"), *flat("test/images"), "test/list.txt"],
            "3 images of test/images/ without a class; 1 file of other",
        ),
        ([*at("train"), *flat("test/test")], "3 images of test/test/ without a class"),
        ([*at("seg_train/seg_train"), *flat("seg_pred/seg_pred")], "3 images of seg_pred/seg_pred/ without a class"),
        ([*at("train"), *flat("unlabeled")], "3 images of unlabeled/, whose name"),
        ([*at(), *flat("unknown")], "3 images of unknown/, whose name says"),
        ([*at(), "preview.png"], "1 image beside the class folders"),
        ([*at(), "unlabelled/"], "passed over 1 folder without images (unlabelled)"),
        ([*at(), "annotations/a.xml"], "1 file of other kinds (1 .xml); 1 folder without images (annotations)"),
        ([*at(), "devkit/readme.txt", "devkit/x/"], "1 folder without images (devkit)"),
        (
            [*at(), "a/x.heic", "b/y.heic", "c/notes.txt", "c/z"],
            "4 files of other kinds (2 .heic, 1 .txt, 1 without a suffix): save photographs as JPEG or PNG to use them",
        ),
    ],
)
def test_what_is_passed_over_is_said_in_one_warning(tmp_path: Path, paths: list[str], said: str) -> None:
    source, warning = read(tree(tmp_path / "in", *paths))
    assert said in warning
    assert "\n" not in warning
    assert source.class_names == tuple(CLASSES)
    np.testing.assert_array_equal(np.bincount(source.labels), [2] * 6)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([*at("train"), *at("val"), *at("test", "xy")], "test has 2 classes that no other split has (x, y)"),
        ([*at("train", "abc"), *at("test", "ABC")], "are taken for two classes"),
        ([*at(), *flat("train")], "the folder train is taken for a class, not for a split"),
    ],
)
def test_what_may_not_be_meant_is_said(tmp_path: Path, paths: list[str], said: str) -> None:
    assert said in read(tree(tmp_path / "in", *paths))[1]


@pytest.mark.parametrize(
    ("paths", "seen"),
    [
        (flat("."), "seen: 3 images in {root} itself"),
        ([*flat("images"), "labels.csv"], "all images are in images/: seen images/ (3 images)"),
        ([*flat("train"), *flat("test")], "no class folders in test, train: seen test/ (3 images), train/ (3 images)"),
        ([*flat("train/images"), "train/labels/0.txt", *flat("val/images")], "no class folders in train, val"),
        ([*flat("unknown")], "all images are in unknown/"),
        ([*at(), *flat("test")], "test may be a split or a class"),
        ([*at("train"), *at("test"), *flat("masks")], "seen masks/ (3 images), test/ (6 folders), train/ (6 folders)"),
        ([*at("images"), *at("segmentations")], "seen images/ (6 folders), segmentations/ (6 folders)"),
        ([*at("fruit", "ab"), *at("nuts", "cd")], "fruit/ holds folders of images and no images itself"),
        (
            ["a/1.heic", "b/2.heic", "b/"],
            "seen: no image, and 2 files of other kinds (2 .heic), which must be saved as JPEG or PNG",
        ),
        (["train/"], "seen: no image in 1 folder"),
        ([], "seen: an empty folder"),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_was_seen(tmp_path: Path, paths: list[str], seen: str) -> None:
    root = tree(tmp_path / "in", *paths)
    with pytest.raises(SourceError) as caught:
        recognise(root)
    said = str(caught.value)
    assert seen.format(root=root) in said
    assert f"{root}/<class>/" in said
    assert "\n" not in said


@pytest.mark.parametrize("name", ["Test", "val", "validation", "training", "testing"])
def test_a_split_among_class_folders_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=f"{name} may be a split or a class"):
        recognise(tree(tmp_path / "in", *at(), *flat(name)))


@pytest.mark.parametrize("name", ["unknown", "Unlabelled", "UNKNOWN", "unsorted-images"])
def test_the_unknown_is_no_class(tmp_path: Path, name: str) -> None:
    source, said = read(tree(tmp_path / "in", *at(), *flat(name)))
    assert source.class_names == tuple(CLASSES)
    assert f"3 images of {name}/" in said


@pytest.mark.parametrize("name", ["train", "eval", "novel", "dev", "valid"])
def test_a_class_that_may_be_a_split_is_named(tmp_path: Path, name: str) -> None:
    source, said = read(tree(tmp_path / "in", *at(), *flat(name)))
    assert name in source.class_names
    assert f"the folder {name} is taken for a class, not for a split" in said


def test_names_of_any_kind_are_classes(tmp_path: Path) -> None:
    names = ["Nelumbo nucifera (Gaertn.)", "花 🌸", "n02110063,malamute", "Cat", "cat", "cla\nss", "0", "-f"]
    root = tree(tmp_path / "in", *[f"{name}/{i}.png" for name in names for i in range(2)])
    (root / "0").rename(root / os.fsdecode(b"ros\xe9"))
    source, said = read(root)
    assert said == ""
    assert set(source.class_names) == {*names, "rosé"} - {"0"}
    assert read(root)[0].fingerprint == source.fingerprint  # from the cache


def test_a_composed_and_a_decomposed_name_are_one_class(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD")]
    root = tree(tmp_path / "in", *at("train"), *at("test"), f"train/{forms[0]}/0.png", f"test/{forms[1]}/1.png")
    source, _ = read(root)
    assert len(source.class_names) == 7
    assert source.class_names[-1] == forms[0]


def test_links_lead_to_images_once_and_never_round(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", *at(classes="abcde"))
    tree(tmp_path / "elsewhere", *flat("f"))
    (root / "f").symlink_to(tmp_path / "elsewhere" / "f")
    for name, to in {"g": "a", "loop": ".", "a/up": "..", "whole": "/", "self": "self"}.items():
        (root / name).symlink_to(to)
    os.mkfifo(root / "a" / "pipe")
    source, said = read(root)
    assert source.class_names == tuple(CLASSES)
    np.testing.assert_array_equal(np.bincount(source.labels), [2, 2, 2, 2, 2, 3])
    assert "4 links to folders that are read already" in said


def test_images_in_folders_of_a_class_are_of_the_class(tmp_path: Path) -> None:
    """As for torchvision's ImageFolder."""
    source, _ = read(tree(tmp_path / "in", *at(), "a/2019/x.png", "a/2020/y/z.png"))
    np.testing.assert_array_equal(np.bincount(source.labels), [4, 2, 2, 2, 2, 2])


def test_a_folder_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, which other users cannot enter
        Path(folder).chmod(0o755)
        root = tree(Path(folder) / "in", *at())
        (root / "c").chmod(0)
        with as_a_user(), pytest.raises(SourceError, match=r"cannot read the folder .*/c: Permission denied"):
            recognise(root)
        (root / "c").chmod(0o755)
