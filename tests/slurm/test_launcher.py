"""What is said of a submission that Slurm rejects: its reason and the way out, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudnet_bench.slurm.cluster import load
from pudnet_bench.slurm.launcher import Dependencies, submit
from pudnet_bench.slurm.queue import SlurmError, largest_array

from .conftest import FakeCommand

POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("lines", "reason", "way_out"),
    [
        (("AssocMaxSubmitJobLimit", POLICY), f"AssocMaxSubmitJobLimit; {POLICY}", "`resume` submits the rest"),
        (("QOSMaxSubmitJobPerUserLimit", POLICY), "QOSMaxSubmitJobPerUserLimit", "a larger --shard"),
        (("QOSMaxWallDurationPerJobLimit", POLICY), "QOSMaxWallDurationPerJobLimit", "change the profile"),
        (("Invalid job array specification",), "Invalid job array specification", "a larger --shard"),
        (
            ("invalid partition specified: gpu", "Invalid partition name specified"),
            "partition: gpu",
            "change the profile",
        ),
    ],
)
def test_a_rejection_is_one_sentence(
    lines: tuple[str, ...],
    reason: str,
    way_out: str,
    fake_command: FakeCommand,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    *said, failed = lines
    words = [*said, f"Batch job submission failed: {failed}"]
    fake_command("srun")
    fake_command("sbatch", "".join(f'echo "sbatch: error: {each}" >&2\n' for each in words) + "exit 1")
    (tmp_path / "mine.toml").write_text("[slurm]\ntime = 5\n")
    with pytest.raises(SlurmError) as caught:
        submit(tmp_path / "jobs", load(tmp_path / "mine.toml"), "evaluation", [print, print], Dependencies(), "name")
    message = str(caught.value)
    assert message.startswith(f"Slurm rejects the jobs of {tmp_path}/mine.toml: ")
    assert reason.split(": ")[-1] in message
    assert way_out in message
    assert "\n" not in message
    assert capfd.readouterr().err == ""  # the sentence is all


@pytest.mark.parametrize(
    ("shown", "size"),
    [("MaxArraySize            = 6", 6), ("MaxArraySize            = 0", 1), ("", 1001),
     ("MaxArraySize = 1001\nSchedulerParameters = bf_interval=1,max_array_tasks=20,x", 20)],
)  # fmt: skip
def test_the_largest_array_is_what_the_cluster_says(shown: str, size: int, fake_command: FakeCommand) -> None:
    fake_command("scontrol", f"cat <<END\nConfiguration data\n{shown}\nMaxJobCount = 10000\nEND")
    assert largest_array() == size


def test_dependencies_are_those_of_sbatch() -> None:
    assert str(Dependencies()) == ""
    assert str(Dependencies(["3_1", "4"], ["5"])) == "afterok:3_1:4,afterany:5"
    with pytest.raises(SlurmError, match="not the id of a Slurm job"):
        str(Dependencies(["3; rm"]))
