"""Where callbacks may lead: names that resolve into the machine or its network, once or only the second time."""

import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ThreadedResolver, web
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import ValidationError

from shellrunner.callbacks import delivery
from shellrunner.callbacks.addresses import AddressPolicy, is_special
from shellrunner.callbacks.delivery import DeliveryOptions
from shellrunner.config import CallbackSettings
from shellrunner.model import Callback, Delivery
from tests.support.histories import opened
from tests.test_callbacks import NO_RETRIES, SECRET, Receiver, calling, done, settled, tried

NAME = "hooks.example.org"
REASON = "has only private or other special addresses, which callbacks.networks does not name"


class Resolver(AbstractResolver):
    """Answers each question with the next of `answers`, a list of addresses, then with the last; counts `asked`."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses, as the system's resolver does."""
        self.asked += 1
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Do nothing."""


SPECIAL = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.0.1", "100.64.0.1", "100.127.255.255", "169.254.169.254", "169.254.0.1", "192.0.0.1", "192.0.2.1"),
    *("192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("ff02::1", "100::1", "2001::1", "2001:db8::1", "2001:2::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1"),
    *("5f00::1", "64:ff9b:1::1", "::ffff:0:127.0.0.1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
)
PUBLIC = (
    *("8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "192.167.255.255", "100.63.255.255", "100.128.0.1"),
    *("223.255.255.255", "2606:4700::1111", "2a00:1450:4001:80b::200e", "2001:4860:4860::8888", "::ffff:8.8.8.8"),
    "64:ff9b::808:808",
)


def test_a6_special_addresses_are_recognized_however_they_are_written() -> None:
    """A6: private, loopback, link-local, metadata, reserved ones, also within IPv6; public ones are not."""
    assert [address for address in SPECIAL if not is_special(ip_address(address))] == []
    assert [address for address in PUBLIC if is_special(ip_address(address))] == []


def test_a6_what_the_configuration_names_is_allowed_and_nothing_beside_it() -> None:
    """A6: a network, an address as host, loopback for localhost; metadata only by itself."""

    def allows(host: str, address: str, *networks: str) -> bool:
        return AddressPolicy(networks).allows(host, ip_address(address))

    assert all(allows(NAME, address) for address in PUBLIC)
    assert not any(allows(NAME, address) for address in SPECIAL)
    assert allows(NAME, "10.1.2.3", "10.0.0.0/8")
    assert allows(NAME, "::ffff:10.1.2.3", "10.0.0.0/8")
    assert allows(NAME, "fd12::1", "fd00::/8")
    assert not allows(NAME, "192.168.1.1", "10.0.0.0/8", "fd00::/8")
    assert not allows(NAME, "169.254.169.254", "169.254.0.0/16")
    assert allows(NAME, "169.254.169.254", "169.254.169.254/32")
    assert not allows(NAME, "fd00:ec2::254", "fd00::/8")
    assert not allows(NAME, "64:ff9b::a9fe:a9fe", "169.254.0.0/16", "64:ff9b::/96")
    assert allows("10.1.2.3:9000", "10.1.2.3")
    assert not allows("10.1.2.3:9000", "10.1.2.4")
    assert allows("[::1]:9000", "::1")
    assert allows("[::ffff:127.0.0.1]", "127.0.0.1")
    assert all(allows(name, address) for name in ("localhost", "a.localhost:1") for address in ("127.0.0.1", "::1"))
    assert not any(allows(name, address) for name in ("localhost:9000", "localhost.") for address in PUBLIC)
    assert not allows("localhost:9000", "10.0.0.1", "10.0.0.0/8")
    assert not any(allows(name, "127.0.0.1") for name in ("localhost.example.org", "notlocalhost"))
    assert allows("notlocalhost.", "8.8.8.8")


@pytest.mark.heavy
async def test_a6_a_name_that_leads_inside_is_not_called(tmp_path: Path) -> None:
    """A6: a host of the configuration that resolves to a special address gets nothing, and the job shows why."""
    async with opened(tmp_path) as store, Receiver() as receiver:
        host = f"{NAME}:{receiver.port}"
        for address in ("127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "64:ff9b::7f00:1", "169.254.169.254"):
            async with calling(store, host, schedule=NO_RETRIES, resolver=Resolver([address])):
                callback = await settled(store, await done(store, f"http://{host}/"))
            assert callback == Callback(Delivery.FAILED, 1, f"{host} {REASON}"), address
        assert receiver.came == []
        async with calling(store, host, networks=["127.0.0.0/8"], resolver=Resolver(["127.0.0.1"])):
            assert (await settled(store, await done(store, f"http://{host}/"))).state is Delivery.DELIVERED
        assert receiver.came[0].headers["Host"] == host


@pytest.mark.parametrize("name", ["0x7f000001", "0x7f.1", "127.1", "2130706433", "127.0.0.1."])
async def test_a6_what_the_systems_resolver_takes_for_loopback_is_not_called(name: str) -> None:
    """A6: even if such a host were in the configuration, the address that it means would be checked, or refused."""
    async with Receiver() as receiver:
        host = f"{name}:{receiver.port}"
        options = DeliveryOptions(AddressPolicy([]), ThreadedResolver(), ssl.create_default_context())
        error = await delivery.deliver(options, f"http://{host}/", host, b"{}", {})
        assert error in {f"{host} {REASON}", f"{host} is not a valid host name"}
        assert receiver.came == []


async def test_a6_each_try_resolves_once_and_connects_to_what_was_checked(tmp_path: Path) -> None:
    """A6: a name that changes between check and connection (DNS rebinding) has no second chance within one try."""
    async with opened(tmp_path) as store, Receiver(500) as receiver:
        host, resolver = f"{NAME}:{receiver.port}", Resolver(["127.0.0.1"], ["127.0.0.2"])
        async with calling(store, host, networks=["127.0.0.1/32"], resolver=resolver):
            job = await done(store, f"http://{host}/")
            await tried(store, job, 3)
        callback = (await store.job(job)).callback
        assert callback is not None
        assert callback.error == f"{host} {REASON}"
        assert len(receiver.came) == 1
        assert resolver.asked in {callback.tries, callback.tries + 1}  # another may have begun at the end


async def test_a6_of_several_addresses_only_the_allowed_are_tried(tmp_path: Path) -> None:
    """A6: an answer that mixes allowed and special addresses leads to the allowed ones."""
    async with opened(tmp_path) as store, Receiver() as receiver:
        host, resolver = f"{NAME}:{receiver.port}", Resolver(["127.0.0.2", "::1", "127.0.0.1"])
        async with calling(store, host, networks=["127.0.0.1"], resolver=resolver):
            assert (await settled(store, await done(store, f"http://{host}/"))).state is Delivery.DELIVERED
        assert len(receiver.came) == 1


async def test_a6_a_redirect_leads_nowhere(tmp_path: Path) -> None:
    """A6: a receiver that redirects to the machine itself makes nobody else be called."""
    async with opened(tmp_path) as store, Receiver() as inner:

        async def inside(request: Any) -> Any:
            return web.Response(status=307, headers={"Location": inner.url("/latest/meta-data/")})

        async with Receiver(inside) as outer, calling(store, outer.host, inner.host, schedule=NO_RETRIES):
            callback = await settled(store, await done(store, outer.url()))
        assert callback.error.endswith("a redirect, which is not followed")
        assert (len(outer.came), len(inner.came)) == (1, 0)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "127.0.0.1.", "1:9", "[1::2::3]"]
)
def test_a6_an_address_has_one_spelling_in_the_configuration(host: str) -> None:
    """A6: other spellings of IPv4 addresses, which resolvers understand, are no hosts."""
    with pytest.raises(ValidationError, match="an address in its usual form"):
        CallbackSettings(hosts=[host], secret=SECRET)
