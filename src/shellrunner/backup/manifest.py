"""The manifest of a backup: what it is of, and the size and the checksum of each of its files.

Written last, and has a checksum of itself, so that a backup without a whole one is not accepted. Must not know how
the files are made.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from shellrunner.backup.private_files import FileSum
from shellrunner.errors import ShellrunnerError

NAME: Final = "manifest.json"
HISTORY: Final = "history.db"
RUNS: Final = "runs"
UNFINISHED_SUFFIX: Final = ".partial"
_FORMAT: Final = 1
_PATH: Final = re.compile(r"history\.db|runs/[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Manifest:
    """What a backup is of.

    created: RFC 3339, the moment of the history. program: the version that made the backup. last_id: the highest job
    id given out so far. lost: how many of the jobs were running. incomplete: files that are shorter than the history
    says, by how many bytes.
    """

    created: str
    program: str
    history: str
    schema: int
    generation: int | None
    last_id: int
    jobs: int
    lost: int
    files: dict[str, FileSum]
    incomplete: dict[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        content: dict[str, Any] = {"format": _FORMAT, **asdict(self)}
        content["files"] = {path: each._asdict() for path, each in sorted(self.files.items())}
        content["sha256"] = _digest(content)
        return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, source: Path) -> Self:
        """Read the manifest of the backup in this directory.

        Raises:
            ShellrunnerError: it is no backup, an unfinished one, of another format, or damaged.
        """
        if source.name.endswith(UNFINISHED_SUFFIX):
            raise ShellrunnerError(f"{source} is an unfinished backup: remove it, and use another")
        path = source / NAME
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ShellrunnerError(f"{source} is not a backup: it has no {NAME}") from None
        except OSError as error:
            raise ShellrunnerError(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            raise ShellrunnerError(f"{path} is damaged: use another backup") from None
        if isinstance(content, dict) and content.get("format") not in (None, _FORMAT):
            raise ShellrunnerError(f"{path} is of another version of shellrunner (format {content['format']})")
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ShellrunnerError(f"{path} is damaged: use another backup") from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        if content.pop("sha256") != _digest(content) or HISTORY not in content["files"]:
            raise ValueError
        del content["format"]
        files = {path: FileSum(each["size"], each["sha256"]) for path, each in content.pop("files").items()}
        if not all(map(_PATH.fullmatch, files)):
            raise ValueError
        return cls(**content, files=files)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
