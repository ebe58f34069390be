"""``replicator config``: all settings, checked."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import Annotated

import typer

from replicator.cli import output
from replicator.cli.common import print_json, print_table
from replicator.settings import Settings, markdown, table


class Format(StrEnum):
    """How the settings are printed."""

    TABLE = "table"
    ENV = "env"
    MARKDOWN = "md"
    JSON = "json"


def config(
    check: Annotated[
        bool, typer.Option("--check", help="Print nothing but what is wrong, of the key files too.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print them.")] = Format.TABLE,
) -> None:
    """Show and check all settings.

    Name, value, default, unit and meaning of each; if any is wrong, only a line for each wrong one.

    \b
    replicator config --check                  check the REPLICATOR_* variables before a start
    replicator config --format env > node.env  what differs from the defaults, for EnvironmentFile=
    replicator config --format md              the table of the README (always the defaults)
    """
    settings = Settings.from_env()
    if check:
        from replicator.adapters.curve import load_keys  # late: only this needs ZeroMQ

        load_keys(settings.secret_key_file, settings.peer_keys_file, settings.node, settings.peers)
        return
    if form is Format.ENV:
        for name, value in settings.located().to_env().items():
            output.write(f"{name}={shlex.quote(value)}\n".encode())
    elif form is Format.MARKDOWN:
        print(markdown())
    elif form is Format.JSON:
        print_json(table(settings))
    else:
        rows = ((r.name, r.value, r.default, r.unit, r.meaning) for r in table(settings))
        print_table(("name", "value", "default", "unit", "meaning"), rows)
