"""The names that pudnet_bench exports, and that importing it loads nothing heavy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pudnet_bench

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_names_are_those_of_the_contract_and_of_suites() -> None:
    from pudnet_bench.methods import base
    from pudnet_bench.suites import declaration, family

    assert {pudnet_bench.Method, pudnet_bench.Dataset, pudnet_bench.Snapshot} == {
        base.Method,
        base.Dataset,
        base.Snapshot,
    }
    assert {pudnet_bench.Suite, pudnet_bench.Variant} == {declaration.Suite, declaration.Variant}
    assert pudnet_bench.Family is family.Family
    assert set(pudnet_bench.__all__) <= set(dir(pudnet_bench))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pudnet_bench' has no attribute 'Methods'"):
        pudnet_bench.Methods  # noqa: B018


@pytest.mark.parametrize(
    "names", ["import pudnet_bench", "from pudnet_bench import Family, Suite, Variant, __version__"]
)
def test_importing_loads_no_torch_and_no_array_library(names: str) -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'scipy', 'pyarrow'}"
    code = f"import sys\n{names}\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_changelog_and_citation_have_the_version() -> None:
    version = pudnet_bench.__version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version  # type: ignore[index]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
