"""/llms.txt and /llms-full.txt: a program that reads nothing else can use the service, and finds every page."""

import re
import shutil
import urllib.request
from pathlib import Path

import pytest
from tools import llms

from shellrunner.model.endings import ENDINGS
from tests.support import tour
from tests.support.service import Service

DOCS = llms.ROOT / "docs"
TEXTS = llms.texts(DOCS)
SUMMARY, FULL = TEXTS["llms.txt"], TEXTS["llms-full.txt"]


@pytest.fixture(autouse=True)
def generated() -> None:
    """Generate the texts in the source tree, as every build does: one that was never built has none."""
    llms.main()


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands are typed with curl, which is not installed")
async def test_a_program_that_is_given_the_summary_can_use_the_service(tmp_path: Path) -> None:
    """Given what a service returns at /llms.txt, a program submits, follows, cancels and finds jobs again."""
    service = Service(tmp_path / "state")
    await service.start()
    try:
        with urllib.request.urlopen(f"{service.url}/llms.txt") as response:
            given = response.read().decode()
        steps = list(tour.steps(given))
        for command, shown in steps:
            printed = await tour.run_command(command, tmp_path, service.url)
            assert tour.matches(shown, printed), f"$ {command}\n{printed}\n\nis not what is shown:\n\n{shown}"
        _, _, jobs = await service.get("/api/results?sort=created&fields=result_id,ending,stdout")
        rows = [(row["result_id"], row["ending"]) for row in jobs["results"]]
        assert sorted(rows) == [(1, "exited"), (2, "cancelled")]  # and no other job was started
    finally:
        await service.clear_away()
    typed = " ".join(command for command, _ in steps)
    for part in ("-X POST", "output?follow=true", "/events", "/cancel", "label=", "q=", "ending="):
        assert part in typed


def test_the_summary_has_the_format_of_llmstxt() -> None:
    """One title, a summary as a quotation, text without headings, and then only lists of links under headings."""
    head, *sections = re.split(r"^## .+\n", SUMMARY, flags=re.MULTILINE)
    assert re.match(r"# shellrunner\n\n> .+\n\n", head)
    assert re.findall(r"^#+ .+$", head, re.MULTILINE) == ["# shellrunner"]
    assert len(sections) == 5
    lines = [line for section in sections for line in section.splitlines() if line]
    assert [line for line in lines if not re.fullmatch(r"- \[[^\]]+\]\(/[^)\s]+\)(: .+)?", line)] == []


def test_the_summary_is_short() -> None:
    """The summary has at most 12,000 characters, so that it costs a program little to read."""
    assert len(SUMMARY) <= 12_000


def test_the_summary_names_every_ending() -> None:
    """A program that waits for a job knows from the summary everything that it may become."""
    assert [ending for ending in ENDINGS if f"`{ending}`" not in SUMMARY] == []


def test_every_page_is_in_the_full_text_once() -> None:
    """The full text has every page of docs/, and the summary links to each that is not an index."""
    pages = {f"docs/{path.relative_to(DOCS).as_posix()}" for path in DOCS.rglob("*.md")}
    found = re.findall(r"^Page: (.+)$", FULL, re.MULTILINE)
    assert sorted(found) == sorted(pages)
    linked = re.findall(r"\(/llms-full\.txt#([^)]+)\)", SUMMARY)
    assert set(linked) == {page for page in pages if not page.endswith("index.md")}
    assert [page for page in found if page in linked] == linked  # in one order


def test_the_full_text_is_plain() -> None:
    """There are no comments, toctrees, images or relative links, and each link leads to a file of the repository."""
    assert not re.search(r"<!--|\{toctree\}|!\[", FULL)
    prose = re.sub(r"^```.*?^```$", "", FULL, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    assert len(targets) > 50
    assert [
        target
        for target in targets
        if not re.match(r"[a-z]+:", target) and not (llms.ROOT / target.partition("#")[0]).is_file()
    ] == []
    assert "$ curl" in FULL  # the blocks are all there


def test_texts_are_written_when_they_are_stale(tmp_path: Path) -> None:
    """Writing replaces a text that is not up to date, and leaves one alone that is."""
    llms.write(DOCS, tmp_path)
    (tmp_path / "llms.txt").write_text("old")
    before = (tmp_path / "llms-full.txt").stat().st_mtime_ns
    llms.write(DOCS, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == TEXTS
    assert (tmp_path / "llms-full.txt").stat().st_mtime_ns == before
