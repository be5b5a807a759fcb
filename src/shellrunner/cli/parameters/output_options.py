"""The option `-o`: in which form a verb prints what it has found. Must not know what that is."""

from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from shellrunner.cli.ui.output_format import JSON, JSON_LINES, TABLE, TEMPLATE, OutputFormat, unescape

_TEMPLATE_PREFIX: Final = f"{TEMPLATE}="

Verb = Callable[..., Any]


class _OutputType(StringParamType):
    name = "format"

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._words = (*kinds, _TEMPLATE_PREFIX)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the `OutputFormat`."""
        if not isinstance(value, str):
            return value
        if value.startswith(_TEMPLATE_PREFIX):
            try:
                return OutputFormat(TEMPLATE, unescape(value.removeprefix(_TEMPLATE_PREFIX)))
            except ValueError as error:
                self.fail(str(error), param, ctx)
        if value not in self._words:
            self.fail(f"{value!r} is not one of {', '.join(self._words)}…", param, ctx)
        return OutputFormat(value)

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the forms."""
        return [CompletionItem(word) for word in self._words if word.startswith(incomplete)]


def output_option(*, json_help: str = "The same as -o jsonl.") -> Callable[[Verb], Verb]:
    """Give a verb the parameter `output`, an `OutputFormat` or None for its own form, by `-o` and `--json`."""
    kinds = (JSON, JSON_LINES, TABLE)
    words = ", ".join(kinds)

    def use_json(ctx: click.Context, _param: click.Parameter, *, value: bool) -> None:
        if value:
            ctx.params["output"] = OutputFormat(JSON_LINES)

    def keep(ctx: click.Context, _param: click.Parameter, value: OutputFormat | None) -> OutputFormat | None:
        return value or ctx.params.get("output")

    def decorate(verb: Verb) -> Verb:
        as_json = click.option(
            "--json", is_flag=True, expose_value=False, is_eager=True, help=json_help,
            callback=lambda ctx, param, value: use_json(ctx, param, value=value),
        )  # fmt: skip
        option = click.option(
            "-o", "--output", metavar="FORMAT", type=_OutputType(kinds), callback=keep,
            help=f"Print {words} or template='{{job_id}} {{state}}'.",
        )  # fmt: skip
        return option(as_json(verb))

    return decorate
