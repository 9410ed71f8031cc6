"""Memory of decoding and normalising: a figure that does not grow with the source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import ClassSplit, FamilyImages
from pudnet_bench.suites.sources.content import Source

CLASSES, SIDE = 6, 400
IMAGE_BYTES = 3 * SIDE**2
THREADS = 4
DECODING = THREADS * 40_000_000  # bytes: what docs/faq.md states
WORK = """
import os, sys, warnings
from pathlib import Path
import torch
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.sources.loading import load

os.cpu_count = lambda: int(sys.argv[2])
family = Family("mine", "Mine", "mine", 4, 2, 2, 20, 2, 100)
print("ready", flush=True)
sys.stdin.readline()
source = load("mine", data_dir=None, cache_dir=Path("cache"), folders={"mine": Path(sys.argv[1])}, allow_copies=True)
SplitImages(family, source, torch.device("cpu")).of_split(1, source)
print(source.images.nbytes)
"""


def anonymous_bytes(process: int) -> int:
    """Memory of a process that is in no file, 0 once it has ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def folder_of(root: Path, per_class: int) -> Path:
    """`per_class` images in each class; most are links, so that the disk holds few."""
    for c in range(CLASSES):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(per_class):
            file = root / f"class{c}" / f"{i}.bmp"
            if i < 2:
                Image.new("RGB", (SIDE, SIDE), (40 * c, i, 90)).save(file)
            else:
                os.link(root / f"class{c}" / f"{i % 2}.bmp", file)
    return root


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_source_while_it_is_decoded_and_normalised(tmp_path: Path) -> None:
    added = []
    for per_class in (24, 100):
        folder = folder_of(tmp_path / str(per_class), per_class)
        command = [sys.executable, "-c", WORK, folder, str(THREADS)]
        with subprocess.Popen(command, cwd=tmp_path, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = peak = anonymous_bytes(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            while process.poll() is None:
                peak = max(peak, anonymous_bytes(process.pid))
                time.sleep(0.002)
            assert process.stdout.read() == f"{CLASSES * per_class * IMAGE_BYTES}\n"
        assert process.returncode == 0
        added.append(peak - before)
    assert CLASSES * 100 * IMAGE_BYTES > 1.5 * DECODING  # the images would show
    assert 0 < added[0] < DECODING
    assert added[1] < DECODING
    assert added[1] < added[0] + 70_000_000


@pytest.mark.parametrize(("channels", "side"), [(1, 5), (3, 32), (3, 700)])
def test_the_normalisation_is_that_of_all_images_at_once(channels: int, side: int) -> None:
    family = Family("small", "Small-set", "small", 6, 4, 2, 2, 2, 100, test_images=2)
    labels = np.repeat(np.arange(10), 4 if side == 700 else 40)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), channels, side, side), dtype=np.uint8)
    images[:, 0] = images[:, 0] // 4 + 190  # a mean that is large beside the deviation
    found = FamilyImages(family, Source("small", images, labels, tuple("abcdefghij"), "0"), torch.device("cpu"))
    positions = np.concatenate([np.flatnonzero(labels == c) for c in ClassSplit.of(family).training])
    whole = torch.from_numpy(images[positions]).to(torch.float64)
    std, mean = torch.std_mean(whole, dim=(0, 2, 3), keepdim=True)
    assert found.mean.dtype == found.std.dtype == torch.float32
    torch.testing.assert_close(found.mean, mean.float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.std, std.float(), rtol=1e-7, atol=0)
