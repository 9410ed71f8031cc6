"""Cluster profiles: what is read, what is refused and how, and that submitit takes what comes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import submitit
from hypothesis import given
from hypothesis import strategies as st
from submitit.slurm.slurm import SlurmExecutor

from pudnet_bench.slurm import cluster
from pudnet_bench.slurm.cluster import ClusterError, load

from .conftest import FakeCommand

SHIPPED = sorted((Path(cluster.__file__).parent / "clusters").glob("*.toml"))
TIME = "[slurm]\ntimeout_min = 60\n"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def refusal(profile: Path, text: str) -> str:
    """The sentence that refuses a profile."""
    profile.write_text(text)
    with pytest.raises(ClusterError) as caught:
        load(profile)
    message = str(caught.value)
    assert str(profile) in message
    assert "\n" not in message
    return message


def script(parameters: dict[str, Any], folder: Path, **executor: Any) -> str:
    """The sbatch script that submitit would write."""
    auto = submitit.AutoExecutor(folder, cluster="slurm", **executor)
    auto.update_parameters(**parameters)
    return auto._executor._make_submission_file_text("run-it", "0")  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_taken_by_submitit(path: Path, tmp_path: Path, fake_command: FakeCommand) -> None:
    fake_command("srun")
    profile = load(path)
    for stage in cluster.STAGES:
        parameters = profile.parameters(stage)
        text = script(parameters, tmp_path, **profile.executor)
        assert f"#SBATCH --partition={parameters['slurm_partition']}\n" in text
        assert f"#SBATCH --time={parameters['timeout_min']}\n" in text


def test_there_are_profiles_for_gpus_cpus_and_tests() -> None:
    assert [path.stem for path in SHIPPED] == ["cpu", "gpu", "local"]


def test_a_stage_overrides_what_is_common(profile: Path, tmp_path: Path, fake_command: FakeCommand) -> None:
    fake_command("srun")
    profile.write_text(
        """
        [slurm]
        partition = "gpu"
        account = "us"
        gpus_per_node = 2
        timeout_min = 60
        mem_gb = 16
        setup = ["module load cuda"]
        [training]
        time = 600
        mem_per_cpu = "4GB"
        [evaluation]
        partition = "cpu"
        gpus_per_node = 0
        account = ""
        exclusive = false
        [evaluation.additional_parameters]
        reservation = "night"
        requeue = true
        [executor]
        max_num_timeout = 9
        python = "env python"
        """
    )
    loaded = load(profile)
    training, evaluation = loaded.parameters("training"), loaded.parameters("evaluation")
    assert training == {
        "slurm_partition": "gpu",
        "slurm_account": "us",
        "gpus_per_node": 2,
        "timeout_min": 600,
        "slurm_mem_per_cpu": "4GB",
        "slurm_setup": ["module load cuda"],
    }
    assert "slurm_account" not in evaluation
    assert "slurm_exclusive" not in evaluation
    text = script(evaluation, tmp_path, **loaded.executor)
    lines = ["--partition=cpu", "--gpus-per-node=0", "--time=60", "--mem=16GB", "--reservation=night", "--requeue"]
    assert {f"#SBATCH {line}" for line in lines} <= set(text.splitlines())
    assert loaded.executor == {"slurm_max_num_timeout": 9, "slurm_python": "env python"}


def test_what_is_given_out_can_be_changed(profile: Path) -> None:
    profile.write_text(TIME + 'setup = ["a"]\n')
    loaded = load(profile)
    parameters = loaded.parameters("training")
    parameters["slurm_setup"].append("b")
    parameters["name"] = "train-1"
    assert loaded.parameters("training") == {"timeout_min": 60, "slurm_setup": ["a"]}


def test_every_parameter_of_submitit_is_known() -> None:
    known = cluster._submission_types()
    assert known.keys() == SlurmExecutor._valid_parameters() | submitit.AutoExecutor._typed_parameters().keys()
    assert {"partition", "time", "timeout_min", "mem_gb", "srun_args", "use_srun", "dependency"} <= known.keys()


@pytest.mark.parametrize("table", ["slurm", "training", "evaluation"])
def test_an_unknown_key_is_named_with_the_nearest(profile: Path, table: str) -> None:
    message = refusal(profile, f'[{table}]\npartiton = "gpu"\n')
    assert f"[{table}] has no parameter partiton (did you mean partition?)" in message
    for name in SlurmExecutor._valid_parameters():
        assert re.search(rf"\b{name}\b", message), name
    assert "did you mean" not in refusal(profile, f"[{table}]\nzzzzzzz = 1\n")


def test_keys_of_the_executor_are_its_own(profile: Path) -> None:
    assert "known are max_num_timeout, max_pickle_size_gb, python" in refusal(
        profile, f"{TIME}[executor]\nmem_gb = 1\n"
    )


def test_an_unknown_table_is_named(profile: Path) -> None:
    assert "there is no table [trainning] (did you mean [training]?)" in refusal(profile, TIME + "[trainning]\n")
    assert "'slurm' is a table, [slurm], not 3" in refusal(profile, "slurm = 3\n")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("time = -5", "[slurm] time = -5: it is more than 0"),
        ("timeout_min = 0", "it is more than 0"),
        (
            'timeout_min = "1:00:00:00"',
            '[slurm] timeout_min = "1:00:00:00": it is minutes, such as 1440, or a time of sbatch',
        ),
        ('time = "UNLIMITED"', 'such as "24:00:00" or "1-00:00:00"'),
        ('time = "0:00"', "it is more than 0"),
        ("time = 1.5", "it is minutes, such as 1440"),
        ("time = true", "it is minutes, such as 1440"),
        ('time = "-5"', "it is minutes, such as 1440"),
        (
            'gpus-per-node = "a100"',
            '[slurm] gpus-per-node = "a100": it is a number of GPUs, such as 1, or a type and a number',
        ),
        ('gpus_per_node = "1:a100"', 'such as "a100:1"'),
        ("mem = 16", 'it is a string, such as mem = "16GB"'),
        ('cpus-per-task = "4"', "it is a whole number, such as cpus_per_task = 4"),
        ("nodes = 1.5", "it is a whole number"),
        ("nodes = true", "[slurm] nodes = true: it is a whole number"),
        ("gpus_per_node = -1", "it is 0 or more"),
        ("mem_gb = -1.5", "it is more than 0"),
        ("mem_gb = inf", "it is a number"),
        ('mem = "lots"', "it is a number and a unit"),
        ("partition = 3", "it is a string"),
        ('comment = "two\\nlines"', "it is one line of text"),
        ('setup = "module load cuda"', "it is a list of strings"),
        ("setup = [1]", "it is a list of strings"),
        ("srun_args = [[]]", "it is a list of strings"),
        ("stderr_to_stdout = 1", "it is true or false"),
        ("exclusive = 1", "it is true or false"),
        ("additional_parameters = 3", "it is a table"),
        ("additional_parameters = {requeue = false}", "requeue is a string, a number, or true"),
        ('additional_parameters = {"a b" = 1}', "'a b' is not an option of sbatch"),
        ('additional_parameters = {a = "b\\nc"}', "a is one line of text"),
        ("partition = ", "not a TOML file"),
    ],
)
def test_a_wrong_value_is_refused(profile: Path, line: str, why: str) -> None:
    assert why in refusal(profile, f"[slurm]\n{line}\n")


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90), ('"90"', 90), ('"90:30"', 91), ('"24:00:00"', 1440), ('"0:00:01"', 1), ('"1-0"', 1440), ('"1-12"', 2160),
        ('"1-12:30"', 2190), ('"2-00:00:00"', 2880), ('"7-23:59:59"', 11520), ("12:00:00", 720), ('"72:00:00"', 4320),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["time", "timeout_min", "timeout-min"])
def test_times_are_those_of_sbatch(profile: Path, name: str, time: str, minutes: int) -> None:
    profile.write_text(f"[slurm]\n{name} = {time}\n")
    assert load(profile).parameters("evaluation") == {"timeout_min": minutes}


@pytest.mark.parametrize(
    ("line", "written", "gpus"),
    [
        ('gpus-per-node = "a100:1"', "--gpus-per-node=a100:1", True),
        ('gpus_per_node = "a100:1,v100:2"', "--gpus-per-node=a100:1,v100:2", True),
        ('gpus-per-node = "gpu:h100_80gb.1g:2"', "--gpus-per-node=h100_80gb.1g:2", True),
        ('gpus_per_node = "2"', "--gpus-per-node=2", True),
        ('gpus-per-task = "a100:1"', "--gpus-per-task=a100:1", True),
        ('gres = "gpu:a100:1"', "--gres=gpu:a100:1", True),
        ('gres = "tmpdisk:100"', "--gres=tmpdisk:100", False),
        ("gpus-per-node = 0", "--gpus-per-node=0", False),
        ('additional_parameters = {gpus = "a100:1"}', "--gpus=a100:1", True),
    ],
)
def test_gpus_may_have_a_type(
    profile: Path, tmp_path: Path, fake_command: FakeCommand, line: str, written: str, gpus: bool
) -> None:
    fake_command("srun")
    profile.write_text(TIME + line + "\n")
    loaded = load(profile)
    assert f"#SBATCH {written}\n" in script(loaded.parameters("training"), tmp_path)
    assert loaded.has_gpus("evaluation") is gpus


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_of_a_windows_editor(profile: Path, newline: str) -> None:
    profile.write_text("\ufeff[slurm]\ntime = 5\n", encoding="utf-8", newline=newline)
    assert profile.read_bytes().startswith(b"\xef\xbb\xbf[slurm]")
    assert load(profile).parameters("training") == {"timeout_min": 5}
    profile.write_text("[slurm]\ntime = 5\n", encoding="utf-16")
    with pytest.raises(ClusterError, match="save it as UTF-8"):
        load(profile)


def test_an_option_that_submitit_lacks_is_pointed_to_its_place(profile: Path) -> None:
    assert "[slurm.additional_parameters] takes other options" in refusal(profile, '[slurm]\nlicenses = "a"\n')


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("time = 5", "timeout_min = 5"),
        ("time = 5", "timeout-min = 5"),
        ("mem_gb = 1", 'mem = "1GB"'),
        ("mem_gb = 1", 'mem_per_cpu = "1GB"'),
    ],
)
def test_two_names_of_one_thing_are_refused(profile: Path, first: str, second: str) -> None:
    names = [line.split()[0] for line in (first, second)]
    assert f"has both {names[0]} and {names[1]}".replace("-", "_") in refusal(profile, f"[slurm]\n{first}\n{second}\n")


def test_the_time_must_be_said(profile: Path) -> None:
    assert "give timeout_min for evaluation" in refusal(profile, "[training]\ntimeout_min = 5\n")
    assert "give timeout_min for training" in refusal(profile, f'{TIME}[training]\ntime = ""\n')


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")


def test_a_stage_that_is_none(profile: Path) -> None:
    profile.write_text(TIME)
    with pytest.raises(ClusterError, match="training or evaluation"):
        load(profile).parameters("testing")  # type: ignore[arg-type]


@given(
    value=st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.lists(st.text(max_size=3))), data=st.data()
)
def test_any_value_is_taken_or_refused_with_a_reason(value: Any, data: st.DataObject) -> None:
    known = cluster._submission_types()
    key = data.draw(st.sampled_from(sorted(known)))
    reason = cluster._wrong(key, value, known[key])
    assert isinstance(reason, str)
    if not reason and isinstance(value, int | float) and not isinstance(value, bool):
        assert value >= 0
    if not reason and isinstance(value, str):
        assert "\n" not in value
