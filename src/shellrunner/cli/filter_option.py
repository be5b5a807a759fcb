"""`--filter`: which jobs a list or `prune` means, as the list's own parameters. The service checks them."""

from collections.abc import Sequence

import click

Filters = tuple[tuple[str, str], ...]


def _parts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Filters:
    parts = [text.partition("=") for text in value]
    for name, equals, _ in parts:
        if not (name and equals):
            raise click.BadParameter("must be NAME=VALUE, as state=running or label=team:web", ctx, param)
    return tuple((name, content) for name, _, content in parts)


option = click.option(
    "--filter",
    "filters",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parts,
    help="Only these: q, state, ending, exit_code, queue, label=KEY:VALUE, created_after, … May be repeated.",
)


def in_query(filters: Filters) -> dict[str, Sequence[str]]:
    """The same as a client takes it."""
    found: dict[str, list[str]] = {}
    for name, content in filters:
        found.setdefault(name, []).append(content)
    return {**found}
