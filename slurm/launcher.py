"""Submit functions without arguments as Slurm jobs through submitit, several of them as one array."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pudnet_bench.slurm.cluster import Cluster, Stage
from pudnet_bench.slurm.queue import SlurmError, checked

CHANGE_PROFILE = "change the profile and repeat the `run` command"
# Where Slurm is, and what a user sets for all jobs: nothing that Slurm sets for a job.
KEPT = (
    "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT",
    "SBATCH_ACCOUNT", "SBATCH_CONSTRAINT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION",
)  # fmt: skip
WAYS_OUT = (
    (r"Max(Wall|Cpu|TRES|Node|Mem|GRES)", CHANGE_PROFILE),
    (
        r"submit limit|MaxSubmit|MaxJobs|temporarily unable|too many|Resource temporarily",
        "`resume` submits the rest once some jobs have ended; a new run with a larger --shard has fewer jobs",
    ),
    (r"dependency", "`resume` submits them once Slurm has forgotten the jobs that they wait for"),
    (r"array", "a new run with a larger --shard has fewer jobs per array"),
)


@dataclass(frozen=True)
class Dependencies:
    """Ids of the jobs that others wait for: those that must succeed, or else Slurm cancels these, and those that must end.

    `each` is an array of which the task of the same number must succeed.
    """

    succeed: Sequence[str] = ()
    end: Sequence[str] = ()
    each: str = ""

    def __str__(self) -> str:
        """The value of sbatch's `--dependency`; "" for none. Raises SlurmError for what is no job id."""
        kinds = {"afterok": self.succeed, "aftercorr": [self.each] if self.each else [], "afterany": self.end}
        return ",".join(":".join([kind, *map(checked, ids)]) for kind, ids in kinds.items() if ids)


def submit(
    folder: Path, cluster: Cluster, stage: Stage, calls: Sequence[Callable[[], Any]], after: Dependencies, name: str
) -> list[str]:
    """Submit `calls` as one array of jobs called `name`, with the parameters of the `cluster` for the `stage`.

    submitit writes its pickles and logs to `folder`, which is made readable by its owner only. Returns the ids of the array's
    tasks, in the order of `calls`, and raises SlurmError if Slurm rejects the jobs.
    """
    import submitit

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    parameters = cluster.parameters(stage)
    if dependency := str(after):
        parameters["slurm_dependency"] = dependency
        more = parameters.get("slurm_additional_parameters", {})
        parameters["slurm_additional_parameters"] = {**more, "kill-on-invalid-dep": "yes"}
    said = io.StringIO()  # submitit repeats what sbatch says there before it raises it
    try:
        with outside_job(), redirect_stderr(said):
            executor = submitit.AutoExecutor(folder, cluster="slurm", **cluster.executor)
            executor.update_parameters(name=name, **parameters)
            if len(calls) == 1:
                job_ids = [executor.submit(calls[0]).job_id]
            else:
                with executor.batch():
                    jobs = [executor.submit(call) for call in calls]
                job_ids = [job.job_id for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, RuntimeError) as error:
        raise _rejection(cluster, str(error)) from error
    print(said.getvalue(), end="", file=sys.stderr)
    return job_ids


@contextmanager
def outside_job() -> Iterator[None]:
    """Hide from the block, and so from jobs that it submits, what Slurm tells the job that this process may be part of.

    A job inherits its submitter's variables, and Slurm refuses some pairs of the two jobs' own.
    """
    from submitit.helpers import clean_env

    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    with clean_env():
        os.environ.update(kept)
        yield


def _rejection(cluster: Cluster, said: str) -> SlurmError:
    """One sentence about a submission that failed with the text `said`, with the way out."""
    lines = [re.sub(r"^sbatch: (fatal: |error: )?", "", line).strip() for line in said.splitlines()]
    reasons = [line.removeprefix("Batch job submission failed: ") for line in lines if line]
    reason = "; ".join(dict.fromkeys(reasons)) or "no reason given"
    way_out = next((way for kind, way in WAYS_OUT if re.search(kind, reason, re.IGNORECASE)), CHANGE_PROFILE)
    return SlurmError(f"Slurm rejects the jobs of {cluster.path}: {reason}; {way_out}")
