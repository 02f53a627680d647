"""`cxr-edge schema`: print a JSON Schema."""

from __future__ import annotations

import click

from firmware_bridge.result import NOTICE
from toolkit.schema import SCHEMAS, schema_of


@click.command("schema", epilog=NOTICE)
@click.argument("name", type=click.Choice(list(SCHEMAS)))
def command(name: str) -> None:
    """Print the JSON Schema (draft 2020-12) of a file that others read or write."""
    from toolkit.schema.publish import text_of

    click.echo(text_of(schema_of(name)), nl=False)
