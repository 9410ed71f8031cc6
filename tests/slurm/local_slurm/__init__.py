"""A real Slurm on one machine, for tests: munged, slurmctld and slurmd on loopback, without systemd or slurmdbd.

    with LocalSlurm(folder) as slurm:
        subprocess.run(["sbatch", "job.sh"], env={**os.environ, **slurm.environment})

In a checkout, `python -m tests.slurm.local_slurm start DIR [NODES]` and `python -m tests.slurm.local_slurm stop DIR` do the
same from a shell. Tests use the fixture `local_slurm` (in `fixtures`).
"""

from pudnet_bench.slurm.queue import JobState
from tests.slurm.local_slurm.local import LocalSlurm, LocalSlurmError, not_installed

__all__ = ["LocalSlurm", "LocalSlurmError", "is_requeued", "not_installed"]


def is_requeued(job: JobState) -> bool:
    """Whether a job has run, was interrupted, and waits to be started again."""
    return job.restarts > 0 and job.state in {"PENDING", "REQUEUED", "REQUEUE_HOLD"}
