"""The page as it is served: its security policy and its caching."""

import gzip
import re

import pytest

from shellrunner.web.handlers.page import POLICY, read
from tests.support.site import Site

INDEX = read().index.decode()
ASSETS = read().assets


async def test_the_page_has_a_strict_policy_and_is_revalidated(site: Site) -> None:
    """The policy allows nothing inline, index.html has nothing inline, and its ETag gives 304."""
    answer = await site.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["Cache-Control"] == "no-cache"
    assert (await site.get("/", headers={"If-None-Match": answer.headers["ETag"]})).status == 304
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", INDEX)


@pytest.mark.heavy
async def test_assets_are_immutable(site: Site) -> None:
    """Every file is served under the version of all files, plain or compressed, and marked immutable."""
    for name, asset in ASSETS.items():
        path = f"/assets/{read().version}/{name}"
        plain = await site.ask("GET", path, skip_auto_headers=["Accept-Encoding"])
        assert (plain.status, plain.body) == (200, asset.content)
        assert "immutable" in plain.headers["Cache-Control"]
        assert "Content-Encoding" not in plain.headers
    packed = await site.get(path, headers={"Accept-Encoding": "br, gzip"}, auto_decompress=False)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


@pytest.mark.parametrize("path", ["/assets/{other}/main.js", "/assets/{own}/other.js", "/assets/{own}/page.py"])
async def test_nothing_else_is_served(site: Site, path: str) -> None:
    """Another version, or another name, gives 404."""
    asked = path.format(own=read().version, other="0" * 18)
    assert b"404 Not Found" in await site.raw(
        f"GET {asked} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nConnection: close\r\n\r\n"
    )


def test_every_file_that_the_page_names_exists() -> None:
    """Every file that index.html refers to is one of the assets."""
    named = re.findall(r'(?:href|src)="/([^"]+)"', INDEX)
    assert {name for name in named if name.removeprefix(f"assets/{read().version}/") not in ASSETS} == set()
    assert "main.js" in "".join(named)


async def test_another_site_may_link_to_the_page_only(site: Site) -> None:
    """Another site may link to the page but not load its files; with a wrong Host both are rejected."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert (await site.get("/", headers=foreign)).status == 200
    assert (await site.get(f"/assets/{read().version}/main.js", headers=foreign)).status == 403
    for path in ("/", f"/assets/{read().version}/main.js"):
        assert (await site.get(path, headers={"Host": "rebound.test"})).status == 421
