"""Import aiohttp without loading the system's CA certificates.

aiohttp loads them twice when it is imported, which takes 40 ms and 1 MB, even if nothing is sent over https. All of
our TLS connections pass an SSL context; aiohttp's default contexts then trust no certificate. Only our programs do
this, not `shellrunner.client`: a program that uses it may use aiohttp for something else. Must not know what is sent.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager


def import_aiohttp() -> None:
    """Import aiohttp, unless it has been imported before."""
    with _without_ca_certificates():
        import aiohttp  # noqa: F401, PLC0415


@contextmanager
def _without_ca_certificates() -> Iterator[None]:
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # uncovers the inherited method
