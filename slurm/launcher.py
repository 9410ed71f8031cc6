"""Submission through submitit: functions of no arguments become Slurm jobs, several at once an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pudnet_bench.slurm.cluster import Cluster, Stage
from pudnet_bench.slurm.queue import SlurmError, checked


def submit(
    folder: Path, cluster: Cluster, stage: Stage, calls: Sequence[Callable[[], Any]], after: Sequence[str], name: str
) -> list[str]:
    """Submit ``calls`` as one array and return the ids of its tasks, in their order.

    They begin when the jobs ``after`` have ended well, and are cancelled by Slurm when one of those has not. ``folder`` gets
    submitit's pickles and logs and is readable by its owner only. Raises SlurmError where Slurm does not take them.
    """
    import submitit

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    parameters = cluster.parameters(stage)
    if after:
        parameters["slurm_dependency"] = "afterok:" + ":".join(checked(job_id) for job_id in after)
        more = parameters.get("slurm_additional_parameters", {})
        parameters["slurm_additional_parameters"] = {**more, "kill-on-invalid-dep": "yes"}
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", **cluster.executor)
        executor.update_parameters(name=name, **parameters)
        if len(calls) == 1:
            return [executor.submit(calls[0]).job_id]
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
        return [job.job_id for job in jobs]
    except (submitit.core.utils.FailedJobError, RuntimeError) as error:
        raise SlurmError(f"Slurm does not take the jobs of {cluster.path}: {error}") from error
