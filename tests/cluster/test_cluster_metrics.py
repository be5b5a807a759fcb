"""The metrics of a node that shares its history: hosts, transactions, notifications."""

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.cluster.conftest import TwoNodes
from tests.support.service import Service
from tests.support.waiting import until
from tests.test_metrics import OF_SEVERAL_HOSTS


async def scrape(node: Service) -> dict[tuple[str, str], float]:
    """Return the samples of a node by name and the value of their first label."""
    _, _, body = await node.get("/metrics")
    families = list(parse_text(body.decode()))
    return {(s.name, next(iter(s.labels.values()), "")): s.value for family in families for s in family.samples}


@pytest.mark.heavy
async def test_a_node_counts_hosts_transactions_and_notifications(nodes: TwoNodes) -> None:
    """Both are open until one is drained; what one node commits is a notification at the other."""
    before = await scrape(nodes.b)
    assert before["shellrunner_hosts", "open"] == 2
    await nodes.a.ask("POST", "/api/workers/b/drain")
    await nodes.a.submit("true")

    async def has_followed() -> bool:
        now = await scrape(nodes.b)
        hosts = [
            now["shellrunner_hosts", state] for state in ("open", "drained", "api_only", "stopped", "unreachable")
        ]
        notes = "shellrunner_notifications_total", "received"
        return hosts == [1, 1, 0, 0, 0] and now[notes] > before[notes]

    await until(has_followed)
    after = await scrape(nodes.a)
    assert {name for name, _ in after} >= OF_SEVERAL_HOSTS
    for kind in ("read", "write"):
        assert after["shellrunner_database_transactions_total", kind] > 0
    assert after["shellrunner_notifications_total", "sent"] > 0
    assert after["shellrunner_database_retries_total", ""] >= 0
    assert 0 <= after["shellrunner_lease_age_seconds", ""] < 60
