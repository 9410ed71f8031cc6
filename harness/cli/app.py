"""The command line. Heavy modules are imported inside the commands that need them, so that `list` is instant."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.cli import author, data, run, show
from pudnet_bench.harness.cli.options import with_home
from pudnet_bench.harness.console.ending import leave_despite_threads
from pudnet_bench.harness.console.failures import unusable
from pudnet_bench.harness.console.terminal import plain_where_needed, printable

INTERRUPTED = 130

# A shell completes a program by its name, and `python -m harness` has none of its own; pudnet-bench has.
completes = Path(sys.argv[0]).name != "__main__.py"
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=completes)
data_app = typer.Typer(help="List, download and verify image sources.", no_args_is_help=True)
new_app = typer.Typer(help="Start a method, suite or family of your own.", no_args_is_help=True)


def main() -> None:
    """Run the command line."""
    plain_where_needed(sys.stdout, sys.stderr)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    try:
        app()
    except SystemExit as ended:
        leave_despite_threads(ended.code if isinstance(ended.code, int) else bool(ended.code))
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pudnet-bench {version('pudnet-bench')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Compare predicting a ConvNet's parameters with training them."""


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, ending with one sentence and an exit code on errors that the user can fix; bugs keep tracebacks."""

    @wraps(command)
    def explaining(**arguments: object) -> None:
        try:
            command(**{name: with_home(value) for name, value in arguments.items()})
            sys.stdout.flush()  # a full disk behind it is noticed here, not after the end
        except KeyboardInterrupt:
            print("interrupted; finished groups are saved: repeat the command to resume", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except (BenchError, OSError) as error:
            sentence = unusable(error) if isinstance(error, OSError) else str(error)
            if not sentence:
                raise
            if arguments.get("debug"):
                traceback.print_exc()
            print(f"error: {printable(sentence)}", file=sys.stderr)
            _drop_output()
            raise typer.Exit(getattr(error, "exit_code", BenchError.exit_code)) from None

    return explaining


def _drop_output() -> None:
    """Discard what standard output still holds if it cannot be written, which Python would report at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


COMMANDS: tuple[tuple[typer.Typer, dict[str, Callable[..., None]]], ...] = (
    (app, {
        "list": show.list_everything, "run": run.run, "status": show.status, "resume": run.resume,
        "cancel": show.cancel, "collect": show.collect, "table": show.table, "compare": show.compare,
        "report": show.report, "check": author.check, "doctor": show.doctor,
    }),
    (data_app, {"list": data.list_sources, "fetch": data.fetch, "verify": data.verify}),
    (new_app, {"method": author.new_method, "suite": author.new_suite, "family": author.new_family}),
)  # fmt: skip
for group, commands in COMMANDS:
    for name, command in commands.items():
        group.command(name)(explained(command))
app.add_typer(data_app, name="data")
app.add_typer(new_app, name="new")
