"""The user's editor, as a form: a document of JSON to change, and the changes as a merge patch (RFC 7396).

Must not know what the document is.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import click

from shellrunner.errors import ShellrunnerError


class EditFailed(ShellrunnerError):
    """What was edited is no JSON object, or nothing was changed."""


def edit(document: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return what the user changes of the document in $VISUAL or $EDITOR; keys that are removed become null.

    Raises:
        EditFailed: nothing was changed, or the text is no JSON object.
    """
    text = f"// {title}\n{json.dumps(document, ensure_ascii=False, indent=2)}\n"
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")  # click would look for vim alone
    edited = click.edit(text, editor=editor, extension=".json")
    if edited is None:
        raise EditFailed("nothing was changed")
    lines = [line for line in edited.splitlines() if not line.startswith("//")]
    try:
        changed = json.loads("\n".join(lines))
    except ValueError as error:
        raise EditFailed(f"what was edited is not valid JSON: {error}") from None
    if not isinstance(changed, dict):
        raise EditFailed("what was edited is not a JSON object")
    patch = merge_patch(document, changed)
    if not patch:
        raise EditFailed("nothing was changed")
    return patch


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
