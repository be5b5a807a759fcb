"""The forms in which documents are printed for programs: JSON, lines of JSON, or a template of the user's.

Must not know which documents there are.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from shellrunner import control_characters
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.ui.console import Console
from shellrunner.errors import ShellrunnerError

JSON, JSON_LINES, TABLE, TEMPLATE = "json", "jsonl", "table", "template"
_FIELD: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_BRACES: Final = {"{{": "{", "}}": "}"}
_ESCAPE: Final = re.compile(r"\\([nt\\])")
_ESCAPED: Final = {"n": "\n", "t": "\t", "\\": "\\"}


class OutputFormat(NamedTuple):
    """One of the forms, with the text of a template."""

    kind: str
    template: str = ""

    async def print(self, console: Console, documents: Sequence[Mapping[str, Any]], *, is_list: bool = True) -> None:
        """Print documents; `json` makes one document of a list, the others print them one by one."""
        if self.kind == JSON:
            await console.print_json(list(documents) if is_list else documents[0], indent=2)
            return
        for document in documents:
            if self.kind == TEMPLATE:
                text = fill(self.template, document)
                await console.print_line(control_characters.escape_lines(text) if os.isatty(STDOUT) else text)
            else:
                await console.print_json(document)


def unescape(template: str) -> str:
    r"""Return a template with `\n`, `\t` and `\\` replaced by what they mean.

    Raises:
        ValueError: its braces do not match, or have something else than a key between them.
    """
    for match in _FIELD.finditer(template):
        if match[1] is not None and not _KEY.fullmatch(match[1]):
            raise ValueError(f"{match[0]} in the template is not a key in braces, such as {{job_id}}")
        if match[0] in {"{", "}"}:
            raise ValueError(f"unmatched {match[0]} in the template: write {match[0] * 2} for a brace")
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], template)


def fill(template: str, document: Mapping[str, Any]) -> str:
    """Return the template with each `{key}` or `{key.member}` replaced by the document's value; null is empty.

    Raises:
        ShellrunnerError: the document has no such key.
    """
    return _FIELD.sub(lambda match: _BRACES.get(match[0]) or _text(_member(document, match[1])), template)


def _member(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for index, key in enumerate(parts := path.split(".")):
        if isinstance(value, Mapping) and ".".join(parts[index:]) in value:  # the key of a label may have dots
            return value[".".join(parts[index:])]
        if value is document and key not in document:
            raise ShellrunnerError(f"there is no key {key!r} for the template: {', '.join(document)}")
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case list():
            return ",".join(map(_text, value))
    return json.dumps(value, ensure_ascii=False)
