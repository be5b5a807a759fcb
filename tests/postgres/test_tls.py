"""TLS to PostgreSQL: the URL's parameters work, and a server that is not the right one is refused."""

import contextlib
import datetime
import ipaddress
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.command_line import Typist
from tests.support.postgres import UNSAFE, PostgresServer
from tests.support.service import Service
from tests.support.waiting import until

ADDRESS = "127.0.0.1"


class Authority:
    """Signs certificates; its own is in `file`."""

    def __init__(self, file: Path) -> None:
        self.file, self._key = file, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.stem)])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, address: str, certificate: Path, key_file: Path) -> None:
        """Write a certificate for an IP address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate.write_bytes(self._sign(name, key, alternative).public_bytes(serialization.Encoding.PEM))
        pem, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, no_password))

    def _sign(self, name: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            self._name, name, key.public_key(), x509.random_serial_number(), now - datetime.timedelta(days=1),
            now + datetime.timedelta(days=1),
        )  # fmt: skip
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())


@dataclass
class Encrypted:
    """A PostgreSQL that has a certificate of `right`; `wrong` has signed nothing of it."""

    server: PostgresServer
    right: Authority
    wrong: Authority

    def url(self, sslmode: str = "verify-full", authority: Path | None = None) -> str:
        """Return the URL of its database over TCP."""
        return f"{self.server.url(tcp=True)}?sslmode={sslmode}&sslrootcert={authority or self.right.file}"

    def present(self, address: str) -> None:
        """Have it present a certificate for this address from its next start on."""
        files = self.server.directory / "tls.crt", self.server.directory / "tls.key"
        self.right.issue(address, *files)
        for path in files:
            path.chmod(0o600)
            os.chown(path, postgres.owner().pw_uid, postgres.owner().pw_gid)


def _has_tls(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"SSL_CTX_new" in (directory / "postgres").read_bytes()
    return False


def _programs_with_tls() -> Path:
    installed = [postgres.required(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    found = next(filter(_has_tls, installed), None)
    if found is None:
        postgres.skip_or_fail("needs a PostgreSQL that was built with TLS, as Debian's is")
    return found


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    """Yield a server with TLS whose database has the tables."""
    server = PostgresServer(UNSAFE, listen=ADDRESS)
    server.programs = _programs_with_tls()
    made = Encrypted(server, Authority(tmp_path / "right.pem"), Authority(tmp_path / "wrong.pem"))
    made.present(ADDRESS)
    server.settings |= {
        "ssl": "on",
        "ssl_cert_file": str(server.directory / "tls.crt"),
        "ssl_key_file": str(server.directory / "tls.key"),
    }
    try:
        server.start()
        schema.migrate(server.url())
        yield made
    finally:
        server.end()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a node, still to be launched with a URL."""
    service = Service(tmp_path / "node", WORKER__NAME="one")
    service.program = [sys.executable, "-m", "shellrunner", "serve", "--port", "0"]
    yield service
    await service.clear_away()


@pytest.mark.heavy
async def test_all_connections_of_a_node_are_encrypted(encrypted: Encrypted, node: Service) -> None:
    """With verify-full and the right authority, a job runs, and no connection over TCP is without TLS."""
    await node.start(STORE__URL=encrypted.url())
    assert (await node.run("echo done"))["stdout"] == "done\n"
    with psycopg.connect(encrypted.server.url()) as db:
        used = db.execute("""SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
            WHERE client_addr IS NOT NULL GROUP BY ssl""").fetchall()
    assert [ssl for ssl, _ in used] == [True]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("wrong authority", "certificate verify failed"),
        ("wrong address", "does not match host name"),
        ("no authority", "does not exist"),
        ("no TLS", "server does not support SSL, but SSL was required"),
    ],
)
async def test_a_server_that_is_not_the_right_one_is_refused(
    tmp_path: Path, encrypted: Encrypted, node: Service, case: str, reason: str
) -> None:
    """The reason is reported by `migrate` and logged by a node, which waits; neither text has the password."""
    url = encrypted.url()
    if case == "wrong authority":
        url = encrypted.url(authority=encrypted.wrong.file)
    elif case == "no authority":
        url = encrypted.url(authority=tmp_path / "missing.pem")
    elif case == "wrong address":
        encrypted.present("127.0.0.9")
        encrypted.server.restart()
    else:
        encrypted.server.settings["ssl"] = "off"
        encrypted.server.restart()

    done = await Typist(tmp_path, SHELLRUNNER_STORE__URL=url).run("migrate")
    assert (done.code, reason in done.err) == (1, True), done.err
    node.settings["STORE__URL"] = url
    await node.launch()
    await until(lambda: [line for line in node.log if reason in json.dumps(line)], what="the node logs the reason")
    assert encrypted.server.password not in done.err + json.dumps(node.log)
