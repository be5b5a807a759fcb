"""What the tests of settings share: an environment without any, and files to read."""

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the settings of the user who runs it."""
    others = {"STATE_DIRECTORY", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"}
    for name in list(os.environ):
        if name.upper().startswith("SHELLRUNNER_") or name in others:
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Write a file, which as shipped nobody else can read, and return its path."""

    def write(text: Any, name: str = "config.toml", mode: int = 0o600) -> Any:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write
