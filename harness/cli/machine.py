"""The command about this machine: `doctor`."""

from __future__ import annotations

from pudnet_bench.harness.cli import options
from pudnet_bench.results.store.folders import cache_folder


def doctor(
    data: options.Data = None, cache: options.Cache = None, as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Examine this machine: device, memory, disk, Slurm, speed."""
    from pudnet_bench.harness.cli.doctor import examine
    from pudnet_bench.harness.console.terminal import dimmed, print_table

    findings = examine(data, cache_folder(cache))
    if as_json:
        options.print_json({f.name: {"found": f.found, "implies": f.implies, **f.values} for f in findings})
        return
    lines = [((f.name, f.found), ("", dimmed(f.implies))) for f in findings]
    print_table([row for pair in lines for row in pair if any(row)])
