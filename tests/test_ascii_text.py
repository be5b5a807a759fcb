"""Case, blanks and digits are those of ASCII: by name, and in everything that is read from outside."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shellrunner import ascii_text, charsets
from shellrunner.cli.parameters.argument_types import SIGNAL
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.config import Settings
from shellrunner.web.handlers.prefer import parse_wait
from shellrunner.web.http.accept import accepts
from tests.support.site import serving

SOURCE = Path(__file__).parent.parent / "src/shellrunner"
# Whose callers give them text from outside. `store.query.search` ignores case in every script, as it must.
READERS = (
    "access",
    "callbacks",
    "cli",
    "client",
    "config",
    "model",
    "systemd",
    "web",
    "wire",
    "charsets.py",
    "clock.py",
)
UNICODE = {
    "lower", "upper", "casefold", "title", "swapcase", "strip", "lstrip", "rstrip",
    "isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace",
}  # fmt: skip
# Where the text is our own, or every script is meant.
OUR_OWN = {
    "cli/boundary.py": "a traceback",
    "cli/commands/control/queues.py": "names of states",
    "cli/parameters/job_ids.py": "a docstring",
    "cli/ui/shell_completion.py": "a letter of any script means itself to a shell",
    "cli/ui/table.py": "a line of cells",
    "web/openapi/document.py": "the table of routes",
    "web/openapi/response_objects.py": "the table of routes",
    "web/http/request_line.py": "bytes, of which only A to Z have another case",
    "web/security/audit_details.py": "how a run of blanks is shown",
    "wire/text_search.py": "a search of output ignores case in every script",
}
KELVIN, LONG_S, FULL_WIDTH_1, ARABIC_1 = "\u212a", "\u017f", "\uff11", "\u0661"


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules that read text from outside, by path."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name.split("/", maxsplit=1)[0] in READERS:
            yield name, ast.parse(path.read_text())


def test_no_reader_uses_methods_that_know_all_of_unicode() -> None:
    """Text from outside is not folded, stripped or tested by methods whose results differ from ASCII's."""
    found = {
        name
        for name, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in UNICODE
        and not node.args
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "ascii_text")
    }
    assert found == set(OUR_OWN)


def test_no_pattern_is_of_all_of_unicode() -> None:
    """A pattern with a class of characters, or without regard to case, has re.ASCII, or is one of bytes."""
    found = [
        f"{name}: {node.args[0].value!r}"
        for name, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("re.")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and (re.search(r"\\[dwsb]", node.args[0].value) or "IGNORECASE" in ast.unparse(node))
        and "ASCII" not in ast.unparse(node)
        and name not in OUR_OWN
        and name != "web/openapi/parameter_objects.py"
    ]
    assert found == []


def test_case_is_that_of_ascii() -> None:
    """Only A to Z have another case; what Python would fold into them stays as it is."""
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if not letter.isascii() and (letter.lower().isascii() or letter.upper().isascii()):
            assert (ascii_text.lower(letter), ascii_text.upper(letter)) == (letter, letter)
    assert ascii_text.lower(f"A-Z{KELVIN}É") == f"a-z{KELVIN}É"
    assert ascii_text.upper(f"a-z{LONG_S}ß") == f"A-Z{LONG_S}ß"
    assert ascii_text.strip_blanks(" \t\xa0x\u3000\x85 ") == "\xa0x\u3000\x85"
    for text in ("", "+1", "1_0", " 1", FULL_WIDTH_1, ARABIC_1, "²", "1\n"):
        assert not ascii_text.is_decimal(text)
    assert ascii_text.is_decimal("012")


def test_names_in_settings_and_options_are_those_of_ascii() -> None:
    """No charset, host, signal or number is known by letters and digits of other scripts."""
    with pytest.raises(ValueError, match="charset"):
        charsets.canonical(f"{KELVIN}oi8-r")
    for key, value in (("names", f"bac{KELVIN}up.test"), ("origins", f"https://bac{KELVIN}up.test")):
        with pytest.raises(ValueError, match=key):
            Settings.model_validate({"server": {key: [value]}})
    with pytest.raises(Exception, match="there is no signal"):
        SIGNAL.convert(f"{LONG_S}igterm", None, None)
    for text in (FULL_WIDTH_1, ARABIC_1, "1_0", "+1", " 1", "-1"):
        with pytest.raises(Exception, match="is not a whole number"):
            WholeNumber(0).convert(text, None, None)
    assert WholeNumber(0).convert("012", None, None) == 12


def test_values_in_headers_are_those_of_ascii() -> None:
    """A weight is one to three digits of ASCII, and blanks in a header are spaces and tabs."""
    for weight in (ARABIC_1, "nan", "inf", "1_0", "-1", "0x0", "1e0", "2", "\xa00"):
        assert accepts(f"text/plain;q={weight}", "text/plain")  # ignored, as if there were none
    assert not accepts("text/plain;q=0.000", "text/plain")
    assert not accepts("text/plain\xa0", "text/plain")
    assert parse_wait([f"wait={FULL_WIDTH_1}"]) is None
    assert parse_wait(["wait\xa0=1"]) is None
    assert parse_wait([" WAIT\t=\t1 "]) == 1


async def test_a_request_is_read_in_ascii(tmp_path: Path) -> None:
    """Header values that Python's own methods would make good are refused."""
    async with serving(tmp_path, server={"names": ["backup.test", "localhost", "127.0.0.1"]}) as site:

        async def status(*headers: str, host: str = "localhost:PORT", body: str = "") -> str:
            lines = ["POST /api/jobs HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *headers, "", body]
            return (await site.raw("\r\n".join(lines))).decode()[9:12]

        end = ("Connection: close", "Content-Length: 18")
        job = '{"command":"true"}'
        assert await status(*end, body=job) == "202"
        assert await status(*end, body=job, host="BACKUP.test:PORT") == "202"
        assert await status(*end, body=job, host=f"bac{KELVIN}up.test:PORT") == "421"
        assert (
            await status(*end, f"Origin: http://bac{KELVIN}up.test:PORT", body=job, host="backup.test:PORT") == "403"
        )
        assert await status(*end, "Sec-Fetch-Site: same-origin\xa0", body=job) == "403"
        assert await status(*end, f"Sec-Fetch-Site: {LONG_S}ame-origin", body=job) == "403"
        assert await status("Connection: close", f"Transfer-Encoding: chun{KELVIN}ed", body="0\r\n\r\n") == "400"
