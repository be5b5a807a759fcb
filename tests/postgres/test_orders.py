"""Orders between two stores of one history: carried out once, in their order, by the host that runs the job."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shellrunner.errors import KeeperSilent, NoSuchJob, NotRunning, StoreUnavailable
from shellrunner.model import CommandState, JobSpec, Retries, Terminal, TerminalSize
from shellrunner.store import Store
from shellrunner.store.hosts import Answer, HostOrder, OrderKind
from shellrunner.store.postgres.orders import order_rows
from shellrunner.store.postgres.orders.command_facts import KnownCommands
from shellrunner.store.postgres.orders.order_connection import OrderConnection
from shellrunner.store.postgres.orders.order_exchange import OrderExchange
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.tasks import background_task
from tests.postgres.racing import Nodes
from tests.support.histories import NOTHING, ended
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TTY = Terminal(rows=24, columns=80)


class Host:
    """A host that notes what it is to do; `gate` holds back what it does."""

    def __init__(self) -> None:
        self.orders: list[HostOrder] = []
        self.states: dict[int, CommandState] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def carry_out(self, order: HostOrder, /) -> Answer:
        """Note the order, and answer with what it says."""
        self.orders.append(order)
        await self.gate.wait()
        return {"did": order.content, "data": order.data.decode()}

    def command_state(self, job_id: int, /) -> CommandState | None:
        """Return what the test says."""
        return self.states.get(job_id)


@asynccontextmanager
async def running(nodes: Nodes) -> AsyncIterator[tuple[Host, int]]:
    """Run a job at the first node, which carries out orders; yield both."""
    claiming = nodes.claim(nodes.one)
    job = await nodes.two.add(SPEC)
    claim = await claiming
    assert claim.job_id == job.id
    host = Host()
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        yield host, job.id


def orders_of(store: Store) -> OrderExchange:
    """Return the orders of a store."""
    assert isinstance(store, PostgresStore)
    return store.orders


@pytest.mark.heavy
async def test_an_order_is_carried_out_by_the_host_of_the_job(nodes: Nodes) -> None:
    """With its content, its bytes and the token of the claim; the answer comes back, and no row is left."""
    async with running(nodes) as (host, job_id):
        answer = await orders_of(nodes.two).ask(job_id, OrderKind.INPUT, {"offset": 3}, b"typed")
        assert answer == {"did": {"offset": 3}, "data": "typed"}
        assert [(order.job_id, order.token) for order in host.orders] == [(job_id, nodes.claimed[0][1].token)]
        assert await orders_of(nodes.one).ask(job_id, OrderKind.INPUT) is None  # it runs here


@pytest.mark.heavy
async def test_what_is_typed_waits_sealed(nodes: Nodes, cluster: Cluster) -> None:
    """With the key of a job that has secrets, else with one of its own, which lasts until it has ended for good.

    The host reads it also in a later attempt, and if the database has forgotten the key meanwhile, as after a crash.
    """
    for spec in (SPEC, SPEC.model_copy(update={"env": {"A": "b"}})):
        number = len(nodes.claimed)
        claiming = nodes.claim(nodes.one)
        job = await nodes.two.add(spec.model_copy(update={"retries": Retries(max=1, delay=0.0)}))
        await claiming
        asked = asyncio.create_task(orders_of(nodes.two).ask(job.id, OrderKind.INPUT, {}, b"typed"))
        await until(lambda: cluster.execute("SELECT 1 FROM orders"), what="the order is written")
        ((waiting,),) = cluster.execute("SELECT data FROM orders")
        assert b"typed" not in waiting
        assert len(waiting) > len(b"typed")
        ((name, key),) = _keys(cluster)
        host = Host()
        async with background_task("orders", orders_of(nodes.one).serve(host)):
            assert (await asked or {})["data"] == "typed"
            cluster.execute("UPDATE job_keys SET key = sha256(key) WHERE name = %s", name)
            answer = await orders_of(nodes.two).ask(job.id, OrderKind.INPUT, {}, b"more")
            assert (answer or {})["data"] == "more"
            assert [order.data for order in host.orders] == [b"typed", b"more"]
            cluster.execute("UPDATE job_keys SET key = %s WHERE name = %s", key, name)
            claiming = nodes.claim(nodes.one)
            token = nodes.claimed[number][1].token
            assert await nodes.one.finish(job.id, token, ended(1), *NOTHING, next_attempt_at=0)
            assert (await claiming).attempt == 2
            answer = await orders_of(nodes.two).ask(job.id, OrderKind.INPUT, {}, b"again")
            assert (answer or {})["data"] == "again"
        assert _keys(cluster) == [(name, key)]
        assert await nodes.one.finish(job.id, nodes.claimed[number + 1][1].token, ended(), *NOTHING)
        assert _keys(cluster) == []


def _keys(cluster: Cluster) -> list[Any]:
    return cluster.execute("SELECT name, key FROM job_keys WHERE name <> 'idempotency'")


@pytest.mark.heavy
async def test_what_does_not_run_is_refused(nodes: Nodes) -> None:
    """A job that waits, is done, or does not exist is no order's."""
    orders = orders_of(nodes.two)
    with pytest.raises(NoSuchJob):
        await orders.ask(4711, OrderKind.PAUSE)
    job = await nodes.one.add(SPEC)
    with pytest.raises(NotRunning):
        await orders.ask(job.id, OrderKind.PAUSE)
    await nodes.claim(nodes.one)
    await nodes.finish_claimed()
    with pytest.raises(NotRunning):
        await orders.ask(job.id, OrderKind.PAUSE)


@pytest.mark.heavy
async def test_a_job_that_was_just_accepted_may_start_first(
    nodes: Nodes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that comes before another host has claimed the job waits for that; one to an older job does not."""
    looks: list[Any] = []
    add = order_rows.add

    def looked(*args: Any) -> Any:
        looks.append(found := add(*args))
        return found

    monkeypatch.setattr(order_rows, "add", looked)
    job = await nodes.two.add(SPEC)
    asked = asyncio.create_task(orders_of(nodes.two).ask(job.id, OrderKind.INPUT, {"offset": 0}, b"early"))
    await until(lambda: looks)
    host = Host()
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        await nodes.claim(nodes.one)
        assert await asked == {"did": {"offset": 0}, "data": "early"}
    assert [found.state for found in (looks[0], looks[-1])] == ["queued", "running"]
    queued = await nodes.two.add(SPEC)
    cluster.execute("UPDATE jobs SET created = created - 2000 WHERE id = %s", queued.id)
    looks.clear()
    with pytest.raises(NotRunning):
        await orders_of(nodes.two).ask(queued.id, OrderKind.INPUT)
    assert len(looks) == 1


@pytest.mark.heavy
async def test_orders_of_one_job_keep_their_order(nodes: Nodes) -> None:
    """Also those that are sent while others wait, and each is carried out once."""
    async with running(nodes) as (host, job_id):
        asked = [
            asyncio.create_task(orders_of(nodes.two).ask(job_id, OrderKind.INPUT, {"number": number}))
            for number in range(200)
        ]
        answers = await asyncio.gather(*asked)
        assert [order.content["number"] for order in host.orders] == [*range(200)]
        assert answers == [{"did": {"number": number}, "data": ""} for number in range(200)]


@pytest.mark.heavy
async def test_an_order_whose_job_has_ended_is_withdrawn(nodes: Nodes, cluster: Cluster) -> None:
    """Nobody takes it, and the one who asks is not kept waiting until it is too old."""
    claiming = nodes.claim(nodes.one)
    job = await nodes.two.add(SPEC)
    await claiming  # no orders are served
    asked = asyncio.create_task(orders_of(nodes.two).ask(job.id, OrderKind.PAUSE))
    await until(lambda: cluster.execute("SELECT 1 FROM orders"), what="the order is written")
    await nodes.finish_claimed()
    with pytest.raises(NotRunning):
        await asked
    assert cluster.execute("SELECT 1 FROM orders") == []


@pytest.mark.heavy
async def test_an_order_that_a_killed_server_has_taken_is_in_doubt(nodes: Nodes, cluster: Cluster) -> None:
    """The next server of the host says so: the order is not carried out again."""
    async with running(nodes) as (host, job_id):
        host.gate.clear()
        asked = asyncio.create_task(orders_of(nodes.two).ask(job_id, OrderKind.SIGNAL))
        await until(lambda: host.orders, what="it is taken")
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        cluster.execute("UPDATE orders SET taken_by = 'an earlier process'")
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        with pytest.raises(KeeperSilent):
            await asked
    assert len(host.orders) == 1


@pytest.mark.heavy
async def test_an_order_to_a_host_that_cannot_be_reached_is_refused(nodes: Nodes, cluster: Cluster) -> None:
    """At once, and nothing is written that could be carried out later."""
    async with running(nodes) as (host, job_id):
        cluster.execute("UPDATE hosts SET seen = seen - interval '1 day' WHERE name = 'one'")
        refused = 0
        for _ in range(5):
            try:
                await orders_of(nodes.two).ask(job_id, OrderKind.PAUSE)
            except KeeperSilent:
                refused += 1
            cluster.execute("UPDATE hosts SET seen = seen - interval '1 day' WHERE name = 'one'")
        assert refused == 5 - len(host.orders)
        assert refused > 0


@pytest.mark.heavy
async def test_old_orders_are_neither_taken_nor_kept(nodes: Nodes, cluster: Cluster) -> None:
    """Nobody waits for them any more."""
    async with running(nodes) as (host, job_id):
        cluster.execute(
            "INSERT INTO orders (key, asker, host, job, kind, content, created) "
            "SELECT 'k', 'two', 'one', %s, 'pause', '{}', clock_timestamp() - age "
            "FROM (VALUES (interval '11 s'), (interval '61 s')) AS ages (age)",
            job_id,
        )
        await orders_of(nodes.two).ask(job_id, OrderKind.PAUSE)
        assert len(host.orders) == 1
        await orders_of(nodes.one)._connection.run(order_rows.remove_old)
        assert cluster.execute("SELECT count(*) FROM orders") == [(1,)]


@pytest.mark.heavy
async def test_every_job_that_ends_at_once_costs_no_row(nodes: Nodes, cluster: Cluster) -> None:
    """What is known of a command is written only when it runs for longer, or is paused."""
    async with running(nodes) as (host, job_id):
        for _ in range(20):
            nodes.claim(nodes.one)
            job = await nodes.two.add(SPEC)
            host.states[job.id] = CommandState(1)
            await nodes.all_claimed([job])
            token = next(claim.token for _, claim in nodes.claimed if claim.job_id == job.id)
            assert await nodes.one.finish(job.id, token, ended(), *NOTHING)
        host.states[job_id] = CommandState(7, paused=True)
        nodes.one.command_changed(job_id)
        claimed = claimed_at(cluster, job_id)
        there = orders_of(nodes.two)
        await until(lambda: there.command_state(job_id, claimed).paused, what="the other node knows")
        assert cluster.execute("SELECT job, pid FROM commands") == [(job_id, 7)]


@pytest.mark.heavy
async def test_what_a_host_knows_of_a_command_is_known_at_every_node(nodes: Nodes, cluster: Cluster) -> None:
    """After a while without a change, at once after one, and no longer than it runs."""
    async with running(nodes) as (host, job_id):
        host.states[job_id] = CommandState(7)
        there, claimed = orders_of(nodes.two), claimed_at(cluster, job_id)
        await until(lambda: there.command_state(job_id, claimed) == CommandState(7), what="its pid is known")
        with nodes.two.watch(job_id) as subscription:
            host.states[job_id] = CommandState(7, paused=False, terminal=TerminalSize(5, 6))
            nodes.one.command_changed(job_id)
            while there.command_state(job_id, claimed) != host.states[job_id]:
                await asyncio.wait_for(subscription.wait(), 10)
        await nodes.finish_claimed()
        await until(lambda: there.command_state(job_id, claimed) == CommandState(), what="it is forgotten")
        await until(lambda: not cluster.execute("SELECT 1 FROM commands"), what="its row is removed")


async def test_what_was_written_while_the_host_thought_it_was_alone_is_known_soon(
    nodes: Nodes, cluster: Cluster
) -> None:
    """Once it has met the other node, that one reads what was not reported to it."""
    assert isinstance(nodes.one, PostgresStore)
    lease = nodes.one._parts.membership._lease
    await until(lambda: lease.peers, what="the host knows the other node")
    async with running(nodes) as (host, job_id):
        there, claimed = orders_of(nodes.two), claimed_at(cluster, job_id)
        host.states[job_id] = CommandState(7)
        lease.peers = ()
        nodes.one.command_changed(job_id)
        await until(lambda: there.command_state(job_id, claimed) == CommandState(7), what="its pid is known")


@pytest.mark.heavy
async def test_what_is_known_of_a_command_is_not_shown_for_the_next_attempt(
    nodes: Nodes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its pid nor the size of its terminal, until the host has reported of that attempt."""
    claiming = nodes.claim(nodes.one)
    job = await nodes.two.add(SPEC.model_copy(update={"retries": Retries(max=1, delay=0.0), "tty": TTY}))
    await claiming
    host, there = Host(), orders_of(nodes.two)
    host.states[job.id] = CommandState(7, paused=False, terminal=TerminalSize(5, 6))
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        first = claimed_at(cluster, job.id)
        await until(lambda: there.command_state(job.id, first) == host.states[job.id], what="it is known")
        with monkeypatch.context() as patch:
            patch.setattr(KnownCommands, "_read", unanswered)
            claiming = nodes.claim(nodes.one)
            assert await nodes.one.finish(job.id, nodes.claimed[0][1].token, ended(1), *NOTHING, next_attempt_at=0)
            host.states[job.id] = CommandState(8)
            await claiming
            second = claimed_at(cluster, job.id)
            assert second != first
            assert there.command_state(job.id, first) == CommandState(7, paused=False, terminal=TerminalSize(5, 6))
            assert there.command_state(job.id, second) == CommandState()
        nodes.one.command_changed(job.id)
        await until(lambda: there.command_state(job.id, second) == CommandState(8), what="its pid is known")


def claimed_at(cluster: Cluster, job_id: int) -> Any:
    ((claimed,),) = cluster.execute("SELECT claimed FROM jobs WHERE id = %s", job_id)
    return claimed


async def unanswered(*_: object) -> None:
    raise StoreUnavailable("the connection was lost")


@pytest.mark.heavy
async def test_one_client_types_into_a_job_whatever_node_it_is_at(nodes: Nodes, cluster: Cluster) -> None:
    """Until it leaves or is replaced, or its node is gone; who keeps no lease only asks."""
    one, two = (orders_of(node).writers for node in nodes.both)
    assert not (await two.acquire(1, "b", take=False, keep=False) and cluster.execute("SELECT 1 FROM writers"))
    assert await one.acquire(1, "a", take=False, keep=True)
    assert not await two.acquire(1, "b", take=False, keep=True)
    assert not await two.acquire(1, "b", take=False, keep=False)
    assert await two.acquire(2, "b", take=False, keep=True)
    assert await two.acquire(1, "b", take=True, keep=True)

    async def is_refused() -> bool:
        return not await one.acquire(1, "a", take=False, keep=True)

    await until(is_refused, what="the first one has learned that it was replaced")
    two.release(1, "b")

    async def is_accepted() -> bool:
        return await one.acquire(1, "a", take=False, keep=True)

    await until(is_accepted, what="there is no writer")
    cluster.expire("one")
    assert await two.acquire(1, "b", take=False, keep=True)


@pytest.mark.heavy
async def test_who_is_refused_changes_nothing_for_the_writer(nodes: Nodes, cluster: Cluster) -> None:
    """At its own node, too: the writer goes on, and leaves the job without one when it leaves."""
    writers = orders_of(nodes.two).writers
    assert await writers.acquire(1, "a", take=False, keep=True)
    for keep in (True, False):
        assert not await writers.acquire(1, "b", take=False, keep=keep)
    assert await writers.acquire(1, "b", take=True, keep=True)
    assert not await writers.acquire(1, "a", take=False, keep=True)
    writers.release(1, "a")
    writers.release(1, "b")
    await until(lambda: not cluster.execute("SELECT 1 FROM writers"), what="there is no writer")
    assert await writers.acquire(1, "a", take=False, keep=True)
    assert writers._held.keys() == {1}


@pytest.mark.heavy
async def test_a_writer_that_got_no_answer_leaves_no_lease(
    nodes: Nodes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may have given it the lease before the connection was lost."""
    writers, run = orders_of(nodes.two).writers, OrderConnection.run

    async def interrupted(connection: OrderConnection, unit: Any) -> Any:
        await run(connection, unit)
        raise StoreUnavailable("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(OrderConnection, "run", interrupted)
        with pytest.raises(StoreUnavailable):
            await writers.acquire(1, "a", take=False, keep=True)
    assert cluster.execute("SELECT name FROM writers") == [("a",)]
    writers.release(1, "a")
    await until(lambda: not cluster.execute("SELECT 1 FROM writers"), what="there is no writer")
    assert not writers._held


@pytest.mark.heavy
async def test_a_writer_that_comes_back_at_once_stays_it(nodes: Nodes, cluster: Cluster) -> None:
    """Its release, which has not begun yet, does not undo that."""
    writers = orders_of(nodes.two).writers
    assert await writers.acquire(1, "a", take=False, keep=True)
    for _ in range(20):
        writers.release(1, "a")
        assert await writers.acquire(1, "a", take=False, keep=True)
    await until(lambda: not writers._releasing, what="no release is under way")
    assert cluster.execute("SELECT name FROM writers") == [("a",)]


@pytest.mark.heavy
async def test_all_hosts_that_answer_are_asked_at_once(nodes: Nodes) -> None:
    """One that serves no orders is left out."""
    host = Host()
    async with background_task("orders", orders_of(nodes.one).serve(host)):
        await until(lambda: orders_of(nodes.two)._peers(), what="they know each other")
        assert await orders_of(nodes.two).ask_all(OrderKind.KEEPERS) == {"one": {"did": {}, "data": ""}}
        assert await orders_of(nodes.two).ask_host("one", OrderKind.KEEPERS, {"a": 1}) == {
            "did": {"a": 1},
            "data": "",
        }
    assert Counter(order.kind for order in host.orders) == {OrderKind.KEEPERS: 2}
