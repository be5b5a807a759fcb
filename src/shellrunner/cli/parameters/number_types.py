"""Numbers as arguments: the digits 0 to 9 and nothing else. Must not know what is counted."""

from typing import Any

import click

from shellrunner import ascii_text


class WholeNumber(click.IntRange):
    """A whole number, not negative; `int` also takes signs, underscores, blanks and digits of other scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, str) and not ascii_text.is_decimal(value):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)


class Integer(click.IntRange):
    """A whole number that may be negative."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, str) and not ascii_text.is_decimal(value.removeprefix("-")):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)
