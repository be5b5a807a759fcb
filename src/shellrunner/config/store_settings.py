"""Settings of `[store]`: where the history is, in a directory or in PostgreSQL, and how much of it is retained.

Validated by `config.load`. Must not know how a history is opened, nor import what connects to PostgreSQL.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from shellrunner.config.jobs import GIB, service_user
from shellrunner.config.types import ZERO_IS_NONE, AbsolutePath, CredentialPath, Section

# PostgreSQL's documentation, "Connection URIs". Stricter than libpq, which takes what stands before an unencoded @ or
# / in a password for the name of a host: that name would be shown, and resolved. The patterns are compiled where
# there is a URL, and not in each program that reads settings.
_POSTGRES_URL: Final = (
    r"postgres(?:ql)?://"
    r"(?:(?P<user>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@)?"
    r"(?P<hosts>{host}(?:,{host})*)"
    r"(?P<database>/[^:@/?#\s]*)?"
    r"(?:\?(?P<parameters>{parameter}(?:&{parameter})*))?".format(
        host=r"(?:\[[0-9A-Fa-f:.]+\]|[^:@/?#\[\],\s]*)(?::[0-9]{1,5})?", parameter=r"[a-z_]+=[^&?#@\s]*"
    )
)
_BAD_ESCAPE: Final = r"%(?![0-9A-Fa-f]{2})|%00|[\x00-\x1f\x7f]"
_PRIVATE_PARAMETER: Final = r"(?:^|&)(?:password|sslpassword|oauth_client_secret)=[^&]"
_EXPECTED: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def postgres_url(url: str) -> str:
    """Require the URL of a PostgreSQL database, or nothing. No error repeats any of it: it may have a password."""
    if not url:
        return url
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"must be the URL of a PostgreSQL database: {_EXPECTED}")
    if re.fullmatch(_POSTGRES_URL, url) is None or re.search(_BAD_ESCAPE, url):
        raise ValueError(
            f"must have the form {_EXPECTED}?PARAMETER=VALUE; in the user, the password and the values, "
            "%, @, :, /, ?, #, & and blanks are written as %25, %40, %3A, %2F, %3F, %23, %26 and %20"
        )
    return url


def has_password(url: object) -> bool:
    """Return whether a URL has a password, or may have one because it is none."""
    found = re.fullmatch(_POSTGRES_URL, url) if isinstance(url, str) else None
    if found is None:
        return bool(url)
    return bool(found["password"]) or re.search(_PRIVATE_PARAMETER, found["parameters"] or "") is not None


def _default_state_dir() -> Path:
    # systemd.exec(5): STATE_DIRECTORY may list several directories, separated by colons.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    # XDG Base Directory Specification: a relative path must be ignored.
    state_home = os.environ.get("XDG_STATE_HOME", "")
    home = os.environ.get("HOME", "")
    home = home if home.startswith("/") else service_user().pw_dir
    base = Path(state_home) if state_home.startswith("/") else Path(home, ".local/state")
    return base / "shellrunner"


class StoreSettings(Section):
    """Where the history is stored, and how much of it is retained. None: no limit.

    With a URL the history and the output of ended jobs are in PostgreSQL, and every node has the same: its retention
    applies to all. `state_dir` then has what is this host's: running jobs, and output that is not handed over yet.
    """

    state_dir: AbsolutePath = Field(
        default_factory=_default_state_dir,
        description="directory of history and output; default: $STATE_DIRECTORY, else $XDG_STATE_HOME/shellrunner, "
        "else ~/.local/state/shellrunner",
    )
    url: Annotated[str, AfterValidator(postgres_url)] = Field(
        "",
        repr=False,
        description=f"PostgreSQL database for the history of several hosts: {_EXPECTED}; empty: SQLite",
    )
    url_file: CredentialPath | None = Field(
        None, description="file with that URL and nothing else, or the name of a credential"
    )
    delivery: Literal["pgqueuer", "table"] = Field(
        "pgqueuer",
        description="with a URL: what offers queued jobs to hosts, pgqueuer or a plain table; the same on all nodes",
    )
    retention_days: Annotated[float | None, ZERO_IS_NONE] = Field(
        30.0, ge=0, description="maximum age of done jobs in days; 0: no limit"
    )
    retention_jobs: Annotated[int | None, ZERO_IS_NONE] = Field(
        100_000, ge=0, description="maximum number of done jobs; 0: no limit"
    )
    retention_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(
        10 * GIB, ge=0, description="maximum bytes of output of done jobs; 0: no limit"
    )
    min_free_bytes: int = Field(
        1 << 20,
        ge=0,
        description="jobs are refused while fewer bytes of the disk are free, beside 4 MiB that are always reserved; "
        "with a URL: this node starts none",
    )

    @field_validator("url_file")
    @classmethod
    def _refuse_both(cls, file: Path | None, before: ValidationInfo) -> Path | None:
        if file is not None and before.data.get("url", "invalid"):
            raise ValueError("must not be set together with store.url")
        return file

    @property
    def database(self) -> str:
        """The URL without password and parameters, as it may be shown; empty if there is none."""
        found = re.fullmatch(_POSTGRES_URL, self.url) if self.url else None
        if found is None:
            return ""
        user = f"{found['user']}@" if found["user"] else ""
        return f"postgresql://{user}{found['hosts']}{found['database'] or ''}"
