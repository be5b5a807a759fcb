"""The table of endings, and that everybody who shows an ending agrees with it."""

import re
from pathlib import Path

import pytest

import shellrunner
from shellrunner.cli import exit_codes
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.job_state import state_cell
from shellrunner.config import Settings
from shellrunner.keeper.slot import ReportedEnding
from shellrunner.model import End, Ending
from shellrunner.model.endings import ENDINGS, Tone, WaitStatus, tone_of
from shellrunner.model.spec import Retries
from shellrunner.web import ROUTES
from shellrunner.web.openapi import document

ROOT = Path(__file__).parent.parent
PAGE = Path(shellrunner.__file__).parent / "page"

each_ending = pytest.mark.parametrize("ending", Ending)


def script_table(script: str, name: str) -> dict[str, str]:
    """Return the entries of an object literal in a script of the page."""
    found = re.search(rf"const {name} = \{{(.*?)\}};", script, re.DOTALL)
    assert found is not None, name
    return dict(re.findall(r'(\w+): "([^"]*)"', found[1]))


def test_every_ending_is_in_the_table() -> None:
    """No ending lacks an entry, and no entry an ending."""
    assert list(ENDINGS) == list(Ending)


@each_ending
def test_the_page_has_the_labels_of_the_table(ending: Ending) -> None:
    """The page labels each ending as the table does, apart from capitals; an exit shows its code instead."""
    labels = script_table((PAGE / "core" / "labels.js").read_text(), "ENDINGS")
    expected = None if ending is Ending.EXITED else ENDINGS[ending].label
    assert (labels[ending].lower() if ending in labels else None) == expected


def test_the_page_offers_every_ending_as_a_filter() -> None:
    """The page's filter follows its labels: every ending in the table's order, and exits split by their code."""
    (select,) = re.findall(r'<select id="ending".*?</select>', (PAGE / "index.html").read_text(), re.DOTALL)
    assert re.findall(r'<option value="(\w+)">', select) == ["ok", "bad"]
    assert "Object.entries(ENDINGS).map(" in (PAGE / "list" / "filters.js").read_text()
    labels = script_table((PAGE / "core" / "labels.js").read_text(), "ENDINGS")
    assert list(labels) == [ending for ending in Ending if ending is not Ending.EXITED]


def test_a_keeper_reports_endings_of_the_table() -> None:
    """Each ending that a keeper may record is in the table, and only a reserved one is produced by nothing."""
    reported = {value for name, value in vars(ReportedEnding).items() if name.isupper()}
    judged = {Ending.SKIPPED, Ending.LOST}
    assert reported | judged == {ending for ending in Ending if ENDINGS[ending].reserved is None}


def test_the_page_has_the_tones_of_the_table() -> None:
    """The page names the tone of every ending that is not a failure, and of no other."""
    tones = script_table((PAGE / "core" / "labels.js").read_text(), "TONES")
    assert tones == {ending: info.tone for ending, info in ENDINGS.items() if info.tone is not Tone.FAILURE}


@each_ending
def test_the_reference_explains_every_ending(ending: Ending) -> None:
    """The reference's table of endings has a row for each."""
    assert re.search(rf"^\| `{ending}` \| .+ \|$", (ROOT / "docs/reference/states.md").read_text(), re.MULTILINE)


@pytest.mark.heavy
def test_the_api_lists_every_ending_with_its_meaning() -> None:
    """The schema of an ending has every word, and its description explains each of them."""
    schema = document.build(ROUTES, Settings(), [])["components"]["schemas"]["EndingName"]
    assert schema["enum"] == list(Ending)
    assert re.findall(r"`(\w+)`: ", schema["description"]) == list(Ending)


@each_ending
def test_the_cli_exits_with_the_code_of_the_table(ending: Ending) -> None:
    """A command's own code or signal decides where there is one, else the table; the reference names each code."""
    status = {"ending": ending.value, "exit_code": 7, "signal": "SIGTERM"}
    expected = {Ending.EXITED: 7, Ending.SIGNALLED: 128 + 15}.get(ending, ENDINGS[ending].exit_code)
    assert exit_codes.exit_code_of_job(status) == expected
    assert ENDINGS[ending].exit_code is None or f"| {expected} |" in (ROOT / "docs/reference/cli.md").read_text()


@each_ending
def test_the_cli_shows_label_and_sentence_of_the_table(ending: Ending) -> None:
    """Lists and sentences have the table's words, with the code or the signal in place."""
    status = {"state": "done", "ending": ending.value, "exit_code": 7, "signal": "SIGTERM"}
    shown = {Ending.EXITED: "exited 7", Ending.SIGNALLED: "SIGTERM"}.get(ending, ENDINGS[ending].label)
    assert state_cell(status)[0] == shown
    assert formatting.describe_ending(5, status).startswith("job 5 ")
    assert "{" not in formatting.describe_ending(5, status)


def test_an_ending_of_a_newer_server_is_shown_as_it_is() -> None:
    """The CLI shows an unknown ending by its word, as neither success nor failure of its own, with exit code 123."""
    status = {"state": "done", "ending": "evicted_twice", "exit_code": None, "signal": None}
    assert state_cell(status)[0] == "evicted twice"
    assert "evicted_twice" in formatting.describe_ending(5, status)
    assert exit_codes.exit_code_of_job(status) == 123
    assert tone_of("evicted_twice", None) is Tone.UNKNOWN


@pytest.mark.parametrize(("code", "tone"), [(0, Tone.SUCCESS), (1, Tone.FAILURE)])
def test_only_an_exit_with_0_is_a_success(code: int, tone: Tone) -> None:
    """An exit is a success with code 0, else a failure; no other ending is a success, whatever its code."""
    assert tone_of(Ending.EXITED, code) is tone
    assert tone_of(Ending.TIMED_OUT, 0) is Tone.FAILURE


@each_ending
def test_an_end_has_the_parts_that_its_ending_allows(ending: Ending) -> None:
    """An end with a code, a signal, or neither is constructed exactly where the table allows it."""
    info = ENDINGS[ending]
    for code, signal, fitting in (
        (3, None, {WaitStatus.EXIT_CODE, WaitStatus.EITHER}),
        (None, "SIGKILL", {WaitStatus.SIGNAL, WaitStatus.EITHER}),
        (None, None, {WaitStatus.NEITHER, WaitStatus.EITHER}),
    ):
        if info.wait_status in fitting:
            assert End(ending, 1, code, signal, "why").exit_code == code
        else:
            with pytest.raises(ValueError, match=ending):
                End(ending, 1, code, signal, "why")
    if info.needs_detail:
        with pytest.raises(ValueError, match="without detail"):
            End(ending, 1)


@each_ending
def test_retries_name_only_what_may_be_retried(ending: Ending) -> None:
    """`retries.on` accepts an ending exactly if the table says that it is retryable."""
    if ENDINGS[ending].retryable:
        assert Retries(max=1, on=(ending.value,)).on == (ending.value,)
    else:
        with pytest.raises(ValueError, match="must be one of exited, "):
            Retries(max=1, on=(ending.value,))
