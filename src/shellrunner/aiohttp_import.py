"""Import aiohttp without the certificates of the authorities that the system trusts.

aiohttp reads them twice when it is imported: 40 ms and 1 MB, for nothing where nothing is sent over https. Whatever
speaks TLS here passes a context of its own; aiohttp's default ones then trust nobody. Only our programs do this, not
`shellrunner.client`: in the programs that use it, others may use aiohttp. Must not know what is sent.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager


def import_aiohttp() -> None:
    """Import it, unless it has been imported before."""
    with _no_authorities():
        import aiohttp  # noqa: F401, PLC0415


@contextmanager
def _no_authorities() -> Iterator[None]:
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # that of its base is back
