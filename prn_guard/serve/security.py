"""Who may ask: bearer tokens, hosts, other sites' pages; and the headers of every answer."""

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final, final

from prn_guard.serve.errors import ForbiddenError, UnauthenticatedError

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
OPEN_PATHS: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Answered without a token: probes have none, and these tell nothing else."""

_BEARER: Final = re.compile(r"(?i:bearer) +([!-~]+) *")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


@final
class TokenCheck:
    """Compares bearer tokens with the one that is configured.

    Args:
        secret: the token; None where none is needed.
    """

    def __init__(self, secret: str | None) -> None:
        self._secret = None if secret is None else secret.encode("ascii")

    def check(self, authorization: str | None) -> None:
        """Refuse whoever does not show the token.

        The time that this takes does not depend on how much of a wrong token is right.

        Args:
            authorization: the `Authorization` header, or gRPC's metadata of that name.

        Raises:
            UnauthenticatedError: it is missing, or another one.
        """
        if self._secret is None:
            return
        match = _BEARER.fullmatch(authorization or "")
        shown = match[1].encode() if match else b""
        if not hmac.compare_digest(shown, self._secret):
            raise UnauthenticatedError(
                "A bearer token is needed: send the header 'Authorization: Bearer TOKEN'."
            )


def check_host(host: str | None, *, served: str) -> None:
    """Refuse names that a loopback server does not have.

    A site that makes its own name point to 127.0.0.1 (DNS rebinding) would otherwise have its page
    talk to this server as if it were its own.

    Args:
        host: the `Host` header.
        served: what the server is bound to.

    Raises:
        ForbiddenError: another name, or none.
    """
    match = _HOST.fullmatch(host or "")
    name = match[1].strip("[]").lower().rstrip(".") if match else ""
    if name in {"localhost", served.lower()}:
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    raise ForbiddenError(
        f"This server is not {(host or '')[:100]!r}. Without a token it answers to loopback "
        "addresses and 'localhost' only."
    )


def check_origin(origin: str | None, host: str | None) -> None:
    """Refuse what another site's page sends.

    Args:
        origin: the `Origin` header, which browsers add to whatever may change something.
        host: the `Host` header.

    Raises:
        ForbiddenError: the page is another site's.
    """
    if origin is None or origin.partition("://")[2].lower() == (host or "").lower():
        return
    raise ForbiddenError("The request was sent by another site's page.")
