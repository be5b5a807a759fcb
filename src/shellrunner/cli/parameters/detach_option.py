"""The option for the key that detaches this terminal from a job. Must not know what detaching is."""

from typing import Any

import click

from shellrunner.cli.terminal import detach_key
from shellrunner.cli.terminal.detach_key import DetachKey


def _parse(ctx: click.Context, param: click.Parameter, value: Any) -> DetachKey:
    try:
        return DetachKey.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


detach_option = click.option(
    "--detach-key", metavar="KEY", default=detach_key.DEFAULT, callback=_parse,
    help="The key that detaches: ctrl-\\ (default), ctrl-], …; or none.",
)  # fmt: skip
