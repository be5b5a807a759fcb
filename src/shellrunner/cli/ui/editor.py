"""The user's editor, as a form: a document of JSON to change, and the changes as a merge patch (RFC 7396).

Must not know what the document is.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from shellrunner import control_characters
from shellrunner.cli.ui.json_object import parse_object
from shellrunner.errors import ShellrunnerError

_UNCHANGED: Final = "nothing was changed"
_MAX_ATTEMPTS: Final = 10  # a program in place of an editor may make the same mistake for ever
_ERROR_PREFIX: Final = "// not valid JSON: "


class EditFailed(ShellrunnerError):
    """What was edited is no JSON object, or nothing was changed."""


def edit(document: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return what the user changes of the document in $VISUAL or $EDITOR; keys that are removed become null.

    Raises:
        EditFailed: nothing was changed, the text is no JSON object, or the editor failed.
    """
    shown = control_characters.escape_json(json.dumps(document, ensure_ascii=False, indent=2))
    text = f"// {control_characters.escape(title)}\n{shown}\n"
    for attempt in range(_MAX_ATTEMPTS):
        edited = _edit_text(text)
        if edited is None:
            break
        try:
            changed = parse_object("\n".join(line for line in edited.split("\n") if not line.startswith("//")))
        except ValueError as error:
            if edited == text or attempt == _MAX_ATTEMPTS - 1 or not sys.stdin.isatty():
                raise EditFailed(f"what was edited is not valid JSON: {error}") from None
            # What was typed is not lost: it can be corrected, or left as it is to give up.
            text = f"{_ERROR_PREFIX}{error}\n{_without_error(edited)}"
            continue
        patch = merge_patch(document, changed)
        if patch:
            return patch
        break
    raise EditFailed(_UNCHANGED)


def _edit_text(text: str) -> str | None:
    """Return the text after the user has edited it, or None if it was not saved."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")  # click would look for vim alone
    try:
        return click.edit(text, editor=editor, extension=".json")
    except click.ClickException as error:
        raise EditFailed(error.message) from None
    except UnicodeDecodeError:
        raise EditFailed("what was edited is not valid UTF-8") from None
    except ValueError as error:  # an open quotation in its name
        raise EditFailed(f"cannot start the editor {editor}: {error}") from None


def _without_error(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.startswith(_ERROR_PREFIX))


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that makes the second object of the first."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch
