"""The documentation is true: every command that it shows is run, and prints what is shown."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import load
from tests.support import tour
from tests.support.selected_service import IS_CLUSTER, new_service
from tests.support.service import Service
from tests.support.tokens import hash_of
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TOURS = [page for page in PAGES if next(tour.steps(page.read_text()), None)]


async def has_idle_keeper(service: Service) -> bool:
    """Return whether a job would start at once, as it does for a reader who types."""
    if IS_CLUSTER:  # an API node has no keepers
        return bool(service.keepers())
    _, _, text = await service.get("/metrics")
    return re.search(rb'^shellrunner_keepers\{state="idle"\} [1-9]', text, re.MULTILINE) is not None


def name(page: Path) -> str:
    """Return the page's path as the repository has it."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tours are typed with curl, which is not installed")
@pytest.mark.parametrize("page", TOURS, ids=name)
async def test_a_page_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Every command of the page prints what is shown, on a fresh history, from the first to the last."""
    text = page.read_text()
    service = new_service(tmp_path / "state", **dict[str, Any](tour.settings(text)))
    await service.start()
    await until(lambda: has_idle_keeper(service), what="a keeper waits for the first job")
    try:
        for command, shown in tour.steps(text):
            printed = await tour.run_command(command, tmp_path, service.url)
            assert tour.matches(shown, printed), f"$ {command}\n{printed}\n\nis not what is shown:\n\n{shown}"
    finally:
        await service.clear_away()


def test_there_is_much_to_run() -> None:
    """The tours are found: the README's, and dozens of commands."""
    assert ROOT / "README.md" in TOURS
    assert sum(len(list(tour.steps(page.read_text()))) for page in TOURS) > 50


@pytest.mark.parametrize(
    ("page", "number"),
    [
        (page, number)
        for page in PAGES
        for number, block in enumerate(tour.blocks(page.read_text()))
        if block.language == "toml" and block.mark in {"config", "tour"}
    ],
    ids=lambda value: name(value) if isinstance(value, Path) else str(value),
)
def test_a_configuration_is_accepted(
    page: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every configuration that is shown is one that the service starts with, but for placeholders of secrets."""
    file = tmp_path / "config.toml"
    text = tour.blocks(page.read_text())[number].text.replace("shellrunner1:…", hash_of("ci"))
    file.write_text(text.replace("whsec_…", f"whsec_{'c2VjcmV0' * 5}"))
    credential = tmp_path / "database-url"  # as systemd makes it for the unit that the page shows
    credential.write_text("postgresql://shellrunner@db.example.org/shellrunner")
    for private in (file, credential):
        os.chmod(private, 0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    load(file)  # no error is raised


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("HTTP/1.1 202 Accepted\n…", "HTTP/1.1 202 Accepted\nDate: now", True),
        ("HTTP/1.1 202 Accepted\n…", "HTTP/1.1 200 OK\nDate: now", False),
        ('{"duration":1.5}', '{"duration":2.25}', True),
        ('{"duration":1.5}', '{"duration":null}', False),
        ('{"exit_code":1,…}', '{"exit_code":12,"signal":null}', False),
        ('"2026-11-24T05:36:30.183Z"', '"2027-01-01T00:00:00.000Z"', True),
        ('"2026-11-24T05:36:30.183Z"', "null", False),
        ('{"a":1}', '{"a":1,"b":2}', False),
    ],
)
def test_the_comparison_would_notice(shown: str, printed: str, *, same: bool) -> None:
    """A status, key or value that differs is a difference; a time, a duration and what was left out is none."""
    assert tour.matches(shown, printed) is same
