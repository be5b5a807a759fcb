"""The certificate and its key: TLS 1.3 only, and read anew while connections go on.

Owned by the composition root. Must not know what is served under it.
"""

import ssl
from pathlib import Path
from typing import Self

from shellrunner.config import ServerSettings, secret_files
from shellrunner.errors import ConfigError


class Certificate:
    """What shows clients who we are. `context` is for every listener; new connections get what was last read."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read both.

        Raises:
            ConfigError: they are no certificate and its key, or others can read the key.
        """
        self._chain, self._key = chain, key
        self.context = self._current = self._read()
        self.context.sni_callback = self._present

    @classmethod
    def of(cls, server: ServerSettings) -> Self | None:
        """Return the certificate that the settings name, if they name one.

        Raises:
            ConfigError: as above.
        """
        return cls(server.tls_cert, server.tls_key) if server.tls_cert and server.tls_key else None

    def reload(self) -> None:
        """Read both again; connections that are open keep what they began with.

        Raises:
            ConfigError: as above; then nothing has changed.
        """
        self._current = self._read()

    def _present(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for every client, also one that names no server. To load the new certificate into the context that
        # listens would leave the old one beside it if its key is of another type (SSL_CTX_use_certificate(3)).
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        try:
            # First by ourselves, because ssl does not say which of the two it cannot read.
            for path in (self._chain, self._key):
                secret_files.check_rereadable(path)
                path.read_bytes()
            wrong = [*secret_files.check_private(self._key, "the private key")]
            context = _context(self._chain, self._key)
        except ssl.SSLError as error:
            reason = (error.reason or "they cannot be read").replace("_", " ").lower()
            wrong = [f"server.tls_cert {self._chain} and server.tls_key {self._key} do not go together: {reason}"]
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
    raise ConfigError("server.tls_key is encrypted, and a service has nobody to ask for the password")
