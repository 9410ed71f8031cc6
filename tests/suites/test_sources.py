"""Image sources: what is read from each layout, what the cache promises, and what each mistake says."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pudnet_bench.suites.sources import SOURCES, SourceError, array_files, cache, image_folders
from pudnet_bench.suites.sources.loading import Source, fetch, load, locate, verify
from pudnet_bench.suites.sources.pickles import read_pickle

IMAGES = f"images-v{cache.FORMAT}"  # of the cache folder
DATA = os.environ.get("PUDNET_BENCH_DATA")
real_data = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA, reason="PUDNET_BENCH_DATA does not name a folder of real images"),
]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 3, side: int = 4) -> Path:
    for c, name in enumerate(classes):
        for i in range(per_class):
            save(root / name / f"{i}.png", noise(100 * c + i, side, side, 3))
    return root


def load_folder(folder: Path, cache_dir: Path, size: int | None = None) -> Source:
    return load("mine", data_dir=None, cache_dir=cache_dir, folders={"mine": folder}, size=size)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Within the test, decoding an image is an error: what is loaded can only come from the cache."""

    def refuse(*_: object) -> None:
        raise AssertionError("an image was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(image_folders, "_pixels", refuse)
        yield patch


# --- the catalogue --------------------------------------------------------------------------------


def test_importing_the_catalogue_imports_nothing_heavy() -> None:
    code = "import sys, pudnet_bench.suites.sources; print(sorted({'numpy', 'PIL', 'sklearn', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pudnet_bench.suites.sources.loading import load;"
        f"load('digits', data_dir=None, cache_dir=pathlib.Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_md5_sums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    for ours, theirs in ((array_files.CIFAR_10, datasets.CIFAR10), (array_files.CIFAR_100, datasets.CIFAR100)):
        assert list(ours.batches.items()) == [tuple(pair) for pair in theirs.train_list + theirs.test_list]
        assert ours.meta == (theirs.meta["filename"], theirs.meta["md5"])
        assert ours.names_key == theirs.meta["key"]
    assert list(array_files.FASHION_CLASSES) == datasets.FashionMNIST.classes


# --- what is read ---------------------------------------------------------------------------------


def test_digits_are_always_there(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    source = load("digits", data_dir=None, cache_dir=tmp_path)
    original = load_digits()
    assert source.images.shape == (1797, 1, 8, 8)
    assert source.images.dtype == np.uint8
    assert source.class_names == tuple("0123456789")
    sevens = original.images[original.target == 7]
    np.testing.assert_array_equal(source.images[source.labels == 7, 0], np.round(sevens * 255 / 16))
    assert locate("digits", data_dir=None) is not None


def test_image_folder_gives_every_pixel_in_its_place(tmp_path: Path) -> None:
    source = load_folder(make_folder(tmp_path / "in", ("dog", "cat", "ant")), tmp_path / "cache")
    assert source.class_names == ("ant", "cat", "dog")
    assert source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(source.images[1], noise(201, 4, 4, 3).transpose(2, 0, 1))  # ant/1.png
    np.testing.assert_array_equal(source.images[6], noise(0, 4, 4, 3).transpose(2, 0, 1))  # dog/0.png
    assert isinstance(source.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        source.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1


def test_more_images_than_one_block_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folders, "images_per_block", lambda shape: 2)
    source = load_folder(make_folder(tmp_path / "in", per_class=5), tmp_path / "cache")
    expected = [noise(100 * c + i, 4, 4, 3).transpose(2, 0, 1) for c in range(2) for i in range(5)]
    np.testing.assert_array_equal(source.images, expected)


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "train", "Z", "ä ö"]),
        st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(1, 3), min_size=1),
        min_size=1,
    )
)
def test_splits_are_pooled_and_labels_ascend(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[str, dict[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("pooled")
    counts = {**counts, "plane": dict.fromkeys(["train", "val", "test"], 2)}
    seeds = iter(range(100))
    for name, splits in counts.items():
        for split, n in splits.items():
            for i in range(n):
                save(root / "in" / split / name / f"{i}.png", noise(next(seeds), 2, 2, 3))
    source = load_folder(root / "in", root / "cache")
    assert source.class_names == tuple(sorted(counts))
    assert (np.diff(source.labels) >= 0).all()
    per_class = [sum(counts[name].values()) for name in source.class_names]
    np.testing.assert_array_equal(np.bincount(source.labels), per_class)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the folder train is taken for a class, not for a split"):
        source = load_folder(make_folder(tmp_path / "in", ("plane", "train")), tmp_path / "cache")
    assert source.class_names == ("plane", "train")


def test_grey_folder_has_one_channel_and_mixed_has_three(tmp_path: Path) -> None:
    grey = noise(1, 4, 4)
    save(tmp_path / "in" / "a" / "0.png", grey)
    save(tmp_path / "in" / "b" / "0.png", grey.astype(np.uint16) * 257)  # 16 bits
    source = load_folder(tmp_path / "in", tmp_path / "cache")
    np.testing.assert_array_equal(source.images, [[grey], [grey]])
    save(tmp_path / "in" / "b" / "1.png", noise(2, 4, 4, 3))
    source = load_folder(tmp_path / "in", tmp_path / "cache")
    np.testing.assert_array_equal(source.images[0], [grey, grey, grey])
    assert source.images.shape == (3, 3, 4, 4)


def test_known_source_has_its_own_channels(tmp_path: Path) -> None:
    ten = tuple("abcdefghij")
    make_folder(tmp_path / "fashion-mnist" / "train", ten, 1)  # stored in colour
    for name in ten:
        save(tmp_path / "cifar-10" / "test" / name / "0.png", noise(0, 4, 4))  # stored in grey
    assert load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "c").images.shape == (10, 1, 4, 4)
    assert load("cifar-10", data_dir=tmp_path, cache_dir=tmp_path / "c").images.shape == (10, 3, 4, 4)


def test_size_resizes_and_has_a_cache_of_its_own(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    save(folder / "cat" / "wide.png", noise(9, 6, 12, 3))
    source = load_folder(folder, tmp_path / "cache", size=3)
    assert source.images.shape == (7, 3, 3, 3)
    expected = Image.fromarray(noise(9, 6, 12, 3)).resize((6, 3), Image.Resampling.BILINEAR).crop((2, 0, 5, 3))
    np.testing.assert_array_equal(source.images[3], np.asarray(expected).transpose(2, 0, 1))
    (folder / "cat" / "wide.png").unlink()
    assert load_folder(folder, tmp_path / "cache").images.shape == (6, 3, 4, 4)
    assert load_folder(folder, tmp_path / "cache", size=5).images.shape == (6, 3, 5, 5)
    digits = load("digits", data_dir=None, cache_dir=tmp_path / "cache", size=12)
    assert digits.images.shape == (1797, 1, 12, 12)


def test_animals_are_brought_to_one_size_unasked(tmp_path: Path) -> None:
    make_folder(tmp_path / "raw-img", tuple("abcdefghij"), 1)
    save(tmp_path / "raw-img" / "a" / "wide.png", noise(9, 6, 12, 3))
    assert locate("animals-10", data_dir=tmp_path) == tmp_path / "raw-img"
    summary = verify("animals-10", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert (summary.images, summary.classes, summary.size, summary.channels) == (11, 10, (84, 84), 3)
    assert summary.path == tmp_path / "raw-img"


def test_user_folder_goes_before_the_known_source(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    source = load("digits", data_dir=None, cache_dir=tmp_path / "cache", folders={"digits": folder})
    assert source.class_names == ("cat", "dog")
    assert locate("digits", data_dir=None, folders={"digits": folder}) == folder


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def make_idx(data_dir: Path) -> Path:
    raw = data_dir / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, split in enumerate(("train", "t10k")):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(noise(seed, 20, 5, 5)))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.tile(np.arange(10, dtype=np.uint8), 2)))
    return raw


def test_fashion_mnist_from_idx_files_plain_and_packed(tmp_path: Path) -> None:
    raw = make_idx(tmp_path)
    plain = load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert plain.class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(plain.labels, np.repeat(np.arange(10), 4))
    first, second = noise(0, 20, 5, 5), noise(1, 20, 5, 5)
    np.testing.assert_array_equal(plain.images[4:8, 0], [first[1], first[11], second[1], second[11]])
    for file in list(raw.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "c2").fingerprint == plain.fingerprint


def python2_pickle(images: np.ndarray, labels: list[int], key: str) -> bytes:
    """A CIFAR batch as Python 2's cPickle wrote it, byte strings and all."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
        b"(K\x01" + struct.pack("<BIBI", ord("J"), len(images), ord("J"), images.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89" + text(images.tobytes()) + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + numbers + b"u."


def make_cifar(root: Path, files: array_files.CifarFiles, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Small batches in torchvision's layout that pass for the published ones; returns all images [n, 3, 32, 32]."""
    root.mkdir()
    classes = 10 if files is array_files.CIFAR_10 else 100
    everything = []
    for seed, name in enumerate(list(files.batches)):
        everything.append(noise(seed, classes, 3072))
        (root / name).write_bytes(python2_pickle(everything[-1], list(range(classes))[::-1], files.label_key))
    meta = root / files.meta[0]
    meta.write_bytes(pickle.dumps({files.names_key: [f"class {i}" for i in range(classes)]}, protocol=2))
    published = files.batches | {files.meta[0]: files.meta[1]}
    monkeypatch.setattr(array_files, "_md5", lambda path: published[path.name])
    return np.concatenate(everything).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("cifar-10", "cifar-10-batches-py", array_files.CIFAR_10),
        ("cifar-100", "cifar-100-python", array_files.CIFAR_100),
    ],
)
def test_cifar_from_torchvision_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str, files: array_files.CifarFiles
) -> None:
    images = make_cifar(tmp_path / folder, files, monkeypatch)
    source = load(name, data_dir=tmp_path, cache_dir=tmp_path / "cache")
    classes, batches = SOURCES[name].classes, len(files.batches)
    np.testing.assert_array_equal(
        source.images, images.reshape(batches, classes, 3, 32, 32)[:, ::-1].swapaxes(0, 1).reshape(-1, 3, 32, 32)
    )
    assert source.class_names[3] == "class 3"
    assert locate(name, data_dir=tmp_path) == tmp_path / folder


def test_cifar_files_with_another_sum_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_md5 = array_files._md5
    make_cifar(tmp_path / "cifar-10-batches-py", array_files.CIFAR_10, monkeypatch)
    monkeypatch.setattr(array_files, "_md5", real_md5)  # so that these are not the published files
    monkeypatch.setattr(array_files, "read_pickle", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(SourceError, match=r"data_batch_1 is not the published file: delete .* fetch it again"):
        load("cifar-10", data_dir=tmp_path, cache_dir=tmp_path / "cache")


MINI_SPLITS = {"train": 64, "validation": 16, "test": 20}


def make_mini_imagenet(root: Path, protocol: int) -> dict[str, np.ndarray]:
    """learn2learn's three files with two 4x4 images per class; returns the images of each class."""
    root.mkdir(parents=True, exist_ok=True)
    expected = {}
    for seed, (split, classes) in enumerate(MINI_SPLITS.items()):
        images = noise(seed, 2 * classes, 4, 4, 3)
        names = [f"n{1000 * (3 - seed) + i}" for i in range(classes)]
        members = {name: [2 * i, 2 * i + 1] for i, name in enumerate(names)}
        expected.update({name: images[indices] for name, indices in members.items()})
        held = {"image_data": images, "class_dict": members}
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(held, protocol=protocol))
    return expected


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("inner", [".", "mini-imagenet"])
def test_mini_imagenet_from_learn2learn_files(tmp_path: Path, protocol: int, inner: str) -> None:
    expected = make_mini_imagenet(tmp_path / inner, protocol)
    source = load("mini-imagenet", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert source.class_names == tuple(sorted(expected))
    wanted = np.concatenate([expected[name] for name in source.class_names]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.images, wanted)


def test_mini_imagenet_needs_all_its_splits(tmp_path: Path) -> None:
    make_mini_imagenet(tmp_path, 4)
    (tmp_path / "mini-imagenet-cache-test.pkl").unlink()
    with pytest.raises(SourceError, match="holds 80 classes where mini-imagenet has 100"):
        load("mini-imagenet", data_dir=tmp_path, cache_dir=tmp_path / "cache")


# --- pickles --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.integers() | st.floats(allow_nan=False) | st.text() | st.none() | st.booleans(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    ),
    st.integers(0, 5),
)
def test_harmless_pickles_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, held: object, p: int
) -> None:
    path = tmp_path_factory.mktemp("pickle") / "held.pkl"
    path.write_bytes(pickle.dumps(held, protocol=p))
    assert read_pickle(path) == held


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(tmp_path: Path, protocol: int, dtype: str, order: str) -> None:
    array = np.array(noise(3, 2, 3, 4), dtype=dtype, order=order)  # type: ignore[call-overload]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array, "n": array[0, 0, 0]}, protocol=protocol))
    held = read_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(held["a"], array)
    assert held["a"].dtype == array.dtype
    assert held["n"] == array[0, 0, 0]


class Payload:
    """Runs a shell command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    held = {"image_data": noise(0, 1, 4, 4, 3), "class_dict": {"a": [0]}, "more": Payload(f"touch {mark}")}
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(SourceError, match=r"cache-train.pkl is refused \(it asks for posix.system"):
        load("mini-imagenet", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the payload does work: that it did not run above is our doing
    assert mark.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(X\x01\x00\x00\x00atb.",  # state for the stand-in's class itself
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR.",  # an array of objects
        b"cnumpy\nndarray.__class__\n.",
        b"\x82\x01.",  # an extension code
        b"P1\n.",  # a persistent id
        b"",
        b"not a pickle",
    ],
)
def test_odd_pickles_are_refused(tmp_path: Path, attack: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(attack)
    with pytest.raises(SourceError, match=r"a\.pkl is refused"):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "held",
    [
        [1, 2],
        {"image_data": noise(0, 2, 4, 4, 3)},
        {"image_data": noise(0, 2, 4, 4), "class_dict": {"a": [0]}},
        {"image_data": noise(0, 2, 4, 4, 3).astype(np.float32), "class_dict": {"a": [0]}},
        {"image_data": noise(0, 2, 4, 4, 3), "class_dict": {"a": [2]}},
        {"image_data": noise(0, 2, 4, 4, 3), "class_dict": {"a": [-1]}},
        {"image_data": noise(0, 2, 4, 4, 3), "class_dict": {"a": []}},
        {"image_data": noise(0, 2, 4, 4, 3), "class_dict": {"a": [[0], [1, 2]]}},
        {"image_data": noise(0, 2, 4, 4, 3), "class_dict": {}},
    ],
)
def test_mini_imagenet_of_another_shape_is_refused(tmp_path: Path, held: object) -> None:
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(SourceError, match=r"cache-train\.pkl is not one of learn2learn's"):
        load("mini-imagenet", data_dir=tmp_path, cache_dir=tmp_path / "cache")


# --- the cache ------------------------------------------------------------------------------------


def test_second_load_decodes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    request.getfixturevalue("no_decoding")
    second = load_folder(folder, tmp_path / "cache")
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.class_names, first.fingerprint) == (second.class_names, second.fingerprint)
    with pytest.raises(AssertionError, match="an image was decoded"):  # the fixture does what it says
        load_folder(folder, tmp_path / "another cache")


def test_same_content_elsewhere_shares_one_cache_folder(tmp_path: Path) -> None:
    a = load_folder(make_folder(tmp_path / "a"), tmp_path / "cache")
    b = load_folder(make_folder(tmp_path / "b" / "train").parent, tmp_path / "cache")
    assert a.fingerprint == b.fingerprint
    assert len(list((tmp_path / "cache" / IMAGES).glob("mine-*"))) == 1


def test_equal_names_sizes_and_times_are_not_taken_for_equal_content(tmp_path: Path) -> None:
    prints = []
    for root, value in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        save(root / "only" / "0.bmp", np.full((4, 4, 3), value, np.uint8))  # as many bytes whatever the pixels
        os.utime(root / "only" / "0.bmp", ns=(0, 0))
        prints.append(load_folder(root, tmp_path / "cache").fingerprint)
    assert prints[0] != prints[1]


def test_changed_pixel_and_renamed_class_are_noticed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    before = load_folder(folder, tmp_path / "cache")
    pixels = noise(0, 4, 4, 3)
    pixels[0, 0, 0] ^= 1
    save(folder / "cat" / "0.png", pixels)
    after = load_folder(folder, tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert after.images[0, 0, 0, 0] == pixels[0, 0, 0]
    (folder / "cat").rename(folder / "cow")
    renamed = load_folder(folder, tmp_path / "cache")
    assert renamed.class_names == ("cow", "dog")
    assert renamed.fingerprint != after.fingerprint


def test_a_cache_of_version_0_1_is_neither_used_nor_taken_for_damaged(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    (tmp_path / "cache" / IMAGES).rename(tmp_path / "cache" / "sources")
    metas = list((tmp_path / "cache" / "sources").rglob("*.json"))
    assert len(metas) == 2
    for meta in metas:  # version 0.1 wrote no checksums
        meta.write_text(json.dumps({k: v for k, v in json.loads(meta.read_text()).items() if k != "checksum"}))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "sources").rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert load_folder(folder, tmp_path / "cache").fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "sources").rglob("*")} == files


def cache_folder(cache_dir: Path) -> Path:
    (folder,) = (cache_dir / IMAGES).glob("mine-*")
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.npy", truncate),
        ("images.npy", Path.unlink),
        ("labels.npy", truncate),
        ("meta.json", truncate),
        ("meta.json", Path.unlink),
        ("meta.json", lambda path: path.write_text(path.read_text().replace("cat", "cow"))),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_cache_is_rebuilt_with_a_warning(tmp_path: Path, file: str, damage: Callable[[Path], object]) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    wanted = np.array(first.images)
    damage(cache_folder(tmp_path / "cache") / file)
    with pytest.warns(UserWarning, match=rf"is damaged \(.*{file}"):
        second = load_folder(folder, tmp_path / "cache")
    np.testing.assert_array_equal(second.images, wanted)
    assert second.class_names == ("cat", "dog")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_folder(folder, tmp_path / "cache")
    assert not list((tmp_path / "cache" / IMAGES).glob(".temporary-*"))


def test_a_cache_that_is_damaged_twice_is_rebuilt_twice(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    for _ in range(2):
        load_folder(folder, tmp_path / "cache")
        truncate(next((tmp_path / "cache" / IMAGES).glob("mine-*[!t]")) / "images.npy")
        with pytest.warns(UserWarning, match=r"is damaged .*set aside as mine-.*\.corrupt"):
            assert len(load_folder(folder, tmp_path / "cache").images) == 6
    assert len(list((tmp_path / "cache" / IMAGES).glob("*.corrupt"))) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"folder": 1}', '{"other": "x"}', "\xff"])
def test_damaged_index_is_rebuilt_with_a_warning(tmp_path: Path, text: str) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    (entry,) = (tmp_path / "cache" / IMAGES / "index").iterdir()
    entry.write_text(text)
    with pytest.warns(UserWarning, match=entry.name):
        assert load_folder(folder, tmp_path / "cache").fingerprint == first.fingerprint


def test_removed_cache_folder_is_rebuilt_in_silence(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    shutil.rmtree(cache_folder(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_folder(folder, tmp_path / "cache").fingerprint == first.fingerprint


def test_verify_finds_a_flipped_bit_in_the_cache(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    first = load_folder(folder, tmp_path / "cache")
    images = cache_folder(tmp_path / "cache") / "images.npy"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(UserWarning, match="the images were changed"):
        summary = verify("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder})
    assert summary.fingerprint == first.fingerprint
    assert images.read_bytes() == whole
    assert (summary.images, summary.classes, summary.size, summary.channels) == (6, 2, (4, 4), 3)


def test_of_two_writers_the_second_uses_the_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "in")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)  # another process finishes just before us
        (target / "winner").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    source = load_folder(folder, tmp_path / "cache")
    assert (cache_folder(tmp_path / "cache") / "winner").exists()
    assert len(source.images) == 6
    assert not list((tmp_path / "cache" / IMAGES).glob(".temporary-*"))


def test_processes_that_race_end_with_one_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", per_class=20)
    code = (
        "import sys; from pathlib import Path; from pudnet_bench.suites.sources.loading import load;"
        f"print(load('mine', data_dir=None, cache_dir=Path({str(tmp_path / 'cache')!r}),"
        f" folders={{'mine': Path({str(folder)!r})}}).fingerprint)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    prints = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert {racer.returncode for racer in racers} == {0}
    assert prints == {load_folder(folder, tmp_path / "cache").fingerprint}
    assert cache_folder(tmp_path / "cache").name == f"mine-{prints.pop()[:16]}"


def test_failed_decoding_leaves_no_cache(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    whole = (folder / "dog" / "2.png").read_bytes()
    (folder / "dog" / "2.png").write_bytes(whole[:-40])  # its header is sound: writing the cache has begun
    with pytest.raises(SourceError):
        load_folder(folder, tmp_path / "cache")
    assert list((tmp_path / "cache" / IMAGES).iterdir()) == []


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    names = (".temporary-old", "mine-old.corrupt", ".temporary-new")
    old, damaged, new = (tmp_path / "cache" / IMAGES / name for name in names)
    for left in (old, damaged, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    os.utime(damaged, (0, 0))
    load_folder(make_folder(tmp_path / "in"), tmp_path / "cache")
    assert not old.exists()
    assert not damaged.exists()
    assert new.exists()


def test_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", side=64, per_class=10)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match=r"cannot write the image cache .*file .*choose another cache folder"):
        load_folder(folder, tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as a full disk: writing fails half-way
    try:
        with pytest.raises(SourceError, match=r"cannot write the image cache .*free some space"):
            load_folder(folder, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(load_folder(folder, tmp_path / "cache").images) == 20


def test_older_decoders_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = make_folder(tmp_path / "in")
    load_folder(folder, tmp_path / "cache")
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    request.getfixturevalue("no_decoding")
    with pytest.raises(AssertionError, match="an image was decoded"):
        load_folder(folder, tmp_path / "cache")


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["load", "locate", "fetch", "verify"])
def test_unknown_name_gets_a_suggestion(tmp_path: Path, function: str) -> None:
    call = {
        "load": lambda name: load(name, data_dir=tmp_path, cache_dir=tmp_path),
        "locate": lambda name: locate(name, data_dir=tmp_path),
        "fetch": lambda name: fetch(name, tmp_path),
        "verify": lambda name: verify(name, data_dir=tmp_path, cache_dir=tmp_path),
    }[function]
    with pytest.raises(SourceError, match="no source 'cifar100': did you mean 'cifar-100'"):
        call("cifar100")
    with pytest.raises(SourceError, match=r"no source 'xyz': known: animals-10, .*, mini-imagenet"):
        call("xyz")


def test_name_that_would_leave_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'\.\./x' cannot name a source"):
        load("../x", data_dir=None, cache_dir=tmp_path, folders={"../x": make_folder(tmp_path / "in")})


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "digits"])
def test_missing_source_says_what_to_put_where(tmp_path: Path, name: str) -> None:
    spec = SOURCES[name]
    way_out = f"data fetch {name}`" if spec.torchvision else spec.origin
    cases = {
        None: "PUDNET_BENCH_DATA",
        tmp_path: f"not under {tmp_path}",
        tmp_path / "no": f"{tmp_path / 'no'} does not",
    }
    for data_dir, said in cases.items():
        assert locate(name, data_dir=data_dir) is None
        with pytest.raises(SourceError) as caught:
            load(name, data_dir=data_dir, cache_dir=tmp_path / "cache")
        for part in (name, said, way_out, *spec.layouts):
            assert part in str(caught.value)


def test_missing_user_folder_is_named(tmp_path: Path) -> None:
    assert locate("mine", data_dir=None, folders={"mine": tmp_path / "no"}) is None
    with pytest.raises(SourceError, match=r"the folder .*/no of the source 'mine' does not exist"):
        load_folder(tmp_path / "no", tmp_path / "cache")


def test_folder_without_classes_is_named(tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.png", noise(0, 4, 4))  # images, but not in class folders
    with pytest.raises(SourceError, match=r"in has no class folders: put .*in/<class>/"):
        load_folder(tmp_path / "in", tmp_path / "cache")
    (tmp_path / "split" / "train").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"split has no class folders: put .*split/<class>/"):
        load_folder(tmp_path / "split", tmp_path / "cache")


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:100] + bytes([raw[100] ^ 255]) + raw[101:],
        lambda raw: b"",
        lambda raw: b"%!PS-Adobe-3.0 EPSF-3.0\n",  # would start Ghostscript
    ],
)
def test_corrupt_image_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], grey: bool) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / "in" / name / f"{i}.png", noise(i, 16, 16) if grey else noise(i, 16, 16, 3))
    bad = tmp_path / "in" / "dog" / "1.png"
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(
        SourceError, match=r"cannot decode 1 of the 6 images .*: dog/1\.png \(.*\): replace or remove it"
    ):
        load_folder(tmp_path / "in", tmp_path / "cache")


def test_link_to_an_image_that_has_gone_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    (folder / "dog" / "7.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(SourceError, match=r"dog/7\.png \(a link to nothing\)"):
        load_folder(folder, tmp_path / "cache")


def test_size_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be resized to 0 pixels"):
        load_folder(make_folder(tmp_path / "in"), tmp_path / "cache", size=0)


def test_incomplete_known_source_is_refused_but_may_have_its_own_name(tmp_path: Path) -> None:
    make_folder(tmp_path / "cifar-10" / "train")
    with pytest.raises(SourceError, match=r"cifar-10 holds 2 classes where cifar-10 has 10.*--source NAME="):
        load("cifar-10", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert len(load_folder(tmp_path / "cifar-10", tmp_path / "cache").images) == 6


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "not a complete idx file"),
        (lambda raw: raw[:3], "cannot read"),
        (lambda raw: b"\1" + raw[1:], "not a complete idx file"),
    ],
)
def test_damaged_idx_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], said: str, packed: bool) -> None:
    file = make_idx(tmp_path) / "t10k-images-idx3-ubyte"
    damaged = damage(file.read_bytes())
    file.unlink()
    if packed:
        file = file.with_name(f"{file.name}.gz")
    file.write_bytes(gzip.compress(damaged) if packed else damaged)
    with pytest.raises(SourceError, match=rf"{said}.*t10k-images|t10k-images.*{said}"):
        load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_incomplete_idx_files_are_named(tmp_path: Path) -> None:
    raw = make_idx(tmp_path)
    labels = raw / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(10, dtype=np.uint8)))
    with pytest.raises(SourceError, match=r"holds 20 images but .*train-labels-idx1-ubyte 10 labels"):
        load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    labels.write_bytes(idx(np.full(20, 11, dtype=np.uint8)))
    with pytest.raises(SourceError, match="does not hold images of exactly 10 classes"):
        load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    labels.write_bytes(gzip.compress(b"cut")[:-4])
    labels.rename(labels.with_name(f"{labels.name}.gz"))
    with pytest.raises(SourceError, match=r"cannot read .*train-labels-idx1-ubyte\.gz"):
        load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    labels.with_name(f"{labels.name}.gz").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*train-labels-idx1-ubyte: No such file"):
        load("fashion-mnist", data_dir=tmp_path, cache_dir=tmp_path / "cache")


# --- fetching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mini-imagenet", "animals-10"])
def test_fetch_says_where_to_get_what_it_cannot_download(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(name, tmp_path)
    for part in (name, SOURCES[name].origin, str(tmp_path), *SOURCES[name].layouts):
        assert part in str(caught.value)


def test_fetch_leaves_alone_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it now fails
    for name in ("cifar-10", "animals-10"):
        folder = make_folder(tmp_path / name)
        assert fetch(name, tmp_path) == folder
    assert fetch("digits", tmp_path) == locate("digits", data_dir=None)


def test_failed_download_is_one_clear_error_and_leaves_the_source_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import mnist

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Name or service\nnot known")

    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    with pytest.raises(
        SourceError, match=r"^cannot download fashion-mnist \(.*service not known\): .*FashionMNIST/raw"
    ):
        fetch("fashion-mnist", tmp_path / "new")
    assert locate("fashion-mnist", data_dir=tmp_path / "new") is None


def test_fetch_returns_where_torchvision_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import mnist

    def download(url: str, download_root: str, filename: str, md5: str) -> None:
        array = noise(0, 20, 5, 5) if "images" in filename else np.tile(np.arange(10, dtype=np.uint8), 2)
        (Path(download_root) / filename.removesuffix(".gz")).write_bytes(idx(array))

    monkeypatch.setattr(mnist, "download_and_extract_archive", download)
    assert fetch("fashion-mnist", tmp_path / "new") == tmp_path / "new" / "FashionMNIST" / "raw"
    assert len(load("fashion-mnist", data_dir=tmp_path / "new", cache_dir=tmp_path / "cache").images) == 40


def test_fetch_into_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"cannot write the data folder .*file"):
        fetch("cifar-100", tmp_path / "file")


# --- the real images ------------------------------------------------------------------------------


REAL = {
    "fashion-mnist": (7000, 10, (1, 28, 28)),
    "cifar-10": (3500, 10, (3, 32, 32)),
    "cifar-100": (600, 100, (3, 32, 32)),
    "mini-imagenet": (200, 100, (3, 84, 84)),
    "animals-10": (400, 10, (3, 84, 84)),
}
COPIES = {"cifar-100": 43, "mini-imagenet": 2}  # images that are in no group


@pytest.mark.parametrize("name", [pytest.param(name, marks=real_data) for name in REAL])
def test_real_images(tmp_path: Path, name: str) -> None:
    assert DATA is not None
    per_class, classes, shape = REAL[name]
    source = load(name, data_dir=Path(DATA), cache_dir=tmp_path)
    assert source.images.shape[1:] == shape
    assert len(source.class_names) == classes
    np.testing.assert_array_equal(source.labels, np.repeat(np.arange(classes), per_class))
    # Real photographs of one class differ, and none is blank: rows of zeros would mean blocks never written.
    assert all(source.images[i].std() > 0 for i in range(0, len(source.images), 97))
    assert len(source.left_out) == COPIES.get(name, 0)
    if name == "fashion-mnist":
        raw = (Path(DATA) / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
        first = np.frombuffer(raw, np.uint8, count=784, offset=16).reshape(28, 28)  # an ankle boot
        np.testing.assert_array_equal(source.images[source.labels == 9][0, 0], first)
    else:
        assert locate(name, data_dir=Path(DATA)) == Path(DATA) / name
