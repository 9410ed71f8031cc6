"""The hash of the code behind a number changes with the code, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudnet_bench.harness.planning import code_digest as module
from pudnet_bench.harness.planning.code_digest import code_digest
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.methods.registry import find_in_file
from pudnet_bench.methods.scratch import Adam

METHOD = """
from pudnet_bench.methods.base import Method, Snapshot

class Mine(Method):
    name = "mine"

    def fit(self, dataset):
        yield Snapshot(lambda images: images.flatten(1)[:, :2])
"""


def digest_of(folder: Path, source: str) -> str:
    path = folder / f"m{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    return code_digest(find_in_file(f"{path}:Mine"))


def test_only_code_counts(tmp_path: Path) -> None:
    plain = digest_of(tmp_path, METHOD)
    assert digest_of(tmp_path, METHOD) == plain
    told = METHOD.replace("        yield", '        """What it does."""\n        # why\n\n        yield')
    assert digest_of(tmp_path, told) == plain
    assert digest_of(tmp_path, METHOD.replace("[:, :2]", "[:, :3]")) != plain


@pytest.mark.parametrize(
    ("changed", "concerned"),
    [("methods/metric.py", {ProtoNet}), ("suites/groups.py", {ProtoNet, Adam, GC}), ("methods/scratch.py", {Adam, GC})],
)
def test_a_change_in_a_module_it_uses_counts(
    changed: str, concerned: set[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {method: code_digest(method) for method in (ProtoNet, Adam, GC)}
    parsed = module._parsed

    there = (Path(module.__file__).parents[2] / changed).read_bytes()

    def changed_there(source: bytes) -> tuple[str, tuple[str, ...]]:
        digest, imports = parsed(source)
        return (digest[::-1] if source == there else digest), imports

    monkeypatch.setattr(module, "_parsed", changed_there)
    assert {method for method in before if code_digest(method) != before[method]} == concerned
