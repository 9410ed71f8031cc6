"""A real Slurm on one machine, for tests: munged, slurmctld and slurmd on loopback, without systemd or slurmdbd.

    with LocalSlurm(folder) as slurm:
        subprocess.run(["sbatch", "job.sh"], env={**os.environ, **slurm.environment})

or, from a shell, ``python -m slurm.testing start DIR [NODES]`` and ``python -m slurm.testing stop DIR``. Tests of pytest
have the fixture ``local_slurm`` of ``slurm.testing.fixtures``.
"""

from pudnet_bench.slurm.testing.local import LocalSlurm, LocalSlurmError, not_installed

__all__ = ["LocalSlurm", "LocalSlurmError", "not_installed"]
