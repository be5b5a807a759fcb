#!/usr/bin/env python3
"""Generate the documentation for programs: llms.txt (in the format of https://llmstxt.org) and llms-full.txt.

python tools/llms.py            write both into src/shellrunner/documentation/, as every build does

hatch_build.py imports this file by its path, so it needs the standard library only.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Final

ROOT: Final = Path(__file__).parent.parent
FULL: Final = "llms-full.txt"
INDEX: Final = "index.md"
# In docs/llms.txt, the line that the lists of pages replace.
PAGES: Final = "{pages}\n"

_FENCED: Final = re.compile(r"^(```.*?^```)$\n?", re.MULTILINE | re.DOTALL)
_TOCTREE: Final = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
_DESCRIBED: Final = re.compile(r"^(?:-|\d+\.) \[[^\]]*\]\(([^)\s#]+)\): (.+)$", re.MULTILINE)


def main() -> int:
    """Write both texts; return the exit code."""
    write(ROOT / "docs", ROOT / "src/shellrunner/documentation")
    return 0


def write(docs: Path, folder: Path) -> None:
    """Write both texts into the folder; a file that is up to date is left alone."""
    folder.mkdir(exist_ok=True)
    for name, text in texts(docs).items():
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text:
            with NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
                file.write(text)
            os.chmod(file.name, 0o644)
            os.replace(file.name, folder / name)  # a reader gets the whole text, the old one or the new one


def texts(docs: Path) -> dict[str, str]:
    """Return the text of each file by its name."""
    pages = list(walk(docs, PurePosixPath(INDEX)))
    return {
        "llms.txt": (docs / "llms.txt").read_text("utf-8").replace(PAGES, _lists(docs, pages)),
        FULL: "\n".join(f"---\nPage: {_address(page)}\n\n{_plain(docs, page)}" for page in pages),
    }


def walk(docs: Path, page: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield a page and all pages below it, in the order of their toctrees, as paths relative to docs/."""
    yield page
    for tree in _TOCTREE.findall((docs / page).read_text("utf-8")):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                yield from walk(docs, page.parent / f"{line}.md")


def _lists(docs: Path, pages: list[PurePosixPath]) -> str:
    """Return a list of links for each folder of pages."""
    lines: list[str] = []
    described: dict[str, str] = {}
    for page in pages:
        if page.name == INDEX and page != PurePosixPath(INDEX):
            described = dict(_DESCRIBED.findall((docs / page).read_text("utf-8")))
            lines += ["", f"## {_title(docs, page)}", ""]
        elif page.name != INDEX:
            description = _rewritten(docs, page, described.get(page.name, ""))
            lines.append(f"- [{_title(docs, page)}](/{FULL}#{_address(page)})" + (description and f": {description}"))
    return "\n".join([*lines[1:], ""])


def _title(docs: Path, page: PurePosixPath) -> str:
    found = re.search(r"^# (.+)$", (docs / page).read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{docs / page} has no title")
    return found[1]


def _plain(docs: Path, page: PurePosixPath) -> str:
    """Return the text of a page without comments, toctrees and images; its links name pages by their address."""
    text = _TOCTREE.sub("", (docs / page).read_text("utf-8"))
    # With a group in the pattern, every other piece is a fenced block, in which nothing is a comment or a link.
    pieces = _FENCED.split(text)
    pieces[::2] = [_rewritten(docs, page, _COMMENT.sub("", piece)) for piece in pieces[::2]]
    pieces[1::2] = [f"{piece}\n" for piece in pieces[1::2]]
    return re.sub(r"\n{3,}", "\n\n", "".join(pieces)).strip() + "\n"


def _rewritten(docs: Path, page: PurePosixPath, text: str) -> str:
    def rewrite(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        path, mark, anchor = target.partition("#")
        if image:
            return f"(image: {words})"
        if re.match(r"[a-z]+:", target):
            return link[0]
        address = os.path.relpath(docs / page.parent / path if path else docs / page, docs.parent)
        return f"[{words}]({address}{mark}{anchor})"

    return _LINK.sub(rewrite, text)


def _address(page: PurePosixPath) -> str:
    return f"docs/{page}"


if __name__ == "__main__":
    sys.exit(main())
