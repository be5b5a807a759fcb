"""Warnings about a dangerous start: the service logs them, and starts."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import AuthSettings, load
from shellrunner.service.startup_warnings import root_warnings, shared_user_warnings, store_warnings
from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.tokens import hash_of


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a service that has not been started yet."""
    made = new_service(tmp_path / "state")
    yield made
    await made.clear_away()


def warnings(service: Service) -> list[Any]:
    """Return the warnings in its log."""
    return [entry["event"] for entry in service.log if entry["level"] == "warning"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        ([], {"AIOHTTP_NO_EXTENSIONS": "1"}, "aiohttp uses its parser in Python"),
        (["-O"], {}, "python -O disables the assertions"),
    ],
    ids=["parser", "-O"],
)
async def test_a_less_safe_python_is_warned_of(
    service: Service, options: list[Any] | list[str], environment: dict[str, Any], words: str
) -> None:
    """Without aiohttp's parser in C, or without assertions, it logs just that warning first, and serves."""
    service.program = [sys.executable, *options, *service.program[1:]]
    service.environment = environment
    await service.start()
    found = [event for event in warnings(service) if "as root" not in event]
    assert [words in event for event in found] == [True] * (len(service.directories) if environment else 1)
    assert (
        service.log.index(next(entry for entry in service.log if entry["event"] == found[0])) < len(service.log) - 1
    )
    assert (await service.get("/healthz"))[0] == 200


async def test_an_ordinary_start_warns_of_nothing_but_root(service: Service) -> None:
    """A start with everything in place logs no warning; as root without tokens, one."""
    await service.start()
    assert [event.split(":")[0] for event in warnings(service)] == ["commands run as root"] * (
        (os.geteuid() == 0) * len(service.directories)
    )


def token(name: Any, run_as: Any = None) -> dict[str, Any]:
    """Return a token as config has it."""
    return {"name": name, "hash": hash_of(name), "scopes": ["run"], "run_as": run_as}


@pytest.mark.parametrize(
    ("tokens", "uid", "found"),
    [
        ([], 0, ["commands run as root: "]),
        ([], 1000, []),
        ([token("a", "alice"), token("b", "bob")], 0, []),
        ([token("a", "alice"), token("b"), token("c")], 0, ["commands of these tokens run as root: b, c; "]),
        ([token("b")], 1000, []),
    ],
)
def test_commands_as_root_are_warned_of(tokens: list[Any], uid: int, found: list[Any] | list[str]) -> None:
    """A start as root logs a warning unless every token has `run_as`; it names the tokens without."""
    auth = AuthSettings(tokens=tokens)
    texts = list(root_warnings(auth, uid))
    assert len(texts) == len(found)
    assert all(words.startswith(start) for words, start in zip(texts, found, strict=True))


@pytest.mark.parametrize(
    ("tokens", "uid", "names"),
    [
        ([], 1000, ""),
        ([token("a"), token("b")], 1000, ": a, b; "),
        ([token("a") | {"scopes": ["read"]}, token("b")], 1000, ": b; "),
        ([token("a") | {"scopes": ["read"]}], 1000, ""),
        ([token("a"), token("b")], 0, ""),
    ],
)
def test_commands_that_share_the_services_user_are_warned_of(tokens: list[Any], uid: int, names: str) -> None:
    """Tokens whose commands can read the service's files are named; as root, another warning says more."""
    texts = list(shared_user_warnings(AuthSettings(tokens=tokens), uid))
    assert [names in text for text in texts] == ([True] if names else [])


def test_settings_of_a_cluster_are_warned_of_on_one_host() -> None:
    """They are named where they have no effect, unless they are as shipped."""
    (found,) = store_warnings(load(worker={"name": "a", "queues": ["gpu"]}, cluster={"lost_after": 5}))
    assert found.endswith("without store.url: worker.name, worker.queues, cluster.lost_after")
    assert list(store_warnings(load(Path(__file__).parent.parent / "config.toml"))) == []


def test_a_history_that_is_not_used_is_warned_of(tmp_path: Path) -> None:
    """With a database, a history of before in the state directory is named."""
    settings = load(store={"url": "postgresql://a:hunter2@host/b", "state_dir": tmp_path}, worker={"queues": ["gpu"]})
    assert list(store_warnings(settings)) == []
    (tmp_path / "history.db").touch()
    (found,) = store_warnings(settings)
    assert found.startswith(f"{tmp_path}/history.db is not used")
    assert "hunter2" not in found
