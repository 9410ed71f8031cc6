"""The base class of every error that a user can put right."""

from __future__ import annotations

from typing import ClassVar


class BenchError(Exception):
    """An error whose message is one sentence that names the thing and the way out.

    The command line prints the sentence without a traceback and ends with `exit_code`.
    """

    exit_code: ClassVar[int] = 2
