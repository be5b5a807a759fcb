"""How often a token may be used, and from where."""

from typing import Any

import pytest
from pydantic import ValidationError

from shellrunner.access import Identity
from shellrunner.access.networks import check_network
from shellrunner.access.request_rate import RequestRates
from shellrunner.config import Token
from shellrunner.errors import NetworkNotAllowed, TooManyRequests
from tests.support.tokens import hash_of


def token(name: str = "ci", **shares: Any) -> Token:
    return Token(name=name, hash=hash_of(name), scopes=["read"], **shares)


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def accepted(rates: RequestRates, owner: Token, number: int = 100) -> int:
    """Return how many of so many requests at once are accepted."""
    for done in range(number):
        try:
            rates.take(owner)
        except TooManyRequests:
            return done
    return number


@pytest.mark.parametrize(
    ("shares", "at_once", "in_ten_seconds"),
    [
        ({"requests_per_second": 3}, 3, 3),
        ({"requests_per_second": 2.5}, 3, 3),
        ({"requests_per_second": 0.5}, 1, 1),
        ({"requests_per_second": 0.5, "requests_burst": 20}, 20, 5),
        ({"requests_per_second": 100, "requests_burst": 1}, 1, 1),
        ({"requests_per_second": 0}, 100, 100),
        ({}, 100, 100),
    ],
    ids=str,
)
def test_a_burst_and_then_the_rate(shares: dict[str, Any], at_once: int, in_ten_seconds: int) -> None:
    """The burst is accepted at once, and what was used up comes back with the rate, up to the burst."""
    clock, ci = Clock(), token(**shares)
    rates = RequestRates(clock)
    rates.configure([ci])
    assert accepted(rates, ci) == at_once
    clock.now += 10
    assert accepted(rates, ci) == in_ten_seconds


def test_who_waits_as_long_as_asked_is_accepted() -> None:
    """The wait is whole seconds that suffice, requests that were refused do not count, and tokens do not share."""
    clock, ci, other = Clock(), token(requests_per_second=0.4), token("other", requests_per_second=0.4)
    rates = RequestRates(clock)
    rates.configure([ci, other])
    assert accepted(rates, ci) == 1
    for _ in range(50):
        with pytest.raises(TooManyRequests) as refused:
            rates.take(ci)
        assert (refused.value.retry_after, refused.value.members) == (
            3, {"share": "requests_per_second", "limit": 0.4},
        )  # fmt: skip
    assert accepted(rates, other) == 1
    clock.now += 3
    assert accepted(rates, ci) == 1


def test_a_reload_empties_no_bucket_and_fills_none() -> None:
    """What was used up stays so under the same limit; another limit, or none, applies at once."""
    clock, ci = Clock(), token(requests_per_second=0.01)
    rates = RequestRates(clock)
    rates.configure([ci])
    assert accepted(rates, ci) == 1
    rates.configure([ci])
    assert accepted(rates, ci) == 0
    faster = token(requests_per_second=5)
    rates.configure([faster])
    assert accepted(rates, faster) == 5
    rates.configure([token()])
    assert accepted(rates, token()) == 100


ALLOWED = {
    "192.0.2.7": [["192.0.2.7"], ["192.0.2.0/24"], ["::ffff:192.0.2.0/120"], ["2001:db8::/32", "192.0.2.7/32"], None],
    "::ffff:192.0.2.7": [["192.0.2.0/24"]],
    "2001:db8::7": [["2001:db8::/32"], ["2001:db8::7"], None],
    "unix": [["unix"], ["10.0.0.0/8", "unix"], None],
    None: [None],
}
REFUSED = {
    "192.0.2.7": [["192.0.2.8"], ["198.51.100.0/24"], ["::/0"], ["unix"]],
    "2001:db8::7": [["0.0.0.0/0"], ["2001:db9::/32"], ["::ffff:0:0/96"]],
    "::1": [["127.0.0.0/8"]],
    "unix": [["127.0.0.0/8", "::/0", "0.0.0.0/0"]],
    "": [["0.0.0.0/0", "unix"]],
    None: [["0.0.0.0/0", "::/0", "unix"]],
}


@pytest.mark.parametrize(("table", "is_allowed"), [(ALLOWED, True), (REFUSED, False)], ids=["allowed", "refused"])
def test_a_token_is_used_from_its_networks_only(table: dict[str | None, list[Any]], *, is_allowed: bool) -> None:
    """An address counts in its canonical form; a Unix socket is no network, and what is not known is refused."""
    for address, all_networks in table.items():
        for networks in all_networks:
            identity = Identity("token:ci", frozenset(), token(networks=networks))
            if is_allowed:
                check_network(identity, address)
                continue
            with pytest.raises(NetworkNotAllowed) as refused:
                check_network(identity, address)
            assert refused.value.members == {"share": "networks"}, (address, networks)
    check_network(Identity("uid:0", frozenset()), None)


@pytest.mark.parametrize(
    "shares",
    [
        {"networks": []},
        {"networks": ["10.0.0.1/8"]},
        {"networks": ["localhost"]},
        {"networks": [""]},
        {"networks": ["unix:/run/x"]},
        {"requests_per_second": -1},
        {"requests_per_second": float("inf")},
        {"requests_burst": 0},
        {"requests_burst": 5},
        {"requests_burst": 5, "requests_per_second": 0},
        {"max_queued": -1},
        {"max_running": 1.5},
    ],
    ids=str,
)
def test_a_share_that_means_nothing_is_refused(shares: dict[str, Any]) -> None:
    """A network with host bits, a name, a negative number: each is an error of the configuration."""
    with pytest.raises(ValidationError):
        token(**shares)
