"""What a person gets of a run: tables and figures in its folder, and the table on the screen. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from pudnet_bench.results.rendering import rendered
from pudnet_bench.results.rendering.rendered import Images, Rendered, Request
from pudnet_bench.results.rendering.run_figures import write_figures
from pudnet_bench.results.rendering.run_tables import write_tables
from pudnet_bench.results.store.run import Run


def show(run: Run, with_paper: bool, request: Request | None = None, images: Sequence[Images] = ()) -> None:
    """Write tables and figures of what is measured, and print the table.

    ``request`` is what the run answers, in full where it has a digest, planned with ``images``; with None nobody will know
    later what the tables were made from.
    """
    read = rendered.read_digest(run.folder)
    notes: list[str] = []
    written = {**write_tables(run, with_paper), **write_figures(run, with_paper, notes.append)}
    files = {name: sha256(content).hexdigest() for name, content in written.items()}
    program, digest = (request.program, request.digest) if request else ("", "")
    made = Rendered(run.manifest["suite"], with_paper, tuple(notes), files, program, read, digest, tuple(images))
    # Where another process measured meanwhile, or the code was changed, it is not known what was rendered from what.
    if request and read == rendered.read_digest(run.folder) and program == rendered.program_digest():
        rendered.keep(run.folder, made)
    made.tell(run.folder)
