"""The language: words that stay out of the repository, and names that mean one thing."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # it reads all files, which takes long on a machine with much else to do

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "shellrunner"
MODULES = sorted(SOURCE.rglob("*.py"))
CODE = [path for folder in ("src", "tests", "tools", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]

# Each is an archaism, a private metaphor or a personification for which plain English has a standard word. Matched in
# lower case, `_` and `-` as blanks, so names of functions and files count as well.
WORDS = {
    "whoever": "the user who, the process that",
    "whom": "a relative clause without it",
    "what becomes of": "how it ends",
    "anew": "again",
    "tidings": "event, notification",
    "aftermath": "consequences",
    "strays?": "orphan",
    "wish(?:es|ed)?": "request",
    "told(?! apart)": "received, logged, reported",
    r"(?<!cannot )(?<!can )(?<!could )tell(?! apart)": "report, log, return",
    "tells": "reports, logs, shows",
    "hears?": "receives",
    "heard": "received",
    "said": "reported, sent, written",
    "bells?": "notification, subscription",
    "so long": "while",
    "in vain": "without success",
    "lanes?": "queue",
    "riddles?": "comment that explains",
    r"rooms\b|\b(?:a|an|each|every|one|this|the|no|another|other) room(?! for\b)": "package",
    "room (?:of|name)": "package",
    "doors?": "authenticator, entry",
    "doorsteps?": "pending connection",
    "whereabouts": "server configuration",
    "glances?": "fingerprint, read",
    "minded": "has followers",
    "tames?": "limits, wraps",
    "(?:is|are|was|were) none (?:of (?:these|them|this)|is)\\b": "is not one of",
    "takes? (?:(?:it|them) )?up(?! to)": "starts, resumes, handles",
    "gives? (?:(?:it|them) )?up on": "abandons, stops retrying",
    "lest": "so that … not",
    "whence": "from where",
    "henceforth": "from now on",
    "naught|nought": "nothing",
    "(?:go|goes|went|going) along": "is sent along",
}

ANY_WORD = re.compile(r"\b(?:" + "|".join(f"({word})" for word in WORDS) + r")\b")

# Where one of these is right: the path, the match, and the reason.
EXCEPTIONS = {
    ("src/shellrunner/store/sqlite/schema.py", "minded"): "the name of a column in earlier schemas",
    ("LICENSE", "whom"): "the text of the licence is not ours",
}

TEXT_SUFFIXES = {
    ".py", ".js", ".mjs", ".css", ".html", ".svg", ".md", ".toml", ".yaml", ".yml", ".json", ".service", ".socket",
}  # fmt: skip
# Generated, test data, and the list itself.
NOT_CHECKED = {"package-lock.json", "sse_vectors.json", "test_language.py"}

VAGUE_CONSTANTS = {
    "AGAIN", "BREATH", "BY", "ELSE", "ELSEWHERE", "FAR", "FEW", "LINGER", "LONELY", "LONGEST", "MOST", "NAP",
    "OFTEN", "PATIENCE", "RARELY", "SELDOM", "SHORTEST", "SOON", "STEP", "WAYS",
}  # fmt: skip


def texts() -> Iterator[tuple[str, str]]:
    """Yield the path of each text file of the repository, and its text."""
    folders = ("src", "tests", "tools", "benchmarks", "docs", ".ci", ".github")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    for path in (*found, *sorted(ROOT.glob("*"))):
        relative = path.relative_to(ROOT)
        is_text = path.suffix in TEXT_SUFFIXES or path.parent.name in (".ci", "unit_files") or path.name == "LICENSE"
        is_generated = not {"vendor", "__pycache__", "_build"}.isdisjoint(relative.parts)
        if path.is_file() and is_text and not is_generated and path.name not in NOT_CHECKED:
            yield str(relative), path.read_text()


def lower(text: str) -> str:
    """Return the text as the patterns expect it."""
    return re.sub(r"[_-]", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)).lower()


def findings(path: str, text: str) -> Iterator[str]:
    """Yield each forbidden word in the file and in its path, with what to write instead."""
    content = lower(f"{path}\n{text}")
    for match in ANY_WORD.finditer(content):
        if (path, match[0]) not in EXCEPTIONS:
            line = max(1, content.count("\n", 0, match.start()))
            yield f"{path}:{line}: `{match[0]}`: {[*WORDS.values()][(match.lastindex or 1) - 1]}"


def test_no_text_has_a_forbidden_word() -> None:
    """No text, comment, name or file name has a word of WORDS, apart from EXCEPTIONS."""
    assert [finding for path, text in texts() for finding in findings(path, text)] == []


def test_exceptions_are_needed() -> None:
    """Each exception names a file that still has the word."""
    contents = dict(texts())
    assert [key for key in EXCEPTIONS if key[1] not in lower(contents.get(key[0], ""))] == []
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(
    "text",
    [
        "whoever asks",
        "def told():",
        "it was told_again",
        "class DoorBell:",
        "# each room",
        "The log tells all",
        "is none of them",
    ],
)
def test_a_forbidden_word_would_be_noticed(text: str) -> None:
    """Forbidden words are found in prose, in snake case and in camel case."""
    assert list(findings("x.py", text))


@pytest.mark.parametrize(
    "text",
    [
        "they cannot be told apart",
        "one cannot tell",
        "to tell apart",
        "as soon as there is room for it",
        "else:",
        "moved",
    ],
)
def test_good_english_is_allowed(text: str) -> None:
    """Idioms that a technical writer would use are not findings."""
    assert list(findings("x.py", text)) == []


def test_no_class_name_is_defined_twice() -> None:
    """No two classes in src have one name, apart from wire documents, which are named as the values they show."""
    modules = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not (path.parent.name == "wire" and "documents" in path.stem):
                modules[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


def test_no_module_name_stands_in_two_packages() -> None:
    """No two modules in src have one name, apart from handlers and CLI verbs, which are named as their subject.

    What does the same in both back ends has one name in both.
    """
    modules = defaultdict(list)
    for path in MODULES:
        folders = (SOURCE / "web" / "handlers", SOURCE / "cli" / "commands", SOURCE / "store" / "postgres")
        is_named_by_subject = any(path.is_relative_to(folder) for folder in folders)
        if path.stem not in ("__init__", "__main__") and not is_named_by_subject:
            modules[path.stem].append(str(path.relative_to(SOURCE)))
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


def places(pattern: str) -> list[str]:
    """Return the place of each match of the pattern in our Python files."""
    return [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for path in CODE
        for match in re.finditer(pattern, path.read_text(), re.MULTILINE)
    ]


def test_no_function_is_called_of() -> None:
    """No function in src, tests, tools or benchmarks is called `of`: its name says what it does."""
    assert places(r"^\s*(?:async )?def _*of_*\(") == []


def test_constants_say_what_they_limit() -> None:
    """No constant is named for an amount or a feeling: limits are `max_…`, waits `…_timeout` or `…_delay`."""
    assert places(rf"^\s*(?:\w+, )*_*(?:{'|'.join(VAGUE_CONSTANTS)})(?:, \w+)*(?:: [^=\n]+)? = ") == []


def test_vague_names_would_be_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function `of` and vague constants are found, annotated and in tuples too."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "class A:\n    async def of(self):\n        pass\n\n\n_AGAIN: Final = 1\nX, FAR = 1, 2\nMOST = 3\n"
    )
    monkeypatch.setattr("tests.test_language.CODE", [probe])
    monkeypatch.setattr("tests.test_language.ROOT", tmp_path)
    for test in (test_no_function_is_called_of, test_constants_say_what_they_limit):
        with pytest.raises(AssertionError):
            test()
    assert len(places(r"^\s*(?:\w+, )*_*(?:AGAIN|FAR|MOST)(?:: [^=\n]+)? = ")) == 3
