"""The guide docs/adding-a-method.md, followed as written in an empty folder: commands, exit codes, what is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "adding-a-method.md"
EXIT_CODE = re.compile(r"# exit code (\d+)$")


def blocks() -> list[tuple[str, str]]:
    """The guide's fenced blocks in order: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def shape(line: str) -> str:
    """A printed line without what may differ from machine to machine: numbers, bold, spacing."""
    return re.sub(r"\d+([.,]\d+)*", "#", " ".join(line.replace("**", "").split()))


def run(command: str, folder: Path, cache: Path) -> str:
    """What ``command`` prints, having asserted its exit code: the one in its comment, or 0."""
    expected = EXIT_CODE.search(command)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PUDNET_BENCH_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "250",
    }
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == (int(expected[1]) if expected else 0), f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_guide_leads_where_it_says(tmp_path: Path, cache_dir: Path) -> None:
    printed: list[str] = []
    rows = []
    for language, text in blocks():
        if language == "python":
            (name,) = re.findall(r"^# (\w+\.py)\n", text)
            (tmp_path / name).write_text(text)
        elif language == "sh":
            printed = []
            for command in text.splitlines():
                printed += run(command, tmp_path, cache_dir).splitlines()
            rows += [line.split("|")[1].strip() for line in printed if line.startswith("| ")][1:]
        else:
            assert language == "text"
            found = {shape(line) for line in printed}
            for line in text.splitlines():
                before, dots, _ = line.partition("...")
                if dots:  # abridged: what comes before must begin a line
                    assert any(printed_line.startswith(shape(before)) for printed_line in found), line
                else:
                    assert shape(line) in found, f"{line}\nis not in\n" + "\n".join(printed)
    assert {"nearest-mean", "ProtoNet", "Pretrained", "ProtoNet, 5"} <= set(rows)
    tables = [path.relative_to(tmp_path / "runs").parts[0] for path in tmp_path.glob("runs/*/tables/*.tex")]
    assert set(tables) == {"table1-quick-cpu", "numerals", "few-images-quick-cpu"}


@pytest.mark.parametrize("text", [GUIDE.read_text(), (ROOT / "README.md").read_text()], ids=["guide", "README"])
def test_files_that_are_named_are_there(text: str) -> None:
    named = set(re.findall(r"`((?:methods|suites|docs)/[\w/.-]+)`", text)) | set(
        re.findall(r"\]\((docs/[^)#]+)\)", text)
    )
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_readme_leads_to_the_guide() -> None:
    own = (ROOT / "README.md").read_text().split("## A method of your own")[1].split("\n## ")[0]
    assert "docs/adding-a-method.md" in own
