"""The removal of service workers that another program registered when it listened at this address.

A browser asks for the script of a service worker again, past the worker, whenever its pages are opened. Every path is
answered with a script that unregisters the worker and reloads its pages. Used by the security middleware before the
Host is checked, since it must also work under names that are not accepted. Must not know tokens or resources.
"""

from typing import Final

from aiohttp import web

# Sent with every request for the script of a service worker; a page can neither set it nor leave it out.
HEADER: Final = "Service-Worker"
_SCRIPT: Final = """\
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) await caches.delete(name);
  await self.registration.unregister();
  for (const page of await self.clients.matchAll({ type: "window" })) page.navigate(page.url).catch(() => {});
})()));
"""
_HEADERS: Final = {
    "Content-Type": "text/javascript; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    # The pages of that program, which the browser would show from its cache. Not "storage", which would unregister
    # the worker before this script has reloaded its pages.
    "Clear-Site-Data": '"cache"',
    "Service-Worker-Allowed": "/",  # else the browser keeps a worker whose scope is above its script
}


def response_to(request: web.Request) -> web.Response | None:
    """Return the script if the request is one for the script of a service worker."""
    if request.method != "GET" or request.headers.get(HEADER) != "script":
        return None
    return web.Response(text=_SCRIPT, headers=_HEADERS)
