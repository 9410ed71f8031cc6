from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.energy import EnergyMeter
from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.running import cell as execution
from pudnet_bench.harness.running.cell import WARM_UPS, ReadyCell, RunContext, measure_group, run_cell
from pudnet_bench.harness.running.cell import test_accuracy as accuracy_on_test
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.harness.training.checkpoint import CheckpointFolder
from pudnet_bench.methods.base import Dataset
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import Invocation, PlanRecord, RunRecord
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.sources.loading import Source

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]

NOISY = """
bias = 3 * torch.randn(dataset.n_classes)
yield Snapshot(lambda images: classifier(images) + bias)
"""
RECORD = RunRecord(
    suite="figure1", profile="quick", device="here", precision="fp32", plan=PlanRecord(title=""),
    invocations=(Invocation(command="", started=""),),
)  # fmt: skip
NOT_MEASURED = ["seconds", "wall_seconds", "evaluation_seconds", "data_seconds", "peak_memory_bytes", "energy_joules"]


def rows(folder: Path) -> pd.DataFrame:
    return Run.open(folder).frame()


def count(fits: Path) -> int:
    return len(fits.read_text().splitlines())


def test_finished_cells_are_not_run_again(
    command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(NOISY), "--groups", "3", "--out", "out")
    assert command_line(*call).exit_code == 0
    assert count(fits) == WARM_UPS + 3
    first, table = rows(tmp_path / "out"), (tmp_path / "out/tables/table1.csv").read_bytes()
    assert first["group"].tolist() == [0, 1, 2]
    assert first["finished"].all()

    again = command_line(*call)
    assert again.exit_code == 0
    assert count(fits) == WARM_UPS + 3
    pd.testing.assert_frame_equal(rows(tmp_path / "out"), first)
    assert (tmp_path / "out/tables/table1.csv").read_bytes() == table
    assert len(Run.open(tmp_path / "out").record.invocations) == 2


def test_more_groups_go_on_and_fewer_change_nothing(
    command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(NOISY), "--out", "out", "--groups")
    assert command_line(*call, "3").exit_code == 0
    first = rows(tmp_path / "out")
    assert command_line(*call, "5").exit_code == 0
    more = rows(tmp_path / "out")
    assert count(fits) == 2 * WARM_UPS + 5
    assert more["group"].tolist() == [0, 1, 2, 3, 4]
    pd.testing.assert_frame_equal(more.head(3), first)  # their seconds too: they were not measured anew
    assert command_line(*call, "2").exit_code == 0
    assert count(fits) == 2 * WARM_UPS + 5
    pd.testing.assert_frame_equal(rows(tmp_path / "out"), more)


def test_a_failing_method_is_reported_and_keeps_its_groups_while_the_others_go_on(
    command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    broken = f"""
if fit_number == {WARM_UPS + 3} and not (FITS.parent / "repaired").exists():
    raise ValueError("the third group is odd")
yield Snapshot(classifier)
"""
    files = ("--method", method_file(broken, "broken"), "--method", method_file())
    call = ("run", "table1", "--methods", "broken,own", *files, "--groups", "4", "--out", "out")
    done = command_line(*call)
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: broken-digits-convnet3-c0-s0-")
    assert re.search(r": ValueError: the third group is odd \(broken\.py, line \d+\)$", failed)
    assert "1 of 2 cells failed" in done.stderr
    assert "Traceback" not in done.output
    found = rows(tmp_path / "out")
    assert found[found["method"] == "broken"]["group"].tolist() == [0, 1]
    assert found[found["method"] == "own"]["group"].tolist() == [0, 1, 2, 3]
    assert found.groupby("method")["finished"].all().to_dict() == {"broken": False, "own": True}
    assert count(fits) == (WARM_UPS + 3) + (WARM_UPS + 4)

    (tmp_path / "repaired").touch()
    done = command_line(*call)
    assert done.exit_code == 0
    assert "failed" not in done.stderr
    after = rows(tmp_path / "out")
    assert count(fits) == (WARM_UPS + 3) + (WARM_UPS + 4) + (WARM_UPS + 2)
    place = ["method", "group"]
    both = found.merge(after, on=place, suffixes=("", "_after"))
    assert len(both) == len(found) == 6
    assert (both["seconds"] == both["seconds_after"]).all()  # what was measured is still there, not measured anew
    assert after["group"].tolist() == [0, 1, 2, 3] * 2
    assert after["finished"].all()


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("yield Snapshot(lambda images: torch.zeros(len(images), 7))", "logits of shape (100, 7) for 100 images of 2 classes"),
        ("yield Snapshot(lambda images: classifier(images)[:-1])", "logits of shape (99, 2) for 100 images of 2 classes"),
        ("yield Snapshot(lambda images: classifier(images).argmax(1))", "logits of shape (100,)"),
        ("return\nyield", "method 'own' yielded no snapshot; fit must yield at least one"),
        ("yield classifier", "fit yields function; it must yield methods.base.Snapshot"),
        ("yield from ()\nraise RuntimeError('no luck')", "RuntimeError: no luck"),
    ],
    ids=["too many classes", "too few images", "labels", "nothing", "no snapshot", "raises"],
)  # fmt: skip
def test_a_method_that_breaks_the_contract_is_told_how(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path, body: str, cause: str
) -> None:
    reference = method_file(body)
    done = command_line("run", "table1", "--methods", "own", "--method", reference, "--groups", "2", "--out", "out")
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: own-")]
    assert cause in failed
    assert rows(tmp_path / "out").empty


HALF = f"fit_number >= {WARM_UPS + 3}"  # from the third group on
BAD_VALUES = {
    "one NaN": ("lambda x: classifier(x).index_fill(0, torch.tensor([57]), torch.nan)", "2 of 200 logits are not finite"),
    "infinite": ("lambda x: classifier(x).clone().index_put_((torch.tensor([3]), torch.tensor([1])), torch.tensor(-torch.inf))",
                 "1 of 200 logits are not finite"),
    "all equal": ("lambda x: x.flatten(1).sum(1, keepdim=True).expand(-1, 2)",
                  "each of 100 images has equal logits for all 2 classes; they must depend on the image"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_VALUES)
def test_logits_that_are_none_fail_the_cell_and_keep_the_groups_before(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path, fault: str
) -> None:
    classifier, said = BAD_VALUES[fault]
    bad = method_file(f"yield Snapshot(({classifier}) if {HALF} else classifier)", "bad")
    call = ("run", "table1", "--methods", "bad,own", "--method", bad, "--method", method_file())
    done = command_line(*call, "--groups", "4", "--out", "out")
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert f"MethodError: method 'bad', group 2: {said}" in failed
    found = rows(tmp_path / "out")
    assert found[found["method"] == "bad"]["group"].tolist() == [0, 1]
    assert found[found["method"] == "own"]["group"].tolist() == [0, 1, 2, 3]

    at_once = method_file(f"yield Snapshot({classifier})", "once")
    done = command_line("run", "table1", "--methods", "once", "--method", at_once, "--groups", "1", "--out", "once")
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert f"MethodError: method 'once', the group that warms up: {said}" in failed


def test_equal_logits_of_some_images_or_of_one_class_are_no_fault(digits_images: SplitImages) -> None:
    test = digits_images.unseen(0, 0).test
    undecided = torch.zeros(len(test), 2)
    undecided[-1, 1] = 1.0
    assert accuracy_on_test(lambda images: undecided, test) == ((test.labels == 0).sum() + test.labels[-1]) / len(test)
    only = Dataset(test.images, torch.zeros_like(test.labels), 1)
    assert accuracy_on_test(lambda images: torch.full((len(images), 1), 7.0), only) == 1


def test_two_snapshots_of_one_name_fail_the_cell(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    reference = method_file(
        "yield Snapshot(classifier)\nyield Snapshot(classifier, 'late')\nyield Snapshot(classifier)"
    )
    done = command_line("run", "table1", "--methods", "own", "--method", reference, "--groups", "2", "--out", "out")
    assert done.exit_code == 1
    assert "method 'own', group 0: 2 snapshots are named ''; give each a name of its own" in done.stderr
    assert rows(tmp_path / "out").empty


def test_a_method_that_ends_the_process_or_changes_torch_harms_no_other_cell(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    exits = method_file("import sys\nsys.exit('no licence')\nyield", "exits")
    changes = method_file(
        "torch.set_default_dtype(torch.float64)\ntorch.set_num_threads(3)\ntorch.set_grad_enabled(False)\n"
        "torch.set_float32_matmul_precision('medium')\nyield Snapshot(classifier)",
        "changes",
    )
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    call = ("run", "table1", "--methods", "exits,changes,own,adam", "--groups", "1", "--out", "out")
    done = command_line(*call, "--method", exits, "--method", changes, "--method", method_file())
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert "MethodError: method 'exits' ended with sys.exit('no licence') (exits.py, line " in failed
    assert failed.endswith("); raise an exception")
    assert set(rows(tmp_path / "out")["method"]) == {"changes", "own", "adam"}
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_failure_is_one_line_and_debug_adds_the_traceback(command_line: CommandLine, method_file: MethodFile) -> None:
    reference = method_file("def broken(images):\n    raise ValueError('my\\n\\nclassifier')\nyield Snapshot(broken)")
    call = ("run", "table1", "--methods", "own", "--method", reference, "--groups", "1", "--out", "out")
    done = command_line(*call)
    assert re.search(r"ValueError: my classifier \(own\.py, line \d+\)\n1 of 1 cells failed", strip_tables(done.stderr))
    assert "Traceback" not in done.output
    done = command_line(*call, "--debug")
    assert "Traceback (most recent call last)" in done.stderr
    assert "in broken" in done.stderr
    assert done.exit_code == 1


def strip_tables(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if "/tables: " not in line)


NO_GENERATOR = {
    "an iterator": "return iter([Snapshot(classifier)])",
    "a list": "return [Snapshot(classifier)]",
    "a tuple": "return (Snapshot(classifier), Snapshot(classifier, 'again'))",
    "a generator of another function": "return (Snapshot(classifier) for _ in range(1))",
    "an iterator of its own": """
class Own:
    def __iter__(self):
        time.sleep(0.05)  # here too
        return self
    given = 0
    def __next__(self):
        self.given += 1
        if self.given > 1:
            raise StopIteration
        return Snapshot(classifier)
return Own()
""",
}


@pytest.mark.parametrize("kind", NO_GENERATOR)
def test_a_fit_that_is_no_generator_is_timed_from_its_call(
    command_line: CommandLine, tmp_path: Path, method_file: MethodFile, kind: str
) -> None:
    reference = method_file(f"time.sleep(0.1)\n{NO_GENERATOR[kind].strip()}")
    call = ("run", "table1", "--methods", "own", "--method", reference, "--groups", "2", "--out", "out")
    assert command_line(*call).exit_code == 0
    assert rows(tmp_path / "out")["seconds"].ge(0.15 if "own" in kind else 0.1).all()
    checked = command_line("check", reference)
    assert checked.exit_code == 0
    milliseconds = re.search(r"speed: fit ([\d.]+) ms", checked.stdout)
    assert milliseconds is not None
    assert float(milliseconds[1]) >= 100


def test_a_decorated_generator_is_timed_from_its_call(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "decorated.py").write_text(
        "import functools, time\n"
        "from pudnet_bench.methods.base import Method, Snapshot\n"
        "def slowly(fit):\n"
        "    @functools.wraps(fit)\n"
        "    def slow(self, dataset):\n"
        "        time.sleep(0.1)\n"
        "        return fit(self, dataset)\n"
        "    return slow\n"
        "class Own(Method):\n"
        "    name = 'own'\n"
        "    @slowly\n"
        "    def fit(self, dataset):\n"
        "        time.sleep(0.05)\n"
        "        yield Snapshot(lambda images: images.flatten(1)[:, 27:27 + dataset.n_classes])\n"
    )
    call = ("run", "table1", "--methods", "own", "--method", "decorated.py:Own", "--groups", "2", "--out", "out")
    assert command_line(*call).exit_code == 0
    assert rows(tmp_path / "out")["seconds"].ge(0.15).all()


@pytest.mark.parametrize(
    ("body", "what"),
    [("return Snapshot(classifier)", "a Snapshot"), ("pass", "nothing"), ("return classifier", "a function")],
)
def test_a_fit_that_returns_no_snapshots_is_told_to_yield(
    command_line: CommandLine, method_file: MethodFile, body: str, what: str
) -> None:
    reference = method_file(body)
    said = f"fit returned {what}; it must yield each snapshot, as in `yield Snapshot(classifier)`"
    done = command_line("run", "table1", "--methods", "own", "--method", reference, "--groups", "1", "--out", "out")
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.endswith(said)
    checked = command_line("check", reference)
    assert checked.exit_code == 1
    assert said in checked.stdout
    assert "TypeError" not in checked.stdout


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("{'w': self.w, 'temperature': 10.0}", "state_dict holds float under 'temperature'; tensors only, under names"),
        ("{'w': self.w, 'tied': self.w[2:]}", "state_dict holds tensors that share memory, 'w' and 'tied'"),
    ],
)
def test_a_state_that_cannot_be_stored_is_refused_before_the_training(
    command_line: CommandLine, tmp_path: Path, state: str, said: str
) -> None:
    (tmp_path / "keeps.py").write_text(
        "import torch\n"
        "from pudnet_bench.methods.base import Method, Snapshot\n"
        "class Keeps(Method):\n"
        "    name, w = 'keeps', torch.ones(4)\n"
        "    def meta_train(self, groups, session):\n"
        "        raise KeyboardInterrupt\n"
        "    def state_dict(self):\n"
        f"        return {state}\n"
        "    def fit(self, dataset):\n"
        "        yield Snapshot(lambda images: images.flatten(1)[:, :2])\n"
    )
    call = ("run", "table1", "--methods", "keeps", "--method", "keeps.py:Keeps", "--groups", "1", "--out", "out")
    done = command_line(*call, "--cache", tmp_path / "cache")
    assert done.exit_code == 1, done.output
    assert f"MethodError: method 'keeps': {said}" in done.stderr


def test_a_diverging_meta_training_fails_its_cell_and_leaves_no_artifact(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "diverging.py").write_text(
        "from pudnet_bench.methods.base import Method, Snapshot\n"
        "class Diverging(Method):\n"
        "    name = 'diverging'\n"
        "    def meta_train(self, groups, session):\n"
        "        session.report(3, {'loss': float('nan')})\n"
        "    def fit(self, dataset):\n"
        "        yield Snapshot(lambda images: images.new_zeros(len(images), dataset.n_classes))\n"
    )
    call = ("run", "table1", "--methods", "diverging", "--method", "diverging.py:Diverging", "--out", "out")
    done = command_line(*call, "--groups", "2", "--cache", tmp_path / "cache")
    assert done.exit_code == 1
    assert "meta-training diverged: loss is nan after 3 groups" in done.stderr
    assert not (tmp_path / "cache/artifacts").exists()


def test_what_was_best_before_a_divergence_is_kept(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "diverging.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from pudnet_bench.methods.base import Snapshot\n"
        "from pudnet_bench.methods.protonet import ProtoNet\n"
        "class Diverging(ProtoNet):\n"
        "    name = 'diverging'\n"
        "    steps = 0\n"
        "    def features(self, images):\n"
        "        self.steps += self.modules.training\n"
        "        return super().features(images) * (float('nan') if self.steps > 35 else 1.0)\n"
    )
    call = ("run", "table1", "--methods", "diverging", "--method", "diverging.py:Diverging", "--out", "out")
    done = command_line(*call, "--groups", "2", "--cache", tmp_path / "cache")
    assert done.exit_code == 1
    said = re.search(r"loss is nan after 40 groups; the best state before, after 20 groups, is in (\S+)", done.stderr)
    assert said is not None
    path = Path(said[1])
    kept = CheckpointFolder(path.parent).load("search 1 best")
    assert kept is not None
    assert kept.numbers == {"groups": 20}
    assert kept.tensors
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())
    assert not (tmp_path / "cache/artifacts").exists()


def test_an_interrupt_keeps_whole_groups_and_the_resumed_run_is_the_uninterrupted_one(
    command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    interrupted = f"""
bias = 3 * torch.randn(dataset.n_classes)
yield Snapshot(lambda images: classifier(images) + bias, "early")
if fit_number == {WARM_UPS + 3} and not (FITS.parent / "whole").exists():
    raise KeyboardInterrupt
yield Snapshot(classifier, "late")
"""
    reference = method_file(interrupted)
    call = ("run", "table1", "--methods", "own", "--method", reference, "--groups", "5", "--seeds", "0,1", "--out")
    assert command_line(*call, "broken").exit_code == 130
    kept = rows(tmp_path / "broken")
    assert kept["group"].tolist() == [0, 0, 1, 1]  # not the half-measured third
    assert command_line("table", "broken").exit_code == 0

    (tmp_path / "whole").touch()
    before = count(fits)
    assert command_line(*call, "broken").exit_code == 0
    assert count(fits) - before == (WARM_UPS + 3) + (WARM_UPS + 5)
    resumed = rows(tmp_path / "broken")
    pd.testing.assert_frame_equal(resumed.head(4).drop(columns="finished"), kept.drop(columns="finished"))

    assert command_line(*call, "smooth").exit_code == 0
    smooth = rows(tmp_path / "smooth")
    pd.testing.assert_frame_equal(resumed.drop(columns=NOT_MEASURED), smooth.drop(columns=NOT_MEASURED))
    assert smooth["accuracy"].nunique() > 4  # noise that did not matter would prove nothing
    tables = [pd.read_csv(tmp_path / name / "tables/table1.csv") for name in ("broken", "smooth")]
    measured = ["seconds_mean", "seconds_median"]
    pd.testing.assert_frame_equal(tables[0].drop(columns=measured), tables[1].drop(columns=measured))


@pytest.mark.parametrize("method", ["own", "adam"])
def test_a_groups_accuracy_does_not_depend_on_what_ran_before(
    plan_of: Callable[..., Plan], method_file: MethodFile, digits_images: SplitImages, compute: Compute, method: str
) -> None:
    (cell,) = plan_of(methods=(method,), method_files=(method_file(NOISY),) if method == "own" else ()).cells
    if method == "adam":
        cell = replace(cell, options={"epochs": (1, 2)})

    def accuracies(order: list[int]) -> dict[int, list[float]]:
        torch.manual_seed(sum(order) * 17 + order[0])
        ready = ReadyCell(cell, cell.make_method(), None, digits_images, compute)
        found = {}
        for index in order:
            found[index] = [r["accuracy"] for r in measure_group(ready, index)[0]]
            torch.rand(index + 1)
        return found

    forwards = accuracies([0, 1, 2, 3])
    assert accuracies([3, 1, 2, 0]) == forwards
    assert accuracies([2]) == {2: forwards[2]}
    assert len({tuple(values) for values in forwards.values()}) > 1


def test_a_large_test_set_is_classified_in_parts_with_the_same_outcome(
    digits_images: SplitImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = digits_images.group("unseen", 0, 0)
    sizes: list[int] = []

    def classify(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return torch.stack((images.flatten(1).sum(1), torch.zeros(len(images))), 1)

    whole = accuracy_on_test(classify, group.test)
    monkeypatch.setattr(execution, "EVALUATION_PIXELS", 7 * 64)
    assert accuracy_on_test(classify, group.test) == whole
    assert sizes == [100, *[7] * 14, 2]


def test_trained_networks_are_kept_beside_the_rows(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    (cell,) = plan_of("figure1", groups=2).cells
    run = Run.create_or_open(tmp_path / "run", RECORD)
    compute = Compute(torch.device("cpu"), "here", "fp32")
    images = SplitImages(cell.family, cell.source, compute.device)
    with Display() as display:
        run_cell(
            cell, run, RunContext(lambda family, split: images, ArtifactStore(tmp_path / "cache"), compute, display)
        )
    kept = run.parameters(cell.key, [0, 1])
    assert kept["parameters"].shape == (2, 64 * 9 + 2 * 64 * 64 * 9 + 3 * 2 * 64)
    assert not np.allclose(*kept["parameters"])
    fit = images.group("unseen", cell.seed, 1).fit
    assert np.allclose(kept["mean_image"][1], fit.images.mean(0).flatten().numpy())


def test_a_row_says_what_was_measured(
    command_line: CommandLine, method_file: MethodFile, compute: Compute, tmp_path: Path
) -> None:
    slow = """
def evaluate(images):
    time.sleep(0.1)
    return classifier(images)
yield Snapshot(evaluate, "1 epochs", 1)
time.sleep(0.3)
yield Snapshot(evaluate, "2 epochs", 2)
"""
    reference = method_file(slow)
    call = ("run", "table1", "--methods", "own", "--method", reference, "--groups", "2", "--out", "out")
    assert command_line(*call).exit_code == 0
    found = rows(tmp_path / "out")
    assert found["snapshot"].tolist() == ["1 epochs", "2 epochs"] * 2
    assert found["epochs"].tolist() == [1, 2, 1, 2]
    assert found["evaluation_seconds"].between(0.1, 0.3).all()  # without the fit before it
    early, late = found["seconds"][::2].to_numpy(), found["seconds"][1::2].to_numpy()
    assert (early < 0.1).all()  # evaluation is not counted
    assert (late >= early + 0.3).all()  # fitting is, from the start of the fit
    assert (late < 0.4).all()
    assert (found["data_seconds"] > 0).all()
    assert found["peak_memory_bytes"].between(0, 20e6).all()  # no torch, no images
    assert set(zip(found["n_fit"], found["n_test"], found["n_classes"], strict=True)) == {(100, 100, 2)}
    assert set(found["device"]) == {compute.name}
    assert set(found["artifact"]) == {""}
    assert found["meta_train_seconds"].isna().all()
    assert found["accuracy"].between(0.5, 1).all()
    assert set(found["parameters"]) == {0}
    assert set(found["fit_flops"]) == set(found["test_flops"]) == {0}  # torch has no formula for distances


def test_what_meta_training_learned_reaches_the_measured_method_and_is_shared_by_runs(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "lazy.py").write_text(
        f"""
from pathlib import Path
import torch
from pudnet_bench.methods.base import Method, Snapshot

class Lazy(Method):
    '''Right only if it was meta-trained: its state switches the classifier on.'''
    name = "lazy"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        self.on = torch.zeros(1)

    def meta_train(self, groups, session):
        with Path({str(tmp_path / "trainings")!r}).open("a") as log:
            log.write("training\\n")
        self.on = torch.ones(1)

    def state_dict(self):
        return {{"on": self.on}}

    def load_state_dict(self, state):
        self.on = state["on"]

    def fit(self, dataset):
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        yield Snapshot(lambda images: -self.on * torch.cdist(images.flatten(1), means))
"""
    )
    call = ("run", "table1", "--methods", "lazy", "--method", "lazy.py:Lazy", "--groups", "3", "--out")
    for out in ("one", "two"):
        assert command_line(*call, out, "--cache", tmp_path / "cache").exit_code == 0
    assert len((tmp_path / "trainings").read_text().splitlines()) == 2  # search and final, once
    found = rows(tmp_path / "one")
    assert found["accuracy"].mean() > 0.8
    (key,) = set(found["artifact"])
    assert (tmp_path / "cache/artifacts" / key / "weights.safetensors").is_file()
    assert (found["meta_train_seconds"] > 0).all()
    assert set(rows(tmp_path / "two")["artifact"]) == {key}


def test_a_damaged_cell_is_measured_again(
    plan_of: Callable[..., Plan], method_file: MethodFile, fits: Path, digits: Source, digits_images: SplitImages,
    compute: Compute, tmp_path: Path,
) -> None:  # fmt: skip
    (cell,) = plan_of(methods=("own",), method_files=(method_file(NOISY),), groups=3).cells
    run = Run.create_or_open(tmp_path / "run", RECORD)
    store = ArtifactStore(tmp_path / "cache")
    with Display() as display:
        run_cell(cell, run, RunContext(lambda family, split: digits_images, store, compute, display))
        before = run.frame()
        path = run.folder / "cells" / f"{cell.key}.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.warns(UserWarning, match="is damaged"):
            run_cell(cell, run, RunContext(lambda family, split: digits_images, store, compute, display))
    pd.testing.assert_series_equal(run.frame()["accuracy"], before["accuracy"])
    assert count(fits) == 2 * (WARM_UPS + 3)


def test_a_row_says_what_it_cost(command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for file, content in (("name", "package-0"), ("energy_uj", "1000"), ("max_energy_range_uj", "999999999")):
        (zone / file).write_text(content)
    (tmp_path / "learner.py").write_text(
        f"""
from pathlib import Path
import torch
from pudnet_bench.methods.base import Method, Snapshot

COUNTER = Path({str(zone / "energy_uj")!r})

class Learner(Method):
    '''Has learned 6 numbers, of which one is a count; each fit uses two joules and later three more.'''
    name = "learner"

    def meta_train(self, groups, session):
        pass

    def state_dict(self):
        return {{"weights": torch.zeros(5), "batches": torch.zeros((), dtype=torch.int64)}}

    def load_state_dict(self, state):
        pass

    def use(self, joules):
        COUNTER.write_text(str(int(COUNTER.read_text()) + 1_000_000 * joules))

    def fit(self, dataset):
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])

        def classify(images):
            self.use(100)
            return images.flatten(1) @ means.T

        self.use(2)
        yield Snapshot(classify, "first")
        pixels @ means.T
        self.use(3)
        yield Snapshot(classify, "second")
"""
    )
    monkeypatch.setattr(execution, "EnergyMeter", partial(EnergyMeter, powercap=zone.parent))
    call = (
        "run",
        "table1",
        "--methods",
        "learner",
        "--method",
        "learner.py:Learner",
        "--out",
        "out",
        "--device",
        "cpu",
    )
    done = command_line(*call, "--groups", "2", "--cache", tmp_path / "cache")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out")
    assert found["snapshot"].tolist() == ["first", "second"] * 2
    assert found["energy_joules"].tolist() == pytest.approx([2, 5] * 2)  # what classifying used is not the fit's
    products = 2 * 64 * 2  # two means of 64 pixels
    assert found["fit_flops"].tolist() == [0, 100 * products] * 2
    assert found["test_flops"].tolist() == [products] * 4
    assert found["parameters"].tolist() == [5] * 4
    costs = pd.read_csv(tmp_path / "out/tables/table1-costs.csv").set_index("snapshot")
    assert costs["energy_joules"].tolist() == pytest.approx([2, 5])
    assert costs.loc["second", ["parameters", "fit_flops", "test_flops"]].tolist() == [5, 100 * products, products]


def test_what_a_fine_tuned_method_learned_is_what_it_begins_with(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tuned.py").write_text(
        "from pudnet_bench.suites.declaration import Suite, Variant\n"
        "options = (('base', 'protonet'), ('epochs', (1,)))\n"
        "tuned = Variant('tuned', 'finetune', 'Tuned', (('1 epochs', ''),), options)\n"
        "SUITE = Suite('tuned', 'Tuned', ('convnet3',), ('digits',), (tuned, Variant('protonet', 'protonet', 'Net')))\n"
    )
    done = command_line("run", "tuned.py", "--groups", "1", "--training-groups", "2", "--out", "out")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out").set_index("method")
    assert found["parameters"].nunique() == 1
    assert found.loc["tuned", "parameters"] == 64 * 9 + 2 * 64 * 64 * 9 + 3 * 4 * 64  # kernels; four numbers a channel
    assert found.loc["tuned", "fit_flops"] > found.loc["protonet", "fit_flops"] > 0


def test_a_method_that_cannot_be_counted_is_measured_all_the_same(
    command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    proud = """
if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
    raise RuntimeError("not while you look")
yield Snapshot(classifier)
"""
    call = ("run", "table1", "--methods", "own", "--method", method_file(proud), "--groups", "2", "--out", "out")
    done = command_line(*call)
    assert done.exit_code == 0, done.output
    assert "own · digits · convnet3: FLOPs are not counted (RuntimeError: not while you look)" in done.stderr
    assert count(fits) == 1 + WARM_UPS + 2
    found = rows(tmp_path / "out")
    assert found[["fit_flops", "test_flops"]].isna().all(axis=None)
    assert found["finished"].all()
