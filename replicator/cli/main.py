"""The command ``replicator``: puts the commands together and turns every mistake into one clear line.

Exit status: 0 done, 1 it could not be done, 2 used in a wrong way, 130 interrupted. Commands raise
`ReplicatorError`; nothing else is caught, so a traceback always means a bug of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from replicator.cli.output import complain, guarded
from replicator.errors import ReplicatorError, SettingsError

if TYPE_CHECKING:
    import typer

COMMANDS = ("node", "status", "streams", "export", "config", "keygen", "handover", "abandon", "demo")
INTERRUPTED = 130
_LACKING = "replicator: the command needs typer and rich: pip install 'replicator[cli]'"


def application(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The application with these commands; only their modules are loaded."""
    from importlib import import_module

    import typer

    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(replicator)
    for name in commands:
        module = import_module(f"replicator.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def replicator() -> None:
    """Checkpoints of edge stream engines, committed by a majority of disks.

    Settings are read from REPLICATOR_* variables; `replicator config` lists them. `replicator --version`
    tells which one this is.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (the process's own by default) and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return guarded("replicator", lambda: _tell(words))


def _tell(words: list[str]) -> int:
    try:
        return _run(words)
    except SettingsError as error:
        return complain("\n".join(f"replicator: {problem}" for problem in error.problems), 2)
    except ReplicatorError as error:
        return complain(f"replicator: {error}", 1)
    except KeyboardInterrupt:
        return complain("replicator: interrupted", INTERRUPTED)
    except Exception as error:
        # A usage error. Its class lives in click or in typer's own copy of it, whichever is installed.
        if not hasattr(error, "format_message"):
            raise
        helpful = f"replicator {words[0]} --help" if words[0] in COMMANDS else "replicator --help"
        return complain(f"replicator: {error.format_message()} (see {helpful})", 2)


def _run(words: list[str]) -> int:
    try:
        import rich  # noqa: F401
        import typer
    except ImportError:
        return complain(_LACKING, 1)
    for word in words:
        if any("\udc80" <= each <= "\udcff" for each in word):
            return complain(f"replicator: {word!r} is not UTF-8", 2)
    if words == ["--version"]:
        print(f"replicator {version('replicator')}")
        return 0
    command = typer.main.get_command(application(words[:1] if words[0] in COMMANDS else COMMANDS))
    try:
        status = command.main(args=words, prog_name="replicator", standalone_mode=False)
    except typer.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # an older typer's word for it
            raise KeyboardInterrupt from error
        return complain("replicator: not confirmed, nothing was done", 1)
    sys.stdout.flush()
    if status == INTERRUPTED:  # by typer, which has made a status of the KeyboardInterrupt
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0
