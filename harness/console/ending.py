"""End a process that a method's threads would keep alive."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress


def abandoned_threads() -> list[threading.Thread]:
    """Threads that Python waits for before it ends: those that are no daemons."""
    main = threading.main_thread()
    return [thread for thread in threading.enumerate() if thread is not main and not thread.daemon]


def leave_despite_threads(code: int) -> None:
    """End the process at once if there are such threads; return otherwise."""
    if not abandoned_threads():
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
