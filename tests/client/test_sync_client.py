"""The client that blocks, its types, and what importing them imports."""

import asyncio
import inspect
import re
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shellrunner.client
from shellrunner.client import AttemptEnded, Client, ClientError, JobEnded, OutputReceived, SyncClient
from shellrunner.wire import documents
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLIC = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", PUBLIC)
async def test_every_method_is_there(name: str) -> None:
    """A method of `Client` is one of `SyncClient`, with the same parameters and description, and is no coroutine."""
    ours, theirs = getattr(SyncClient, name), getattr(Client, name)
    assert [str(each).partition(":")[0] for each in inspect.signature(ours).parameters.values()] == [
        str(each).partition(":")[0] for each in inspect.signature(theirs).parameters.values()
    ]
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert not inspect.iscoroutinefunction(ours)


async def test_both_clients_are_made_alike() -> None:
    """Their constructors have the same parameters, but for what sends the requests."""
    ours, theirs = (inspect.signature(kind).parameters for kind in (SyncClient, Client))
    assert [*ours, "make_transport"] == [*theirs]
    assert [each.default for each in ours.values()] == [theirs[name].default for name in ours]


async def test_a_program_runs_follows_types_and_lists(shared: Service) -> None:
    """Requests are made while a stream is read; an iterator may be left; input may come from a list."""
    assert await asyncio.to_thread(_use, shared.url) == "cancelled"


def _use(url: str) -> str | None:
    with SyncClient(url) as client:
        assert client.run("echo out; exit 3")["exit_code"] == 3
        job = client.submit("cat", stdin={"stream": True}, labels={"test": "blocking"})
        assert client.pipe_stdin(job["job_id"], [b"a\n", b"b\n"])
        events = list(client.follow(job["job_id"]))
        assert b"".join(event.data for event in events if isinstance(event, OutputReceived)) == b"a\nb\n"
        assert isinstance(events[-1], JobEnded)
        retried = client.submit("exit 3", retries={"max": 1})
        ends = [event.end for event in client.follow(retried["job_id"]) if isinstance(event, AttemptEnded)]
        assert [(end["attempt"], end["exit_code"]) for end in ends] == [(1, 3)]

        slow = client.submit("echo first; read line; echo $line; sleep 1000", stdin={"stream": True})
        for event in client.follow(slow["job_id"]):
            if isinstance(event, OutputReceived) and event.data == b"first\n":
                assert client.open_stdin(slow["job_id"]).write(b"second\n")
            elif isinstance(event, OutputReceived):
                assert event.data == b"second\n"
                assert not client.status(slow["job_id"])["done"]
                client.cancel(slow["job_id"])
                break
        assert [row["job_id"] for row in client.jobs(label="test:blocking")] == [job["job_id"]]
        with pytest.raises(ClientError, match="there is no job"):
            client.job(10**17)
        with pytest.raises(ValueError, match="tail"):
            client.output(1, tail=1, follow=True)
        return client.wait(slow["job_id"])["ending"]


async def test_threads_may_share_a_client(shared: Service) -> None:
    """Twenty jobs that are run by eight threads over one client each get their own result."""
    assert await asyncio.to_thread(_share, shared.url) == [f"{n}\n" for n in range(20)]


def _share(url: str) -> list[str]:
    with SyncClient(url) as client, ThreadPoolExecutor(8) as threads:
        return [result["stdout"] for result in threads.map(lambda n: client.run(f"echo {n}"), range(20))]


def _imported(code: str, path: Path) -> set[str]:
    """Return the modules that a program has imported, those of shellrunner and what takes long to import."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    return set(done.stdout.split())


async def test_importing_the_client_imports_nothing_of_the_server(tmp_path: Path) -> None:
    """It loads its own package and four small modules; no event loop, no HTTP library, no pydantic."""
    loaded = _imported("from shellrunner.client import Client, SyncClient", tmp_path)
    ours = {name for name in loaded if name.partition(".")[0] == "shellrunner"}
    others = {name for name in ours if not name.startswith("shellrunner.client")}
    assert others == {"shellrunner", "shellrunner.ascii_text", "shellrunner.errors", "shellrunner.peer_credentials"}
    assert len(ours) <= 20
    assert not loaded & {"asyncio", "aiohttp", "pydantic", "aiosqlite", "click"}


@pytest.mark.heavy
async def test_importing_a_type_imports_nothing_that_serves(tmp_path: Path) -> None:
    """The type of a document brings pydantic and the model, no package of the server."""
    loaded = _imported("from shellrunner.client import Job, Result", tmp_path)
    packages = {name.split(".")[1] for name in loaded if name.startswith("shellrunner.")}
    assert {"wire", "model"} <= packages
    assert not packages & {"web", "store", "supervisor", "service", "keeper", "access", "config", "cli", "callbacks"}
    assert not loaded & {"aiohttp", "aiosqlite"}


async def test_every_document_that_a_method_returns_has_a_public_type() -> None:
    """The types in the signatures of `Client`, and those of their keys, are in `shellrunner.client`."""
    hints = {"documents": documents, "ssl": typing}
    returned = {str(inspect.signature(getattr(Client, name)).return_annotation) for name in PUBLIC}
    named = {word for text in returned for word in re.findall(r"documents\.(\w+)", text)}
    assert {"Job", "Status", "Result"} <= named
    found = set()
    while named:
        found |= (kind := {named.pop()})
        keys = typing.get_type_hints(getattr(documents, kind.pop()), hints)
        named |= {word for key in keys.values() for word in re.findall(r"documents\.(\w+)", str(key))} - found
    assert found <= set(shellrunner.client.__all__)
    assert all(getattr(shellrunner.client, name) is getattr(documents, name) for name in found)


async def test_a_name_that_does_not_exist_is_an_error() -> None:
    """The module has no attribute that it does not list."""
    with pytest.raises(AttributeError, match="Nothing"):
        _ = shellrunner.client.Nothing
