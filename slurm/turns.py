"""One limit for the jobs of several arrays: an array waits for earlier ones that it may not run beside."""

from __future__ import annotations

from collections.abc import Iterable


class Turns:
    """The arrays of one kind of job, of which at most `limit` jobs run at once; None: no limit beyond each array's own.

    Slurm knows a limit for each array alone. So an array waits until enough earlier arrays have ended for the rest of them
    to stay within the limit beside it.
    """

    def __init__(self, limit: int | None, live: Iterable[str] = ()) -> None:
        """`live` are ids of jobs or tasks of this kind that have not ended."""
        self.limit = limit
        self._beside: dict[str, int] = {}  # arrays that may run beside the next, oldest first, and their jobs at once
        self._ended: list[str] = []  # arrays that end before the next begins
        self._implied = set[str]()  # of these, those that another of them waits for
        self._waits: dict[str, list[str]] = {}
        for job_id in live:
            array = job_id.partition("_")[0]
            self._beside[array] = self._at_once(self._beside.get(array, 0) + 1)

    def waits_for(self, jobs: int) -> list[str]:
        """Return the ids of the arrays that must have ended before the next one, of so many `jobs`, begins."""
        if self.limit is None:
            return []
        while self._beside and sum(self._beside.values()) + self._at_once(jobs) > self.limit:
            oldest = next(iter(self._beside))
            del self._beside[oldest]
            self._implied.update(self._waits.get(oldest, ()))
            self._ended.append(oldest)
        return [array for array in self._ended if array not in self._implied]

    def add(self, job_id: str, jobs: int) -> None:
        """Note that the array of `job_id`, of so many `jobs`, is submitted and waits for what `waits_for` returned."""
        array = job_id.partition("_")[0]
        self._waits[array] = list(self._ended)
        self._beside[array] = self._at_once(jobs)

    def _at_once(self, jobs: int) -> int:
        return jobs if self.limit is None else min(jobs, self.limit)
