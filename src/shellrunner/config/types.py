"""What a value must be, beyond its type; used by the tables of the settings.

Must not know which setting has it.
"""

import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of settings: nothing in it changes, nothing unknown is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def absolute(path: Path) -> Path:
    """Refuse a path that would depend on where the service was started, and one that no file can have."""
    if "\0" in str(path):
        raise ValueError("must not contain NUL")
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def sayable(text: str) -> str:
    """Every job's keeper is told this: in UTF-8, and the kernel by it, for which a NUL is the end."""
    if "\0" in text:
        raise ValueError("must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None
    return text


# TOML has no null. Zero is read as "no limit" because the other reading, "keep nothing", would delete the history.
ZERO_IS_NONE: Final = AfterValidator(lambda number: number or None)
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(absolute)]
SayablePath = Annotated[AbsolutePath, AfterValidator(lambda path: Path(sayable(str(path))))]


def authority(text: str) -> str:
    """A host as URLs have it, perhaps with a port."""
    match = re.fullmatch(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", text.lower())
    if match is None or int(match[1] or 0) > 65_535:
        raise ValueError("must be a host as URLs have it, with its port unless that is the scheme's own")
    return text.lower()


def webhook_secret(secret: str) -> str:
    """As Standard Webhooks has it: `whsec_` and 24 to 64 bytes in base64."""
    if not secret:
        return secret
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and 24 to 64 random bytes in base64")
    return secret
