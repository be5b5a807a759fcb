"""What commands and the test appended to the ledger of one round."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One line; `at` is its number, the order of all lines."""

    at: int
    letter: str
    nonce: str
    token: str  # "ID:CLAIM"
    value: str


class Ledger:
    """The lines, by job."""

    def __init__(self, path: Path) -> None:
        """Read all lines."""
        self.entries = [Entry(at, *line.split(" ", 3)) for at, line in enumerate(path.read_text().splitlines())]
        self._by_nonce: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self._by_nonce[entry.nonce].append(entry)

    def of_job(self, nonce: str, letters: str) -> list[Entry]:
        """Return the job's lines with one of these letters, in order."""
        return [entry for entry in self._by_nonce[nonce] if entry.letter in letters]

    def of_attempt(self, nonce: str, token: str, letters: str) -> list[Entry]:
        """Return the lines of one attempt."""
        return [entry for entry in self.of_job(nonce, letters) if entry.token == token]
