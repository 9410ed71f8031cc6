"""README and docs/ as programs: their commands are run in a shell, and what they show is held against what is printed.

`python tests/harness/cli/doc_pages.py [PAGE...]` runs pages as they are written and rewrites what they show.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAID = {"images": "images", "short": "/tmp/my-slurm"}
EXIT_CODE = re.compile(r"# exit code (\d+)$")
ON_THE_WAY = re.compile(r": \d+/\d+ groups, |another process trains it; waiting$")  # what only a slow machine prints
DOTS = "…"


class PageError(AssertionError):
    """A page that says what is not so; names the page, the line and what is there instead."""


@dataclass(frozen=True)
class Substitution:
    """What runs instead of what a page says, and why: `pattern` is replaced in the command by `instead`.

    `instead` is a template of `re.sub`; `{root}` is the checkout, `{images}` the folder of real images and
    `{short}` a folder with a short name. One that only saves time does not hold while outputs are rewritten.
    """

    pattern: str
    instead: str
    why: str
    saves_time: bool = False


SUBSTITUTIONS = (
    Substitution(r"^pip install uv && uv run (.*)", r"\1 --dry-run", "CI installs; docs/quick-start.md runs the rest"),
    Substitution(r"^pip install uv && uv sync$", 'python -c "import pudnet_bench.harness"', "CI installs"),
    Substitution(
        r"^\. \.venv/bin/activate$", 'python -c "import pudnet_bench.harness"', "the environment is that of the tests"
    ),
    Substitution(r"^uv run pytest.*", "python -m pytest --version", "it is pytest that runs this"),
    Substitution(r"^uv run ", "", "the environment is that of the tests"),
    Substitution(
        r" slurm/clusters/", " {root}/slurm/clusters/", "a page stands in the checkout, a test in an empty folder"
    ),
    Substitution(r"/tmp/my-slurm", "{short}", "several tests at a time, and the paths of Slurm's sockets are short"),
    Substitution(r"--data images", "--data {images}", "the real images of PUDNET_BENCH_DATA; fetched, they are there"),
    Substitution(
        r"(--profile standard --data .*--paper)$",
        r"\1 --methods protonet --groups 1 --training-groups 1",
        "hours",
        saves_time=True,
    ),
    Substitution(
        r"^(python -m harness run table1(?: --methods [\w,]+| --paper| --out runs/\w+)*)$",
        r"\1 --training-groups 2",
        "a minute",
        saves_time=True,
    ),
    Substitution(r"(--groups 4 --shard 2)", r"\1 --training-groups 2", "seconds for each job", saves_time=True),
    Substitution(r"(:PixelCentroids)$", r"\1 --methods pixel-centroids", "two minutes for the others", saves_time=True),
    Substitution(
        r"run all --dry-run", "run table1 table4 --targets convnet3 --dry-run", "half a minute", saves_time=True
    ),
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where the text begins and ends in the page."""

    language: str
    text: str
    begin: int
    end: int

    @property
    def commands(self) -> list[str]:
        """The commands of a block in `sh`; a backslash joins a line with the next."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def file(self) -> str:
        """The name that the first line of a Python or TOML file gives it, "" for none."""
        found = re.match(r"# ([\w-]+\.(?:py|toml))\n", self.text)
        return found[1] if found else ""


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], match.start(2), match.end(2)) for match in found]


def on_images(block: Block) -> bool:
    """Whether a block of commands needs the real images: it says where they are."""
    return "--data images" in block.text


def substituted(
    command: str, places: Mapping[str, str], save_time: bool = True, until: Substitution | None = None
) -> str:
    """What runs instead of `command`: itself where no rule (of those before `until`) says otherwise."""
    for rule in SUBSTITUTIONS:
        if rule is until:
            return command
        if save_time or not rule.saves_time:
            command = re.sub(rule.pattern, rule.instead, command)
    for name, place in places.items():
        command = command.replace(f"{{{name}}}", place)
    return command


def as_named(output: str, places: Mapping[str, str]) -> str:
    """`output` with the names that pages give to places."""
    for name, said in SAID.items():
        output = output.replace(places.get(name) or said, said)
    return output


@dataclass(frozen=True)
class Shell:
    """A shell in `folder` whose exported variables live from one command to the next."""

    folder: Path
    cache: Path
    threads: str | None = "1"

    def run(self, command: str) -> tuple[int, str]:
        """Exit code of `command` and all that it prints, in the order of printing."""
        environment = {name: value for name, value in os.environ.items() if name != "PUDNET_BENCH_DATA"} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PUDNET_BENCH_CACHE": str(self.cache),
            "COLUMNS": "250",
        }
        if self.threads:
            environment["OMP_NUM_THREADS"] = self.threads
        state = self.folder / ".exported"
        script = f"test -f {state} && . {state}\n{command}\ncode=$?; export -p >{state}; exit $code"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=500, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout


def follow(
    page: Path,
    shell: Shell,
    places: Mapping[str, str],
    wanted: Callable[[Block], bool] = lambda block: True,
    save_time: bool = True,
) -> Iterator[tuple[Block, list[str]]]:
    """Do what the page says: write its files, run the `wanted` blocks of commands; yields what it shows and what is printed.

    Raises PageError where a command ends otherwise than it says: with 0, or with the exit code in its comment.
    """
    printed: list[str] | None = None
    text, place = page.read_text(), 0
    for block in blocks(text):
        if text[place : block.begin].count("\n") > 3:  # not right after the block before
            printed = None
        place = block.end
        if block.language == "sh":
            printed = [] if wanted(block) else None
            for command in block.commands if wanted(block) else ():
                runs = substituted(command, places, save_time)
                code, output = shell.run(runs)
                lines = [line for line in as_named(output, places).splitlines() if not ON_THE_WAY.search(line)]
                expected = EXIT_CODE.search(command)
                if code != (int(expected[1]) if expected else 0) or "Traceback" in output:
                    raise PageError(f"{page.name}: {command}\nran as: {runs}\nexit code {code}\n{output}")
                printed += lines if printed is not None else []
        elif block.language in ("text", "latex", "json", "csv") and printed is not None:
            yield block, printed
            printed = None
        elif block.file:
            (shell.folder / block.file).write_text(block.text)


# What may differ from machine to machine, and from run to run.
MASKS = {
    "machine": r"[A-Z][^,;:|…]*, \d+ cores",
    "duration": r"(?<![\w.])(?:\d+(?:\.\d+)?(?: (?:ms|s|min|h))? to )?\d+(?:\.\d+)? (?:ms|s|min|h)(?!\w)",
    "hash": r"(?<!\w)(?=[a-f]*\d)[0-9a-f]{8,}(?:\+changes)?(?!\w)",
    "path": r"(?<![\w.…])/\w[\w./-]+",
    "precision": r"bf16|fp32",
    "verdict": r"no difference shown|better|worse",
    # An interval is there or not: it takes enough degrees of freedom.
    "number": r"(?<![A-Za-z_\d.])(?>[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?)(?! epoch)(?: (?:±|\\pm) \d+\.\d+)?|nan",
}
TOKENS = re.compile("|".join([*(f"(?P<{name}>{mask})" for name, mask in MASKS.items()), rf"{DOTS}", r"\*\*", r"\s+"]))


def unranked(line: str) -> str:
    """A line of LaTeX without the marks of the best and the second best, which may be others elsewhere."""
    return re.sub(r"\\underline\{(\$[^$]*\$)\}", r"\1", re.sub(r"\\mathbf\{([^}]*)\}", r"\1", line))


def plain(line: str) -> str:
    """A printed line as `pattern` expects it."""
    return unranked(line).replace("**", "").rstrip()


def tokens(line: str) -> list[tuple[str, str]]:
    """(kind, text) of what a shown line is made of; kind is that of a mask, "dots", "bold", "space" or "literal"."""
    found, place = [], 0
    for match in TOKENS.finditer(line):
        if match.start() > place:
            found.append(("literal", line[place : match.start()]))
        kind = match.lastgroup or {DOTS: "dots", "**": "bold"}.get(match[0], "space")
        found.append((kind, match[0]))
        place = match.end()
    return [*found, ("literal", line[place:])]


def pattern(line: str) -> re.Pattern[str]:
    """What a shown line stands for among printed lines made `plain`: a group for each mask."""
    parts = {"dots": ".*?", "bold": "", "space": r"\s+"} | {name: f"({mask})" for name, mask in MASKS.items()}
    shown = tokens(unranked(line.strip()))
    return re.compile(r"\s*" + "".join(parts.get(kind, re.escape(text)) for kind, text in shown))


def aligned(shown: Sequence[str], printed: Sequence[str]) -> list[tuple[int, int]]:
    """Which printed line each shown line is: (shown, printed) positions.

    Blank lines count for nothing, and a line "…" for any number of lines; between two of those, lines are neighbours.
    Raises PageError naming the first line that is not printed.
    """
    segments: list[list[int]] = [[]]
    for place, line in enumerate(shown):
        if line.strip() == DOTS:
            segments.append([])
        elif line.strip():
            segments[-1].append(place)
    there = [place for place, line in enumerate(printed) if line.strip()]
    found: list[tuple[int, int]] = []
    begin = 0
    for number, segment in enumerate(segments):
        patterns = [pattern(shown[place]) for place in segment]
        last = len(there) - len(segment)
        starts = [
            start
            for start in range(begin, last + 1)
            if (number > 0 or start == 0) and (number < len(segments) - 1 or start == last)
        ]
        best = 0
        for start in starts:
            lines = [plain(printed[place]) for place in there[start : start + len(segment)]]
            fits = [bool(p.fullmatch(line)) for p, line in zip(patterns, lines, strict=False)]
            if len(lines) == len(segment) and all(fits):
                found += zip(segment, there[start : start + len(segment)], strict=True)
                begin = start + len(segment)
                break
            best = max(best, [*fits, False].index(False))
        else:
            missing = shown[segment[min(best, len(segment) - 1)]] if segment else "its end"
            raise PageError(f"shown, but not printed there: {missing}\nprinted:\n" + "\n".join(printed))
    return found


def rewritten(shown: str, printed: Sequence[str]) -> str:
    """`shown` with the lines and numbers of `printed`; all of them where it is empty."""
    lines = shown.splitlines()
    if not shown.strip():
        return "".join(f"{line.rstrip()}\n" for line in printed)
    for place, source in aligned(lines, printed):
        if DOTS not in lines[place]:
            lines[place] = printed[source].rstrip()
            continue
        match = pattern(lines[place]).fullmatch(plain(printed[source]))
        assert match is not None
        values = iter(match.groups())
        indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
        lines[place] = indent + "".join(
            next(values) if kind in MASKS else text for kind, text in tokens(lines[place].strip())
        )
    return "".join(f"{line}\n" for line in lines)


def rewrite(page: Path) -> None:
    """Run a page as it is written, in an empty folder with an empty cache, and rewrite what it shows."""
    images = os.environ.get("PUDNET_BENCH_DATA", "")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="s") as short:
        shell = Shell(Path(folder), Path(folder) / ".cache", threads=None)
        places = {"root": str(ROOT), "images": images, "short": short}
        text, moved = page.read_text(), 0
        for block, printed in follow(page, shell, places, lambda b: bool(images) or not on_images(b), save_time=False):
            shown = rewritten(block.text, printed)
            text = text[: block.begin + moved] + shown + text[block.end + moved :]
            moved += len(shown) - len(block.text)
        page.write_text(text)


if __name__ == "__main__":
    for argument in sys.argv[1:] or PAGES:
        rewrite(Path(argument).resolve())
