"""Lists over HTTP: filters, sort, fields, pages, cursors, and what is rejected."""

import itertools
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shellrunner.errors import BadCursor
from shellrunner.model import End, Ending
from shellrunner.model.filters import Filters
from shellrunner.store.pagination import Order, SortKey
from shellrunner.web.handlers import cursors, lists
from tests.support.site import Site

LISTS = (("jobs", "job_id"), ("statuses", "status_id"), ("results", "result_id"))


async def shown(site: Site, query: str, of: str = "jobs", key: str = "job_id") -> list[int]:
    """Read the ids of the whole list, page by page."""
    found: list[int] = []
    link: str | None = f"/api/{of}?{query}"
    while link:
        answer = await site.get(link)
        assert answer.status == 200, answer.body
        found += [row[key] for row in answer.json[of]]
        link = answer.json["next"]
        assert link is None or answer.headers["Link"] == f'<{link}>; rel="next"'
    return found


def ended(second: int, duration: float | None = 1.0, code: int | None = 0, ending: Ending = Ending.EXITED) -> End:
    """Return an ending at a second of 2016-08-19T15:31."""
    completed = 1_471_620_660_000 + second * 1000
    detail = "nobody saw it" if ending is Ending.LOST else None
    return End(ending, completed, exit_code=code, started=completed - 500, duration=duration, detail=detail)


@pytest.fixture
async def five(site: Site) -> Site:
    """Jobs 1 to 3 done, 4 lost, 5 queued."""
    await site.done(end=ended(1, 0.5), command="Обработать ЁЛКУ", priority=5, labels={"env": "prod", "a": "b:c"})
    await site.done(b"words", end=ended(3, 2.0, code=3), command="make Straße", priority=-1)
    await site.done(end=ended(2, 2.0, code=3), command="ls -l", labels={"env": "prod"})
    await site.done(end=ended(4, None, None, Ending.LOST), command="true")
    await site.submit(command="make love", labels={"env": "test"})
    return site


FILTERS_AND_SORTS: list[tuple[str, list[int]]] = [
    ("q=елку", []),
    ("q=ёлк", [1]),
    ("q=О", [1]),
    ("q=STRASSE", [2]),
    ("q=strasse&exit_code=3", [2]),
    ("q=%22", []),
    ("q=", [5, 4, 3, 2, 1]),
    ("q=make%00", []),
    ("q=%F0%9F%92%A9%F0%9F%92%A9%F0%9F%92%A9", []),
    ("q=%ED%A0%80", []),
    ("q=%FF%FE%FD", []),
    ("state=done", [4, 3, 2, 1]),
    ("state=queued,running,waiting", [5]),
    ("ending=exited", [3, 2, 1]),
    ("ending=lost,cancelled", [4]),
    ("exit_code=0", [1]),
    ("exit_code=3,255", [3, 2]),
    ("queue=default", [5, 4, 3, 2, 1]),
    ("queue=other", []),
    ("label=env:prod", [3, 1]),
    ("label=env:prod&label=a:b:c", [1]),
    ("label=env:prod&label=env:test", []),
    ("label=env:", []),
    ("completed_after=2016-08-19T15:31:02Z", [4, 3, 2]),
    ("completed_after=2016-08-19T15:31:02.0001Z", [4, 2]),
    ("completed_before=2016-08-19T15:31:02Z", [1]),
    ("completed_before=2016-08-19t15:31:02.0001z", [3, 1]),
    ("completed_after=2016-08-19T18:31:02%2B03:00&completed_before=2016-08-19T10:31:04-05:00", [3, 2]),
    ("created_after=2020-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z", [5, 4, 3, 2, 1]),
    ("created_before=0001-01-01T00:00:00Z", []),
    ("min_duration=2", [3, 2]),
    ("min_duration=0.5&max_duration=0.5", [1]),
    ("max_duration=1e0", [1]),
    ("sort=created", [1, 2, 3, 4, 5]),
    ("sort=priority", [2, 3, 4, 5, 1]),
    ("sort=-priority", [1, 5, 4, 3, 2]),
    ("sort=queue,-priority", [1, 5, 4, 3, 2]),
    ("sort=priority,created&state=done", [2, 3, 4, 1]),
]


@pytest.mark.heavy
async def test_filters_and_sorts(five: Site) -> None:
    """A list has exactly the jobs that match all filters, in order, in one page or many; statuses like jobs."""
    for query, expected in FILTERS_AND_SORTS:
        assert await shown(five, query) == expected, query
        assert await shown(five, f"{query}&limit=1") == expected, query
        assert await shown(five, query, "statuses", "status_id") == expected, query


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("completed", [1, 3, 2, 4]),
        ("-completed", [4, 2, 3, 1]),
        ("duration", [1, 2, 3, 4]),
        ("-duration", [3, 2, 1, 4]),
        ("-duration,started", [3, 2, 1, 4]),
        ("exit_code", [1, 2, 3, 4]),
        ("-exit_code,completed", [3, 2, 1, 4]),
        ("ending,-duration,completed", [3, 2, 1, 4]),
    ],
)
async def test_results_have_more_to_sort_by(five: Site, sort: str, expected: list[int]) -> None:
    """Results can be sorted by ending, exit code and duration, null last; the other lists cannot."""
    assert await shown(five, f"sort={sort}", "results", "result_id") == expected
    assert await shown(five, f"sort={sort}&limit=1", "results", "result_id") == expected
    for of in ("jobs", "statuses"):
        answer = await five.get(f"/api/{of}?sort={sort}")
        assert (answer.status, answer.json["parameter"]) == (400, "sort")
        assert repr(sort.split(",", maxsplit=1)[0].removeprefix("-")) in answer.json["detail"]


@pytest.mark.heavy
async def test_every_sort_has_pages(five: Site) -> None:
    """By whatever key a list is sorted, in both directions, its pages are the list; no job is missing or twice."""
    for name in ("b", "a", None, "Z"):
        await five.done(end=ended(9), command="named", name=name, priority=9)
    for resource in (lists.JOBS, lists.RESULTS):
        id_key = dict(LISTS)[resource.name]
        for sort in [f"{sign}{key.value}" for key in resource.sort_keys for sign in ("", "-")]:
            whole = await shown(five, f"sort={sort}", resource.name, id_key)
            assert len(set(whole)) == len(whole) == (8 if resource is lists.RESULTS else 9)
            assert await shown(five, f"sort={sort}&limit=4", resource.name, id_key) == whole, sort
    assert await shown(five, "sort=name&limit=2&state=done") == [9, 7, 6, 1, 2, 3, 4, 8]
    assert await shown(five, "sort=-name&limit=2&state=done") == [6, 7, 9, 8, 4, 3, 2, 1]


async def test_results_are_those_that_are_kept(five: Site) -> None:
    """The list of results has no job that is not done, and none whose result was deleted."""
    assert (await five.ask("DELETE", "/api/results/2")).status == 204
    assert await shown(five, "", "results", "result_id") == [4, 3, 1]
    assert await shown(five, "state=queued", "results", "result_id") == []
    assert await shown(five, "q=make", "results", "result_id") == []


async def test_fields(five: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have the selected fields only, and output that is not shown is not read."""
    answer = await five.get("/api/jobs?fields=job_id,command&limit=1")
    assert answer.json["jobs"] == [{"job_id": 5, "command": "make love"}]
    rest = await five.get(answer.json["next"])
    assert [row.keys() for row in rest.json["jobs"]] == [{"job_id", "command"}]
    rows = (await five.get("/api/results?fields=stdout,result_id&exit_code=3")).json["results"]
    assert rows == [{"result_id": 3, "stdout": ""}, {"result_id": 2, "stdout": "words"}]
    whole = (await five.get("/api/results")).json["results"]
    monkeypatch.setattr(type(five.store), "output", None)
    names = [name for name in whole[0] if name not in ("stdout", "stderr")]
    rows = (await five.get(f"/api/results?fields={','.join(names)}")).json["results"]
    assert rows == [{name: row[name] for name in names} for row in whole]


async def test_truncated_is_known_without_reading(site: Site) -> None:
    """`truncated` is the same whether the output beside it is shown or not."""
    await site.done(b"x" * 5000)
    await site.done(b"x" * 4096, b"x" * 4096)
    whole = (await site.get("/api/results")).json["results"]
    figures = (await site.get("/api/results?fields=truncated")).json["results"]
    assert [row["truncated"] for row in whole] == [row["truncated"] for row in figures] == [False, True]


async def test_paging_is_stable(site: Site) -> None:
    """Pages have every job that existed all the time exactly once, while others are added and deleted."""
    for _ in range(10):
        await site.submit()
    seen: list[int] = []
    link: str | None = "/api/jobs?limit=3&state=queued,done"
    while link:
        answer = await site.get(link)
        seen += [job["job_id"] for job in answer.json["jobs"]]
        link = answer.json["next"]
        assert link is None or f'<{link}>; rel="next"' == answer.headers["Link"]
        await site.submit()
        if seen[-1] == 8:
            await site.ask("POST", "/api/jobs/8/cancel")
            assert (await site.ask("DELETE", "/api/jobs/8")).status == 204
    assert seen == list(range(10, 0, -1))


async def test_pages_end_early(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends when it is large, whatever its limit, and the next one continues."""
    monkeypatch.setattr("shellrunner.web.handlers.lists.MAX_PAGE_SIZE", 200_000)
    asked = {"argv": ["/bin/true", "'" * 10_000]}  # as a command for a shell, in JSON, seven times that
    for _ in range(5):
        await site.submit(**asked)
        claim = await site.simulated_runner().claim()
        await site.runners[-1].finish()
    assert claim.job_id == 5
    for path, key in (("jobs", "job_id"), ("results", "result_id")):
        seen: list[int] = []
        link = f"/api/{path}?limit=1000"
        while link:
            answer = await site.get(link)
            assert len(answer.body) < 201_000
            assert len(answer.json[path]) == (1 if len(seen) == 4 else 2)
            seen += [row[key] for row in answer.json[path]]
            link = answer.json["next"]
        assert seen == [5, 4, 3, 2, 1]


BAD_PARAMETERS = [
    *("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=%D9%A1", "limit=1&limit=2", "LIMIT=5"),
    *(
        "state=finished",
        "state=",
        "state=done,",
        "ending=done",
        "ending=exited,exited,x",
        "state=done&state=done",
    ),
    *("exit_code=256", "exit_code=-1", "exit_code=01", "exit_code=1;2", f"exit_code={','.join(['1'] * 257)}"),
    *(
        "queue=",
        "queue=a/b",
        f"queue={'q' * 64}",
        "label=env",
        "&".join(["label=env:x"] * 33),
        "label=:x",
        "label=a%20b:c",
        f"label=a:{'x' * 256}",
        "label=a:x%00",
    ),
    "label=" + "&label=".join(f"a:{number}" for number in range(33)),
    *("created_after=2016-08-19", "created_before=2016-08-19T15:31:02", "completed_after=2016-02-30T00:00:00Z"),
    *("completed_before=2016-08-19T15:31:02+00:00", "created_after=1471620660", "created_before="),
    *("min_duration=-1", "max_duration=x", "min_duration=inf", "max_duration=1e999", "min_duration=nan"),
    *("sort=", "sort=--created", "sort=created,-created", "sort=stdout", "sort=created,", "sort=Created"),
    *(
        "fields=",
        "fields=job_id,x",
        "fields=" + ",".join(["job_id"] * 1001),
        "fields=job_id,,command",
        "colour=red",
        "q=a&q=b",
    ),
    *("cursor=x", "cursor=", "cursor=%FF", "cursor=%D0%B9", f"cursor={'x' * 4000}"),
]


@pytest.mark.heavy
async def test_bad_parameters(site: Site) -> None:
    """An unknown parameter or invalid value is 400 that names it and the valid values."""
    for query, (of, _) in itertools.product(BAD_PARAMETERS, LISTS):
        name = query.partition("=")[0]
        answer = await site.get(f"/api/{of}?{query}")
        assert answer.status == 400, query
        assert answer.json["parameter"] == name, query
        assert name in answer.json["detail"] or name == "fields", query


async def test_cursor_of_another_list(site: Site) -> None:
    """A cursor with other filters or another sort is 400; limit and fields may change."""
    for _ in range(3):
        await site.submit()
    link = (await site.get("/api/jobs?limit=1&state=queued&sort=created")).json["next"]
    for same in ("limit=1", "fields=job_id&limit=2"):
        assert (await site.get(link.replace("limit=1", same))).json["jobs"][0]["job_id"] == 2
    for old, new in (
        ("state=queued", "state=done"),
        ("state=queued", "q=true&state=queued"),
        ("sort=created", "sort=-created"),
        ("sort=created", "sort=created,priority"),
    ):
        answer = await site.get(link.replace(old, new))
        assert (answer.status, answer.json["type"]) == (400, "/problems/bad-cursor")
        assert answer.json["parameter"] == "cursor"


async def test_next_keeps_what_was_asked_for(site: Site) -> None:
    """`next` repeats the client's parameters, also those given twice and those that need escaping."""
    for _ in range(2):
        await site.submit(command="a & b", labels={"a": "1&2", "b": "x"})
    query = "q=%26%20B&label=a:1%262&label=b:x&limit=1&fields=job_id"
    answer = await site.get(f"/api/jobs?{query}")
    link = answer.json["next"]
    for part in ("q=%26+B", "label=a:1%262", "label=b:x", "limit=1", "fields=job_id"):
        assert part in link.replace("?", "&").split("&")
    assert (await site.get(link)).json == {"jobs": [{"job_id": 1}], "next": None}


async def test_lists_have_versions(five: Site) -> None:
    """A page is 304 for a client that has its current version, and 200 after a change."""
    path = "/api/statuses?q=make&sort=priority"
    tag = (await five.get(path)).headers["ETag"]
    assert (await five.get(path, headers={"If-None-Match": tag})).status == 304
    assert (await five.ask("POST", "/api/jobs/5/cancel")).status == 202
    assert (await five.get(path, headers={"If-None-Match": tag})).status == 200


SORT = (Order(SortKey.QUEUE, False), Order(SortKey.DURATION, True), Order(SortKey.ENDING, False))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("mail")
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))


@pytest.mark.heavy
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents | st.lists(scalars, max_size=4), st.booleans())
@example(["mail", 1.5, "exited", 3], True)
@example(["mail", 1.5, [], 3], True)
@example(["mail", 1.5, {}, 3], True)
@example(["mail", 1e400, None, 5], True)
@example(["mail", float("nan"), None, 5], True)
@example(["mail", True, None, 5], True)
@example(["mail", None, None, 2**63], True)
@example(["\ud800", None, None, 2], True)
async def test_forged_cursors(site: Site, content: Any, signed: bool) -> None:
    """A forged cursor is a position in the list or 400, nothing else."""
    own = cursors.encode(Filters(with_result=True), SORT, ("mail", 1.5, None, 3))
    digest = json.loads(urlsafe_b64decode(f"{own}=="))[0]
    if signed and isinstance(content, list):
        content = [digest, *content]
    text = urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode()
    answer = await site.get(f"/api/results?sort=queue,-duration,ending&cursor={quote(text)}")
    if answer.status == 200:
        _, queue, duration, ending, job_id = content
        assert ending in {None, *Ending}
        assert queue is None or isinstance(queue, str)
        assert duration is None or type(duration) is float
        assert type(job_id) is int
    else:
        assert (answer.status, answer.json["type"]) == (400, "/problems/bad-cursor")


async def test_a_cursor_is_read_to_the_letter(five: Site) -> None:
    """A cursor that is shortened or has anything added is 400."""
    following = (await five.get("/api/jobs?limit=1")).json["next"]
    assert (await five.get(following)).status == 200
    for other in (f"{following}A", f"{following}==", f"{following}%0A", following[:-1], following.replace("=", "=!")):
        assert (await five.get(other)).json["type"] in {"/problems/bad-cursor", "/problems/bad-parameter"}


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: urlsafe_b64encode(data).decode()))
@example(urlsafe_b64encode(b"[" * 700).decode())
def test_noise_is_no_cursor(text: str) -> None:
    """Any other text is rejected as a cursor."""
    with pytest.raises(BadCursor):
        cursors.decode(text, Filters(), ())
