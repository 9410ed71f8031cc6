"""README and docs/ say what is so: every command runs, every output is what is printed, every option and link is there."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from pudnet_bench.harness.cli.app import app
from pudnet_bench.methods import registry
from pudnet_bench.results.store.rows import ROW_SCHEMA
from pudnet_bench.slurm import cluster
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.families import FAMILIES
from tests.slurm.local_slurm import not_installed

sys.path.insert(0, str(Path(__file__).parent))
import doc_pages as pages

TEXTS = {page: page.read_text() for page in pages.PAGES}
COMMANDS = [
    command
    for text in TEXTS.values()
    for block in pages.blocks(text)
    if block.language == "sh"
    for command in block.commands
]
HARNESS = typer.main.get_command(app)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all pages and all workers of xdist: what two want at once, one trains and the other waits for."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache-of-pages"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Slurm, which is stopped at the end where one was started in it."""
    folder = Path(tempfile.mkdtemp(prefix="s"))
    yield folder
    if (folder / "slurm.conf").exists():
        subprocess.run(
            [sys.executable, "-m", "tests.slurm.local_slurm", "stop", str(folder)], cwd=pages.ROOT, check=True
        )
    shutil.rmtree(folder, ignore_errors=True)


def run_pages() -> list[object]:
    """The pages that have commands, with the marks that apply: all but the two that a newcomer reads first are slow."""

    def marks(page: Path) -> list[pytest.MarkDecorator]:
        slow = [pytest.mark.slow] if page.stem not in ("README", "quick-start") else []
        return [*slow, pytest.mark.slurm] if "local_slurm start" in TEXTS[page] else slow

    return [pytest.param(page, id=page.stem, marks=marks(page)) for page in TEXTS if "```sh" in TEXTS[page]]


@pytest.mark.parametrize("page", run_pages())
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, shared_cache: Path, short_folder: Path) -> None:
    if "local_slurm start" in TEXTS[page] and (reason := not_installed()):
        pytest.skip(reason)
    shows_training = any(
        re.search(r"^meta-training |meta-trainings and", block.text, re.MULTILINE)
        for block in pages.blocks(TEXTS[page])
    )
    shell = pages.Shell(tmp_path, tmp_path / ".cache" if shows_training else shared_cache)
    places = {"root": str(pages.ROOT), "short": str(short_folder)}
    for block, printed in pages.follow(page, shell, places, lambda block: not pages.on_images(block)):
        pages.aligned(block.text.splitlines(), printed)


@pytest.mark.real_data
def test_pages_do_what_they_say_on_real_images(tmp_path: Path, shared_cache: Path, real_data: Path) -> None:
    places = {"root": str(pages.ROOT), "images": str(real_data)}
    for page in pages.PAGES:
        folder = tmp_path / f"{page.parent.name}-{page.stem}"
        folder.mkdir()
        for block, printed in pages.follow(page, pages.Shell(folder, shared_cache), places, pages.on_images):
            pages.aligned(block.text.splitlines(), printed)


def test_each_substitution_is_used() -> None:
    for rule in pages.SUBSTITUTIONS:
        assert any(re.search(rule.pattern, pages.substituted(command, {}, until=rule)) for command in COMMANDS), rule


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("| ProtoNet | **95.18 ± 1.92** | 0.00122 |", "| ProtoNet | 93.00 ± 25.41 | 1.5 |"),
        (r"a & \underline{$1.0 \pm 2$} \\", r"a & $\mathbf{9.25 \pm 7.5}$ \\"),
        ("on AMD EPYC, 2 cores, 15 min, c04dc966f6f9+changes", "on Intel(R) Xeon(R), 64 cores, 90 s, 0ab4dc966f6f"),
        ("to train  1 s", "to train  50 s to 2 min"),
        ("first\n…\nlast", "first\n\nsecond\nthird\nlast"),
        ("…\na 1\nb 2…", "x\na 1\na 7\nb 3 and so on"),
        ("…", ""),
    ],
)
def test_what_is_shown_may_differ_in_this(shown: str, printed: str) -> None:
    pages.aligned(shown.splitlines(), printed.splitlines())


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("| ProtoNet | 95.18 ± 1.92 |", "| PudNet | 95.18 ± 1.92 |"),
        ("first\nlast", "first\nsecond\nlast"),
        ("second\n…", "first\nsecond"),
        ("first", "first\nsecond"),
        ("first\n…\nsecond", "second\nfirst"),
        ("a (n=3)", "a"),
        ("table1", "table2"),
        ("adam, 30 epochs, 5", "adam, 1 epochs, 5"),
    ],
)
def test_what_is_shown_may_not_differ_in_that(shown: str, printed: str) -> None:
    with pytest.raises(pages.PageError, match="not printed there"):
        pages.aligned(shown.splitlines(), printed.splitlines())


def test_outputs_are_rewritten_from_what_is_printed() -> None:
    shown = "…\n  a  1 of c…\n| x | 1.0 |\n…\n"
    printed = ["head", "  a  22 of d", "  a  22 of cells", "| x | **2.5** |", "tail"]
    assert pages.rewritten(shown, printed) == "…\n  a  22 of c…\n| x | **2.5** |\n…\n"
    assert pages.rewritten("", ["one ", "two"]) == "one\ntwo\n"


# --- What stands in the text: commands, options, names, links ---


def inline(text: str) -> list[str]:
    """Code within lines of a page."""
    outside = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", outside)


def parsed(words: list[str]) -> None:
    """`words` as the command line takes them, without running anything; raises what it says where it does not."""
    command: TyperGroup | TyperCommand = HARNESS
    while isinstance(command, TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words)
    if command.name == "run":
        for name in itertools.takewhile(lambda word: not word.startswith("-"), words):
            assert name in SUITES or name == "all" or name.endswith(".py"), name


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_commands_in_the_text_are_those_of_the_command_line(page: Path) -> None:
    for code in inline(TEXTS[page]):
        command = re.sub(r"^(uv run )?(python -m harness|pudnet-bench) ", "", code)
        words = command.split()
        placeholders = "COMMAND" in words or "SUITES..." in words or words[0] == "--install-completion"  # typer's own
        if (command != code or (words[0] in HARNESS.commands and len(words) > 1)) and not placeholders:
            parsed(words)


def options_of(command: TyperCommand) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}


def leaves(command: TyperGroup | TyperCommand) -> Iterator[TyperCommand]:
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            yield from leaves(inner)
    else:
        yield command


def test_options_in_the_text_are_those_of_the_command_line() -> None:
    known = {"--help", "--version", "--cpus", "--install-completion"}.union(
        *(options_of(command) for command in leaves(HARNESS))
    )
    for page, text in TEXTS.items():
        for code in inline(text):
            if not code.startswith(("scancel", "uv ", "pip ")):
                assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)) <= known, f"{page.name}: {code}"


def sections(text: str) -> dict[str, str]:
    """The sections of a page by their heading."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", sorted(HARNESS.commands))
def test_every_command_is_documented_with_every_option(name: str) -> None:
    section = sections(TEXTS[pages.ROOT / "docs/commands.md"])[name]
    for command in leaves(HARNESS.commands[name]):
        for option in options_of(command) - {"--help", "--debug"}:
            assert f"`{option}" in section, f"{name}: {option}"


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_method_is_documented_with_its_options_and_defaults(name: str) -> None:
    section = sections(TEXTS[pages.ROOT / "docs/methods.md"])[name]
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE))
    parameters = inspect.signature(registry.find(name).__init__).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "network"}
    assert documented == {option: repr(default).replace("'", '"') for option, default in options.items()}


def rows(text: str, heading: str) -> list[list[str]]:
    """Fields of the last table under `heading`, without marks of code."""
    lines = [line for line in sections(text)[heading].splitlines() if line.startswith("| `")]
    return [[field.strip().strip("`") for field in line.strip("|").split("|")] for line in lines]


def test_profiles_and_families_are_those_of_the_code() -> None:
    text = TEXTS[pages.ROOT / "docs/concepts.md"]
    for name, _, splits, groups, most, check, patience in rows(text, "Profile"):
        profile = PROFILES[name]
        assert int(splits) == profile.splits
        assert groups == f"{profile.groups} ({profile.iterative_groups})"
        assert most.startswith(
            "the paper's" if profile.max_meta_groups is None else f"{profile.max_meta_groups:,} groups"
        )
        assert check == f"{profile.check_every} groups, on {profile.validation_groups}"
        assert patience.startswith(f"{profile.patience} checks")
    for name, source, classes, group in rows(text, "Group"):
        family = FAMILIES[name]
        assert source == family.source
        assert classes == f"{family.training_classes} / {family.unseen_classes}"
        assert group == f"{family.ways}, {family.images}"
    assert [row[0] for row in rows(text, "Profile")] == list(PROFILES)


def test_every_column_of_a_row_is_documented() -> None:
    stored = sections(TEXTS[pages.ROOT / "docs/timing.md"])["What is stored"]
    assert set(re.findall(r"`(\w+)`", stored)) >= set(ROW_SCHEMA.names)


def test_no_path_of_the_machine_that_wrote_it() -> None:
    for page, text in TEXTS.items():
        assert not re.findall(r"(?<![\w.~])/(?:tmp/(?!my-slurm)|home|root|usr|work)\S*", text), page.name


def test_cluster_profiles_can_be_loaded(tmp_path: Path) -> None:
    found = [block for text in TEXTS.values() for block in pages.blocks(text) if block.language == "toml"]
    assert found
    for block in found:
        (tmp_path / block.file).write_text(block.text)
        assert cluster.load(tmp_path / block.file).parameters("training")["timeout_min"]


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as a forge makes them."""
    text = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = TEXTS[page]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target
    for name in re.findall(r"`((?:methods|suites|harness|results|slurm|tests|docs)/[\w/.-]+)`", text):
        assert (pages.ROOT / name).exists(), name


def test_every_page_is_in_the_index_and_reached_from_the_readme() -> None:
    index, readme = TEXTS[pages.ROOT / "docs/README.md"], TEXTS[pages.ROOT / "README.md"]
    for page in (pages.ROOT / "docs").glob("*.md"):
        if page.name != "README.md":
            assert f"({page.name})" in index
        assert f"docs/{page.name}" in readme
