"""Files of the package that are served: read once, with their content types, also compressed.

Used by the handlers of the page and of the documentation. Must not know what is in the files.
"""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from aiohttp import hdrs, web

from shellrunner import ascii_text


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that is served, also compressed."""

    content_type: str
    content: bytes
    compressed: bytes


def compress(content_type: str, content: bytes) -> StaticFile:
    """Return the file with this content."""
    return StaticFile(content_type, content, gzip.compress(content, mtime=0))


def read_folder(folder: Traversable, types: Mapping[str, str]) -> dict[str, bytes]:
    """Read all files below a folder whose suffix has a type, by path; empty if there is no folder."""
    return dict(_walk(folder, types, ""))


def content_type(name: str, types: Mapping[str, str]) -> str:
    """Return the content type of a file whose suffix has one."""
    return types[_suffix(name)]


def accepts_gzip(request: web.Request) -> bool:
    """Return whether the client accepts a compressed body."""
    accepted = ascii_text.lower(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
    return "gzip" in (ascii_text.strip_blanks(coding) for coding in accepted.split(","))


def _walk(folder: Traversable, types: Mapping[str, str], path: str) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        if each.is_dir():
            yield from _walk(each, types, f"{path}{each.name}/")
        elif _suffix(each.name) in types:
            yield path + each.name, each.read_bytes()


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
