"""`bench`: which subjects there are, the machine's limits, and how ratios are told."""

from __future__ import annotations

import importlib
import inspect
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from pudnet_bench.harness import bench
from pudnet_bench.harness.bench import findings, limits
from pudnet_bench.harness.bench.findings import Findings, Measured
from pudnet_bench.harness.bench.limits import Rate
from pudnet_bench.harness.bench.ratio import Ratio
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.provenance import circumstances

CPU = torch.device("cpu")
CommandLine = Callable[..., Result]
SHARED = {"ratio", "setting", "limits", "findings", "__init__"}


def test_every_module_of_the_room_is_a_subject_with_the_one_signature() -> None:
    modules = {path.stem for path in Path(bench.__file__).parent.glob("*.py")} - SHARED
    assert modules == {name.replace("-", "_") for name in bench.SUBJECTS}
    for name in modules:
        measure = importlib.import_module(f"pudnet_bench.harness.bench.{name}").measure
        assert list(inspect.signature(measure).parameters) == ["setting"], name
        assert measure.__annotations__ == {"setting": "Setting", "return": "list[Ratio]"}, name


def test_rounds_are_the_subjects_unless_asked_for(compute: Compute, tmp_path: Path) -> None:
    setting = Setting(compute, tmp_path)
    assert setting.turns(15) == 15
    assert (replace(setting, quick=True).turns(15), replace(setting, quick=True).turns(1)) == (3, 1)
    assert replace(setting, quick=True, rounds=9).turns(15) == 9


def test_digits_stand_in_for_images_that_are_not_there_and_it_is_said(compute: Compute, cache_dir: Path) -> None:
    setting = Setting(compute, cache_dir)
    assert setting.images("digits").family.name == "digits"
    assert setting.notes == []
    assert setting.images("cifar100").family.name == "digits"
    assert setting.notes == ["CIFAR100-set: 'cifar-100' was not found (--data), digits are in its place"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [limits.matmul_rate, limits.convolution_rate])
def test_operations_are_counted_as_torch_counts_them(
    rate: Callable[..., float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def one_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops())
        return 1.0

    monkeypatch.setattr(limits, "_fastest", one_second)
    assert rate(CPU, dtype) == pytest.approx(counted[0] / 1e9)
    assert counted[0] > 1e9


def test_limits_are_measured_on_the_device() -> None:
    rates = limits.limits(CPU, seconds=0.01)
    assert [rate.name for rate in rates] == [
        "matrix product, fp32", "matrix product, bf16", "convolution, fp32", "convolution, bf16", "copy within memory",
    ]  # fmt: skip
    assert [rate.unit for rate in rates] == 4 * ["GFLOP/s"] + ["GB/s"]
    assert all(0.1 < rate.value < 1e5 for rate in rates)


FASTER = Ratio("ours", "a *plain* script", 2.5, 0.004, 0.01, 7, 3.0, True)
SLOWER = Ratio("[bold]a fit[/bold]", "the bare passes", 1.2, 1.5, 1.25, 3, 1.3)
OPEN = Ratio("one", "another", 1.0, 0.5, 0.5, 3)


@pytest.fixture
def found(compute: Compute) -> Findings:
    subjects = [
        Measured("first", [FASTER, SLOWER, OPEN], ["digits in its place"], 12.0, 3_000_000),
        Measured("second", [], [], 0.5, 1_000_000, "ValueError: no such thing"),
    ]
    return Findings(circumstances("python -m harness bench", compute), [Rate("copy", 12.345, "GB/s")], subjects)


def test_goals_are_told_in_words() -> None:
    assert findings.sentence(FASTER) == (
        "ours: 2.5 times the speed of a *plain* script (4 ms against 10 ms, 7 rounds); goal at least 3: missed"
    )
    assert findings.sentence(SLOWER).endswith(
        "1.2 times the time of the bare passes (1.5 s against 1.25 s, 3 rounds); goal at most 1.3: met"
    )
    assert findings.sentence(OPEN) == "one: 1 times the time of another (500 ms against 500 ms, 3 rounds)"


def shown(found: Findings, **options: object) -> str:
    out = io.StringIO()
    findings.show(found, Console(file=out, force_terminal=True, width=160, **options))  # type: ignore[arg-type]
    return out.getvalue()


def test_on_a_terminal_a_table_and_elsewhere_plain_lines(
    found: Findings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown(found, color_system="standard")
    assert "\x1b[31mmissed" in coloured
    assert "first: [bold]a fit[/bold]" in coloured
    assert "second: failed: ValueError: no such thing" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(found, color_system="standard")
    findings.show(found, Console(file=io.StringIO()))
    plain = capsys.readouterr().out.splitlines()
    assert "copy: 12.35 GB/s" in plain or "copy: 12.34 GB/s" in plain
    assert plain[-5:] == [
        *(f"first: {findings.sentence(ratio)}" for ratio in (FASTER, SLOWER, OPEN)),
        "first: digits in its place",
        "second: failed: ValueError: no such thing",
    ]


def test_markdown_and_json_hold_everything(found: Findings) -> None:
    page = findings.as_markdown(found)
    assert r"| first | ours | a \*plain\* script | 2.5 x speed | at least 3 | missed | 4 ms | 10 ms | 7 |" in page
    assert "`python -m harness bench`" in page
    assert "| second | 500 ms | 1 MB | failed: ValueError: no such thing |" in page
    told = json.loads(json.dumps(findings.as_json(found)))
    assert [ratio["met"] for ratio in told["subjects"][0]["ratios"]] == [False, True, None]
    assert told["subjects"][1]["failure"] == "ValueError: no such thing"
    assert told["limits"] == [{"name": "copy", "value": 12.345, "unit": "GB/s"}]
    assert {"command", "git_commit", "versions", "device", "threads", "load", "started"} <= told.keys()


def test_the_command_keeps_what_it_measured(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("bench", "graphs", "--quick", "--device", "cpu", "--json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "out/bench.json").read_text())
    assert told["subjects"][0]["notes"] == ["CUDA graphs are a GPU's, and this device is a CPU: nothing was measured"]
    assert (tmp_path / "out/bench.md").read_text().startswith("# Speed, measured side by side\n")
    assert done.stderr.startswith("graphs: ")


def test_a_subject_that_fails_leaves_the_others(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setting: Setting) -> list[Ratio]:
        raise ValueError("no such thing")

    monkeypatch.setattr(importlib.import_module("pudnet_bench.harness.bench.prediction"), "measure", broken)
    done = command_line("bench", "prediction", "graphs", "--quick", "--device", "cpu")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-2:] == [
        "prediction: failed: ValueError: no such thing",
        "graphs: CUDA graphs are a GPU's, and this device is a CPU: nothing was measured",
    ]


def test_an_unknown_subject_is_refused(command_line: CommandLine) -> None:
    done = command_line("bench", "predicton")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: unknown subject 'predicton'; did you mean 'prediction'?\n"
