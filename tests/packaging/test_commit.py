"""A run names this project's commit, and never that of a repository that the package happens to lie in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from pudnet_bench.harness.measuring import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path) -> str:
    """Make a git repository with one commit of all that is in `folder` and not ignored; returns the commit."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def copy_of_harness(folder: Path) -> Path:
    """Copy the room that `git_commit` lies in to `folder`; returns the copied module's file."""
    measuring = Path(provenance.__file__).resolve().parent
    shutil.copytree(measuring.parent, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "harness" / measuring.name / Path(provenance.__file__).name


def commit_named_by(file: Path) -> str:
    spec = importlib.util.spec_from_file_location("provenance_of_a_copy", file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(file.read_bytes(), file, "exec"), vars(module))  # the loader would write bytecode: a change
    named: str = module.git_commit()
    return named


def test_a_checkout_names_its_commit_and_its_changes(tmp_path: Path) -> None:
    file = copy_of_harness(tmp_path)
    commit = repository(tmp_path)
    assert commit_named_by(file) == commit
    (tmp_path / "results" / "published").mkdir(parents=True)
    (tmp_path / "results" / "published" / "cells.csv").write_text("published results are no change\n")
    assert commit_named_by(file) == commit
    (tmp_path / "change.py").write_text("")
    assert commit_named_by(file) == f"{commit}+changes"


def test_a_checkout_reached_through_a_link_is_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = copy_of_harness(tmp_path / "real")
    commit = repository(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert commit_named_by(tmp_path / "link" / file.relative_to(tmp_path / "real")) == commit


def test_another_repository_named_by_the_environment_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "checkout").mkdir()
    file = copy_of_harness(tmp_path / "checkout")
    commit = repository(tmp_path / "checkout")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert commit_named_by(file) == commit


@pytest.mark.parametrize("ignored", [True, False])
def test_a_copy_inside_a_foreign_repository_names_none(tmp_path: Path, ignored: bool) -> None:
    file = copy_of_harness(tmp_path / ".venv/lib/python3/site-packages/pudnet_bench")
    (tmp_path / ".gitignore").write_text(".venv\n" if ignored else "")
    assert repository(tmp_path)
    assert bool(git(tmp_path, "ls-files", ".venv")) is not ignored
    assert commit_named_by(file) == ""


def test_a_foreign_repository_that_does_not_track_the_harness_names_none(tmp_path: Path) -> None:
    file = copy_of_harness(tmp_path)
    (tmp_path / ".gitignore").write_text("harness\n")
    assert repository(tmp_path)
    assert commit_named_by(file) == ""


def test_no_repository_names_none(tmp_path: Path) -> None:
    assert commit_named_by(copy_of_harness(tmp_path)) == ""
