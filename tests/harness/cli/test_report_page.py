"""`report` from the command line, and its page in a real browser: sorted, switched, asked for provenance, on a phone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pudnet_bench.results import paper

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]

LABEL = "</script><img src=x onerror=alert(1)>"
SUITE = f"""
from pudnet_bench.suites.declaration import Suite, Variant

SUITE = Suite(
    "mine", "Two of my own", ("convnet3",), ("digits",),
    (
        Variant("slow", "slow", "Slow", (("1 epochs", "1 epoch"), ("2 epochs", "2 epochs"))),
        Variant("own", "own", {LABEL!r}),
    ),
)
"""
SLOW = """
yield Snapshot(lambda images: classifier(images).roll(fit_number % 2, 1), "1 epochs", 1)
time.sleep(0.002)
yield Snapshot(classifier, "2 epochs", 2)
"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture
def run_folder(command_line: CommandLine, method_file: MethodFile, tmp_path: Path) -> Path:
    """A run of two instant methods on digits, one of them with two snapshots and the other with a label out of order."""
    (tmp_path / "mine.py").write_text(SUITE)
    methods = ("--method", method_file(), "--method", method_file(SLOW, "slow"))
    done = command_line("run", "mine.py", *methods, "--groups", "6", "--out", "mine")
    assert done.exit_code == 0, done.output
    return tmp_path / "mine"


def test_the_page_is_written_beside_the_run_or_where_asked(command_line: CommandLine, run_folder: Path) -> None:
    done = command_line("report", run_folder)
    assert done.exit_code == 0, done.output
    assert f"{run_folder / 'report.html'}: " in done.stdout
    first = (run_folder / "report.html").read_text()
    assert LABEL not in first
    assert "&lt;/script&gt;&lt;img" in first
    done = command_line("report", run_folder, run_folder, "--out", "deep/both.html")
    assert done.exit_code == 0, done.output
    assert Path("deep/both.html").read_text().count("<section") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "neither a run's folder nor a suite"),
        (("table1",), "no run of 'table1'"),
        (("mine", "tabel1"), "did you mean"),
        (("mine", "--out", "mine"), "is a folder"),
        (("mine", "--out", "mine.py/report.html"), "cannot write"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_sentence(
    arguments: tuple[str, ...], told: str, command_line: CommandLine, run_folder: Path
) -> None:
    done = command_line("report", *arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window, and with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver (Debian's chromium-driver) are not here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture
def open_page(
    browser: Any, run_folder: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`open_page(width, height, dark)`: the browser at the page of the run, which the paper has numbers for."""
    printed = paper.load("table1")
    ours = printed[printed["column"] == "fashion"].assign(column="digits").replace({"row": {"pudnet": "own"}})
    ours["row"] = ours["row"].replace({"adam@1": "slow@1"})
    monkeypatch.setattr(paper, "load", lambda table: ours)
    done = command_line("report", run_folder)
    assert done.exit_code == 0, done.output

    def load(width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get((run_folder / "report.html").as_uri())
        return browser

    return load


def screenshot(browser: Any, path: Path) -> None:
    """The whole page, as it is now, as PNG."""
    width, height = browser.execute_script(
        "return [document.documentElement.clientWidth, document.documentElement.scrollHeight]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(picture["data"]))
    assert path.stat().st_size > 10_000


def column(browser: Any, place: int) -> list[str]:
    """The fields of a column of the first table, from top to bottom."""
    return browser.execute_script(
        "return [...document.querySelector('table').tBodies[0].rows].map((row) => row.children[arguments[0]].innerText)",
        place,
    )


def in_order(browser: Any) -> None:
    """Nothing was loaded but the page, nothing was refused by its policy, and no script failed."""
    assert browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert browser.get_log("browser") == []
    assert not browser.execute_script("return document.images.length")


def test_tables_are_sorted_by_their_heads(open_page: Callable[..., Any]) -> None:
    browser = open_page()
    order = column(browser, 0)
    assert order == ["Slow, 1 epoch", "Slow, 2 epochs", LABEL]
    head = browser.find_elements("css selector", "table:first-of-type thead th")[2]  # the time
    button = head.find_element("tag name", "button")
    for direction in ("ascending", "descending", "none"):
        button.click()
        assert head.get_attribute("aria-sort") == direction
        shown = column(browser, 2)
        if direction == "none":
            assert column(browser, 0) == order
        else:
            assert shown == sorted(shown, key=float, reverse=direction == "descending")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    assert head.get_attribute("aria-sort") == "ascending"
    in_order(browser)


def test_the_papers_numbers_come_and_go(open_page: Callable[..., Any]) -> None:
    browser = open_page()
    fields = browser.find_elements("css selector", "table td.paper")
    assert fields
    box = browser.find_element("id", "paper")
    assert not any(field.is_displayed() for field in fields)
    box.send_keys(" ")
    assert all(field.is_displayed() for field in fields)
    assert "96.64 ± 0.34" in [field.text for field in fields]
    (empty,) = {field.text for field in fields if field.get_attribute("data-value") == ""}
    assert empty == "—"
    paper_head = browser.find_elements("css selector", "table:first-of-type thead th")[4]
    paper_head.find_element("tag name", "button").click()
    assert column(browser, 0)[-1] == "Slow, 2 epochs"  # the one that the paper has no number for
    box.click()
    assert not any(field.is_displayed() for field in fields)
    in_order(browser)


def test_two_methods_are_chosen_for_the_scatter(open_page: Callable[..., Any]) -> None:
    browser = open_page()
    figure = browser.find_element("css selector", "figure.scatter")
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))["scatters"][0]
    assert data["rows"] == ["Slow, 1 epoch", "Slow, 2 epochs", LABEL]

    def dots() -> list[str]:
        return [dot.get_attribute("textContent") for dot in figure.find_elements("css selector", "circle.dot title")]

    def choose(select: str, place: int) -> None:
        figure.find_elements("css selector", f"select.{select} option")[place].click()

    accuracies = data["families"][0]["accuracies"]
    for x, y in ((0, 1), (1, 2), (2, 0)):
        choose("x", x)
        choose("y", y)
        assert len(dots()) == 6
        for told, a, b in zip(dots(), accuracies[x], accuracies[y], strict=True):
            assert told.endswith(f"{a:g} and {b:g} %")
        name = figure.find_element("css selector", ".drawing svg").get_attribute("aria-label")
        assert name == f"{data['rows'][y]} against {data['rows'][x]}, {data['families'][0]['label']}"
        mean = sum(accuracies[y]) / 6 - sum(accuracies[x]) / 6
        told = figure.find_element("css selector", ".note").text
        assert f"{abs(mean):.2f} points on average" in told
        pair, sign = data["families"][0]["pairs"][max(x, y)][min(x, y)], 1 if y > x else -1
        low, high = sorted((sign * pair["low"], sign * pair["high"]))
        shown = [f"{'−' if end < 0 else '+'}{abs(end):.2f}" for end in (low, high)]
        assert f"{' to '.join(shown)} ({pair['confidence']:g}% interval" in told
        assert ("they differ, for " in told) == (low > 0 or high < 0) == ("no difference shown" not in told)
        assert told.endswith(f"{pair['about']}.")
    in_order(browser)


def test_provenance_by_keyboard(open_page: Callable[..., Any], tmp_path: Path) -> None:
    browser = open_page()
    dialog = browser.find_element("id", "origin")
    assert not dialog.is_displayed()
    button = browser.find_element("css selector", "button.origin")
    for _ in range(20):  # from the top of the page, as a person without a mouse comes to it
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        if browser.switch_to.active_element == button:
            break
    assert browser.switch_to.active_element == button
    outline = button.value_of_css_property("outline-style"), button.value_of_css_property("outline-width")
    assert outline == ("solid", "3px")
    button.send_keys("\ue007")  # Enter
    assert dialog.is_displayed()
    told = dialog.text
    for part in ("cells/slow-", "python -m harness", "commit", "torch", "groups", "class splits", "unseen classes of split 0",
                 "seeds", "device"):  # fmt: skip
        assert part in told
    screenshot(browser, tmp_path / "provenance.png")
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == button
    browser.find_elements("css selector", "td[data-key]")[1].click()  # the time, with a mouse
    assert dialog.is_displayed()
    dialog.find_element("tag name", "button").click()
    assert not dialog.is_displayed()
    in_order(browser)


@pytest.mark.parametrize(
    ("name", "width", "height", "dark"),
    [("desktop", 1280, 900, False), ("phone", 320, 640, False), ("dark", 1280, 900, True), ("wide", 2200, 1200, True)],
)
def test_it_fits_from_a_phone_to_a_wide_screen(
    name: str, width: int, height: int, dark: bool, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    browser = open_page(width, height, dark)
    for paper_shown in (False, True):
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return document.body.scrollWidth") <= width
        if not paper_shown:
            browser.find_element("id", "paper").click()
    ink, page = (
        browser.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]].match(/\\d+/g).map(Number)",
            *where,
        )
        for where in (("figure svg text", "fill"), ("html", "backgroundColor"))
    )
    assert (sum(ink[:3]) > sum(page[:3])) == dark
    assert abs(sum(ink[:3]) - sum(page[:3])) > 450  # of 765: text of plots stands out in both
    screenshot(browser, tmp_path / f"{name}.png")
    in_order(browser)


def test_costs_are_read_to_their_end_on_a_phone(open_page: Callable[..., Any]) -> None:
    browser = open_page(320, 640)
    table = browser.execute_script(
        "return [...document.querySelectorAll('table')].find((table) => table.caption.innerText == 'Costs')"
    )
    heads = [head.text.replace("\n", " ").rstrip(" ↕") for head in table.find_elements("css selector", "thead th")]
    assert (heads[0], heads[-1]) == ("Method", "n")
    assert {"fit", "peak memory MB", "fit GFLOPs", "test image MFLOPs"} <= set(heads)

    def ends() -> list[tuple[float, float]]:
        """Left and right of the first and of the last field of a row, on the screen."""
        return browser.execute_script(
            """const row = arguments[0].tBodies[0].rows[0];
            return [row.cells[0], row.lastElementChild].map((field) => field.getBoundingClientRect())
              .map((box) => [box.left, box.right])""",
            table,
        )

    (left, right), (last, _) = ends()
    assert left >= 0
    assert right <= 320 < last
    browser.execute_script("arguments[0].parentElement.scrollLeft = 10000", table)
    (left, right), (last, end) = ends()
    assert 0 <= left < right <= last < end <= 320  # the method's name stays beside the last number
    in_order(browser)


def test_it_prints_without_its_controls(open_page: Callable[..., Any], tmp_path: Path) -> None:
    browser = open_page(dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element("id", "paper").is_displayed()
    assert browser.find_element("tag name", "table").is_displayed()
    assert (
        browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert print_to(tmp_path / "printed.pdf", browser).startswith(b"%PDF")
    in_order(browser)


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (Debian's poppler-utils) is not here")
def test_in_print_heads_repeat_and_nothing_small_is_torn(open_page: Callable[..., Any], tmp_path: Path) -> None:
    browser = open_page()
    browser.execute_script(
        """const table = document.querySelectorAll('table')[0], rows = [...table.tBodies[0].rows];
        table.parentElement.classList.remove('few');
        for (let n = 0; n < 120; n++) {
          const row = rows[n % 3].cloneNode(true);
          row.cells[1].textContent = 'ROW' + n;
          table.tBodies[0].append(row);
        }
        document.querySelectorAll('figure').forEach((figure, n) => {
          figure.prepend(`FIGURE${n}BEGINS`);
          figure.append(`FIGURE${n}ENDS`);
        });"""
    )
    print_to(tmp_path / "long.pdf", browser)
    command = ["pdftotext", "-layout", str(tmp_path / "long.pdf"), "-"]
    pages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\f")
    with_rows = [text for text in pages if "ROW" in text]
    assert len(with_rows) > 2
    for text in with_rows:
        assert text.index("ACC (%)") < text.index("ROW")
        assert "time (s)" in text
    for n in range(len(browser.find_elements("tag name", "figure"))):
        (here,) = [text for text in pages if f"FIGURE{n}BEGINS" in text]
        assert f"FIGURE{n}ENDS" in here
    for text in pages:  # the last table is small: its caption, head and rows stay together
        assert ("Weights" in text) == ("cells/own-" in text)


def print_to(path: Path, browser: Any) -> bytes:
    """The page as a printer gets it, in `path` too."""
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    path.write_bytes(base64.b64decode(printed["data"]))
    return path.read_bytes()
