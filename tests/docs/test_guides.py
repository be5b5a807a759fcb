"""Guides: the code that they show works, and what they link to exists."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from shellrunner.callbacks.webhook_headers import webhook_headers
from tests.support import tour

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    """Return the page's path as the repository has it."""
    return page.relative_to(ROOT).as_posix()


def test_the_verification_of_callbacks_is_right() -> None:
    """The check of the guide accepts what is sent, and rejects another body, another time and another secret."""
    page = (ROOT / "docs/how-to/callbacks.md").read_text()
    (block,) = [block for block in tour.blocks(page) if block.mark == "verify"]
    shown: dict[str, Any] = {}
    exec(block.text, shown)
    secret, other = (f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"a", b"b"))
    body = "готово".encode()
    headers = webhook_headers("history-1", 1_795_508_097, body, secret)
    assert shown["verify"](secret, headers, body)
    assert not shown["verify"](secret, headers, body + b"!")
    assert not shown["verify"](secret, headers | {"webhook-timestamp": "1"}, body)
    assert not shown["verify"](other, headers, body)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path) -> None:
    """Every link to a file of the repository leads to one, and every link to a heading to a heading."""
    broken = []
    for target in _LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    """Following links from docs/index.md reaches every page of the documentation."""
    reached, queue = set(), [ROOT / "docs/index.md"]
    while queue:
        page = queue.pop().resolve()
        if page not in reached and page.is_file() and page.suffix == ".md":
            reached.add(page)
            queue += [
                page.parent / target.partition("#")[0]
                for target in _LINK.findall(page.read_text())
                if ":" not in target
            ]
    assert {page.resolve() for page in ROOT.glob("docs/**/*.md")} - reached == set()


def test_the_dashboard_and_the_rules_name_existing_metrics() -> None:
    """Every metric that the Grafana dashboard and the Prometheus rules name is in the reference."""
    known = set(re.findall(r"`(shellrunner_\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))
    known |= {f"{metric}{suffix}" for metric in known for suffix in ("_bucket", "_sum", "_count")} | {
        "shellrunner_build_info"
    }
    dashboard = json.loads((ROOT / "docs/how-to/grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (ROOT / "docs/how-to/prometheus-rules.yaml").read_text()
    named = set(re.findall(r"shellrunner_\w+", " ".join([*expressions, rules])))
    assert named
    assert named - known == set()


def test_the_readme_is_short() -> None:
    """The README has at most 200 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
