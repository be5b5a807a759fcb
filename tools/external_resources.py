#!/usr/bin/env python3
"""Find what HTML pages would load from other hosts: scripts, styles, fonts, images, frames.

python tools/external_resources.py DIRECTORY    exit with 1 and list them if there are any

Links that a reader may follow are not loaded, so they may lead anywhere.
"""

import re
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

# Attributes whose target is loaded with the page, whatever the element; `href` is one in <link> and in SVG's <use>.
_LOADING: Final = frozenset({"src", "srcset", "poster", "data", "background", "manifest"})
_HREF_LOADS: Final = frozenset({"link", "use", "image", "base"})
_LINK_LOADS: Final = frozenset(
    {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}
)
_EXTERNAL: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_IN_CSS: Final = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:[a-z][a-z0-9+.-]*:)?//[^"')\s]+)""", re.IGNORECASE)


def main(arguments: list[str]) -> int:
    """Check a directory; return the exit code."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    root = Path(arguments[0])
    pages = sorted(root.rglob("*.html"))
    found = [
        f"{path.relative_to(root)}: {target}"
        for path in (*pages, *sorted(root.rglob("*.css")), *sorted(root.rglob("*.svg")))
        for target in external(path.suffix, path.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found or not pages else 0


def external(suffix: str, text: str) -> list[str]:
    """Return the addresses on other hosts that a file of this kind would load."""
    return _IN_CSS.findall(text) + ([] if suffix == ".css" else _in_html(text))


def _in_html(text: str) -> list[str]:
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return [target for target in parser.targets if _EXTERNAL.match(target)]


class _Parser(HTMLParser):
    """Collects what the elements of a page load."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kinds = set((dict(attrs).get("rel") or "").lower().split())
        for name, value in attrs:
            plain = name.removeprefix("xlink:")
            if plain in _LOADING or (plain == "href" and _href_loads(tag, kinds)):
                self.targets += [part.strip().split(" ")[0] for part in (value or "").split(",")]


def _href_loads(tag: str, kinds: Iterable[str]) -> bool:
    return tag in _HREF_LOADS and (tag != "link" or not _LINK_LOADS.isdisjoint(kinds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
