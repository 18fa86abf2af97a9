"""Where a search index is and who is asking, taken apart so that no password travels in a URL."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from pipeline.errors import UserError
from pipeline.service.search_answers import spellings

_PORTS = {"http": 9200, "https": 443}


@dataclass(frozen=True)
class Address:
    """One node.

    Args:
        host: name or number, IPv6 without brackets.
        path: in front of the API, with a slash before it and none behind it; mostly empty.
        secure: TLS.
    """

    host: str
    port: int
    path: str
    secure: bool

    @property
    def url(self) -> str:
        """Without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Access:
    """Who is asking, and how the server shows who it is.

    Args:
        headers: with the credentials in it, if there are any.
        secrets: what must stand in no message.
        ca_certs: a file of certificates; None for those of the system.
    """

    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    ca_certs: str | None


def taken_apart(
    url: str, *, api_key: str | None, username: str | None, password: str | None, ca_certs: str | None
) -> tuple[list[Address], Access]:
    """Addresses and credentials.

    Args:
        url: ``https://host:9200``, with ``user:password@`` or a path if need be; several with commas between. Without
            a port it is 9200, with TLS 443.
        api_key: as the server gave it, in base64.
        username, password: go before those in ``url``.
        ca_certs: file of the certificates to trust.

    Raises:
        UserError: what cannot be an address, two ways to say who is asking, or a file that is not there.
    """
    parts = [_split(one) for one in re.split(r",(?=\s*https?://)", url)]
    given = next((p for p in parts if p.username or p.password), None)
    if given is not None and username is None and password is None:
        username, password = unquote(given.username or ""), unquote(given.password or "")
    if api_key and (username or password):
        raise UserError("the search index is given an API key and a password", "it takes one", "one of them")
    if ca_certs and not Path(ca_certs).is_file():
        raise UserError(
            f"{ca_certs}: no such file", "the certificates of the search index are to be in it", "its path"
        )
    addresses = [_address(p) for p in parts]
    if ca_certs and not all(a.secure for a in addresses):
        raise UserError(f"{addresses[0].url}: certificates without TLS", "", "https:// instead of http://")
    # Both clients would encode a password in their own way.
    headers = {}
    if api_key:
        headers["authorization"] = f"ApiKey {api_key}"
    elif username or password:
        both = base64.b64encode(f"{username or ''}:{password or ''}".encode()).decode()
        headers["authorization"] = f"Basic {both}"
    return addresses, Access(headers, spellings(username, password, api_key), ca_certs)


def _split(url: str) -> SplitResult:
    """Parts of a URL; one that is not understood is not shown: nobody knows which of it is a password."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
        bad = parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment
    except ValueError:
        bad = True
    if bad:
        raise UserError(
            "the address of the search index is none",
            "it is http:// or https://, host and port; # ? / @ in a password are written %23 %3F %2F %40",
            "http://HOST:9200",
        )
    return parts


def _address(parts: SplitResult) -> Address:
    return Address(
        parts.hostname or "",
        parts.port or _PORTS[parts.scheme],
        parts.path.rstrip("/"),
        parts.scheme == "https",
    )
