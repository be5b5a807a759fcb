"""The documentation as it is served: the texts for programs, and the HTML where the package has it."""

import base64
import gzip
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tools import llms

from shellrunner.web.handlers import documentation
from tests.support.site import Site

TEXTS = ("/llms.txt", "/llms-full.txt")
SCRIPT = 'document.body.dataset.theme = localStorage.getItem("theme")'
FILES = {
    "index.html": f"<script>{SCRIPT}</script><script src='_static/a.js'></script><p>Привет</p>",
    "tutorial/index.html": "<p>Tutorial</p>",
    "search.html": "<p>Search</p>",
    "_static/a.js": "let a;",
    "_static/a.css": "p { color: red }",
    "_images/a.png": "PNG",
    "_static/a.js.map": "{",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve the documentation from a folder that is not there yet, and return it."""
    found = tmp_path / "documentation"
    monkeypatch.setattr(documentation, "FOLDER", found)
    documentation.read_text.cache_clear()
    documentation.read_html.cache_clear()
    yield found
    documentation.read_text.cache_clear()
    documentation.read_html.cache_clear()


@pytest.fixture
def texts(folder: Path) -> dict[str, str]:
    """Generate the texts as every build does, and return them by name."""
    llms.write(llms.ROOT / "docs", folder)
    return llms.texts(llms.ROOT / "docs")


@pytest.fixture
def html(folder: Path) -> Path:
    """Add HTML, and a page beside its folder; return the folder."""
    for name, text in FILES.items():
        (folder / "html" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "html" / name).write_text(text)
    (folder / "secret.html").write_text("outside")
    return folder / "html"


async def raw(site: Site, target: str, *headers: str) -> bytes:
    """Request a target that no client would send as it is."""
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost:PORT", "Connection: close", *headers])
    return await site.raw(f"{head}\r\n\r\n")


@pytest.mark.parametrize("path", TEXTS)
async def test_a_text_is_served_to_everybody_and_revalidated(site: Site, texts: dict[str, str], path: str) -> None:
    """Both texts are plain text in UTF-8, plain or compressed, each with an ETag that gives 304."""
    plain = await site.ask("GET", path, skip_auto_headers=["Accept-Encoding"])
    packed = await site.get(path, headers={"Accept-Encoding": "gzip"}, auto_decompress=False)
    assert (plain.status, plain.body.decode()) == (200, texts[path.removeprefix("/")])
    assert gzip.decompress(packed.body) == plain.body
    assert plain.headers["ETag"] != packed.headers["ETag"]
    for answer in (plain, packed):
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["Vary"] == "Accept-Encoding"
    same = {"If-None-Match": packed.headers["ETag"], "Accept-Encoding": "gzip"}
    assert (await site.get(path, headers=same)).status == 304


@pytest.mark.parametrize("path", TEXTS)
async def test_without_a_build_the_problem_says_so(site: Site, folder: Path, path: str) -> None:
    """Where the texts were never generated, the answer is 404 with the reason."""
    answer = await site.get(path)
    assert (answer.status, answer.json["type"]) == (404, "/problems/not-found")
    assert "install shellrunner with pip" in answer.json["detail"]


@pytest.mark.parametrize("path", ["/docs/", "/docs/index.html", "/docs/tutorial/first-job.html"])
async def test_without_html_the_problem_says_where_to_read(site: Site, texts: dict[str, str], path: str) -> None:
    """Where the package was built without HTML, the answer is 404 and names the text and the repository."""
    answer = await site.get(path)
    assert (answer.status, answer.json["type"]) == (404, "/problems/not-found")
    assert "/llms-full.txt" in answer.json["detail"]
    assert "docs/ in the repository" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/docs/", "index.html"),
        ("/docs/index.html", "index.html"),
        ("/docs/tutorial/", "tutorial/index.html"),
        ("/docs/search.html?q=wait&check_keywords=yes&area=default", "search.html"),
        ("/docs/_static/a.js?v=0123abcd", "_static/a.js"),
        ("/docs/_static/a.css", "_static/a.css"),
        ("/docs/_images/a.png", "_images/a.png"),
    ],
)
async def test_a_file_of_the_html_is_served(site: Site, html: Path, path: str, name: str) -> None:
    """Pages and their files are served with their types and ETags; a folder has its index."""
    answer = await site.get(path)
    assert (answer.status, answer.body.decode()) == (200, FILES[name])
    assert answer.headers["Content-Type"] == documentation.TYPES[name.rpartition(".")[2]]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    same = {"If-None-Match": answer.headers["ETag"]}
    assert (await site.get(path, headers=same)).status == 304


async def test_the_path_without_a_slash_leads_to_the_pages(site: Site) -> None:
    """/docs redirects to /docs/, from which the links of the pages are relative."""
    answer = await site.get("/docs")
    assert (answer.status, answer.headers["Location"]) == (308, "/docs/")


async def test_a_page_runs_its_own_scripts_only(site: Site, html: Path) -> None:
    """The policy allows scripts of this server and the inline script by its hash, no others and no connections."""
    answer = await site.get("/docs/")
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["Content-Security-Policy"].split(";"))
    digest = base64.b64encode(sha256(SCRIPT.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert "connect-src" not in policy
    other = await site.get("/docs/tutorial/")
    assert "script-src 'self';" in other.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "target",
    [
        "/docs/../secret.html",
        "/docs/%2e%2e/secret.html",
        "/docs/..%2fsecret.html",
        "/docs/tutorial/../../secret.html",
        "/docs//index.html",
        "/docs/%2findex.html",
        "/docs/_static/a.js.map",
        "/docs/_static",
        "/docs/_static/",
        "/docs/index.html%00",
        "/docs/nothing.html",
    ],
)
async def test_nothing_else_is_served(site: Site, html: Path, target: str) -> None:
    """A path out of the folder, another spelling, a folder without an index or an unlisted type gives 404 or 400."""
    assert (await raw(site, target)).startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))


async def test_another_site_may_link_to_pages_but_not_load_their_files(site: Site, html: Path) -> None:
    """Another site may link to a page; its scripts are rejected, and with a wrong Host everything is."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    for path in ("/docs/", "/docs/index.html", "/docs/tutorial/"):
        assert (await site.get(path, headers=foreign)).status == 200
    for path in ("/docs/_static/a.js", "/docs/_static/a.css", "/docs/_images/a.png"):
        assert (await site.get(path, headers=foreign)).status == 403
    for path in (*TEXTS, "/docs", "/docs/", "/docs/_static/a.js"):
        assert (await site.get(path, headers={"Host": "rebound.test"})).status == 421


async def test_tokens_do_not_hide_the_documentation(site: Site, texts: dict[str, str]) -> None:
    """A wrong token is not looked at: the documentation is the same for everybody who may connect."""
    assert (await site.get("/llms.txt", headers={"Authorization": "Bearer wrong"})).status == 200
