"""The TLS certificate and its key: TLS 1.3 only, reloadable while connections are open.

Owned by the composition root. Must not know what is served with it.
"""

import ssl
from pathlib import Path
from typing import Self

from shellrunner.config import ServerSettings, secret_files
from shellrunner.errors import ConfigError


class Certificate:
    """A reloadable certificate. `context` is for every listener; new connections get the certificate last read."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read both files.

        Raises:
            ConfigError: they are not a certificate and its key, or others can read the key.
        """
        self._chain, self._key = chain, key
        self.context = self._current = self._read()
        self.context.sni_callback = self._use_current

    @classmethod
    def from_settings(cls, server: ServerSettings) -> Self | None:
        """Read the certificate that the settings name; None if they name none.

        Raises:
            ConfigError: as above.
        """
        return cls(server.tls_cert, server.tls_key) if server.tls_cert and server.tls_key else None

    def reload(self) -> None:
        """Read both files again; open connections keep the certificate that they started with.

        Raises:
            ConfigError: as above; the previous certificate stays in use.
        """
        self._current = self._read()

    def _use_current(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for every client, also one that sends no server name. Loading the new certificate into the listening
        # context would leave the old one beside it if its key is of another type (SSL_CTX_use_certificate(3)).
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        try:
            # Read here first, because ssl does not report which of the two it cannot read.
            secret = {self._key: None}
            for path in (self._chain, self._key):
                secret_files.check_rereadable(path)
                if b"PRIVATE KEY-----" in path.read_bytes():  # also where the chain's file has one
                    secret[path] = None
            wrong = [error for path in secret for error in secret_files.check_private(path, "the private key")]
            context = _context(self._chain, self._key)
        except ssl.SSLError as error:
            reason = (error.reason or "they cannot be read").replace("_", " ").lower()
            wrong = [f"server.tls_cert {self._chain} and server.tls_key {self._key} do not match: {reason}"]
        except OSError as error:
            wrong = [f"{error.filename}: cannot be read: {error.strerror}"]
        if wrong:
            raise ConfigError("\n".join(wrong))
        return context


def _context(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # as Mozilla's "modern"; 1.3 itself has no weak ciphers
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(chain, key, password=_no_password)
    return context


def _no_password() -> str:
    raise ConfigError(
        "server.tls_key is encrypted, and a service cannot ask for the password: store the key unencrypted"
    )
