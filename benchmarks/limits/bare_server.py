"""The limit of serving: a bare aiohttp handler that returns bytes that are ready, or the request's document.

Run by file as `python bare_server.py BODY_FILE`; prints its port.
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web


def application(body: bytes) -> web.Application:
    """Return an application that serves `body` at GET /, and the request's own document at POST /."""

    async def ready(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json(), status=202)

    app = web.Application()
    app.router.add_get("/", ready)
    app.router.add_post("/", echo)
    return app


async def serve(body: bytes) -> None:
    """Serve on a free port of loopback until terminated."""
    runner = web.AppRunner(application(body), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]).read_bytes()))
