"""Submit functions without arguments as Slurm jobs through submitit, several of them as one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pudnet_bench.slurm.cluster import Cluster, Stage
from pudnet_bench.slurm.queue import SlurmError, checked


def submit(
    folder: Path, cluster: Cluster, stage: Stage, calls: Sequence[Callable[[], Any]], after: Sequence[str], name: str
) -> list[str]:
    """Submit `calls` as one array of jobs called `name`, with the parameters of the `cluster` for the `stage`.

    submitit writes its pickles and logs to `folder`, which is made readable by its owner only. The jobs with the ids `after`
    must succeed first; if one fails, Slurm cancels these. Returns the ids of the array's tasks, in the order of `calls`, and
    raises SlurmError if Slurm rejects the jobs.
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
        raise SlurmError(f"Slurm rejects the jobs of {cluster.path}: {error}") from error
