"""Who may talk to a server of ours: one guard, which `govor serve` and `govor jobs serve` share.

Without a key a server answers programs on its own machine alone. A web page in a browser here is none of them, and can
reach loopback: by a request to 127.0.0.1, which names the page's origin, or by a name of its own that it has rebound to
127.0.0.1, which stands in Host. With a key the key is what keeps it out.
"""

import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from train.core.errors import GovorError
from train.serving.api_errors import ApiError
from train.serving.plain_requests import PlainRequests

AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/@?#]+))(?::[0-9]{1,5})?")
"""HOST[:PORT] as Host and Origin have it: group 1 is an IPv6 address, group 2 a name or an IPv4 address."""
OPEN_PATHS = re.compile(r"/health|/|/static/[\w.-]+")
"""What needs no key: the health, and the studio's bare page, which asks for the key and holds nothing of anybody's."""
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Access:
    """Who may talk to a server, as its command line says it; GovorError where an entry is no host or no origin."""

    key: str | None = None
    """What clients must show; None lets in every program on this machine."""
    hosts: Sequence[str] = ()
    """Names besides those of loopback that may stand in Host, without ports."""
    origins: Sequence[str] = ()
    """Web pages that may talk to it from a browser, as http://HOST[:PORT]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", sorted(map(_given_host, self.hosts)))
        object.__setattr__(self, "origins", sorted(map(_given_origin, self.origins)))


def guard(app: FastAPI, access: Access) -> None:
    """Answer 401 to clients without the key, or where there is none 403 to web pages that were not let in.

    /health and the studio's bare page need no key.
    """
    if access.key is not None:
        app.add_middleware(RequireKey, key=access.key)
    if access.origins:  # the browser lets a page read the answers; it asks first, and shows no key with that
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,  # browsers ask for it where a page of the internet reaches for this machine
            expose_headers=["retry-after", "x-request-id", "x-should-retry"],
        )
    if access.key is None:
        app.add_middleware(RefuseWebPages, hosts=access.hosts, origins=access.origins)
    app.add_middleware(PlainRequests)  # first, so that nobody sees a path otherwise than the routes do


class RequireKey:
    """Middleware that answers 401 to whatever comes without `Authorization: Bearer KEY`, but for OPEN_PATHS."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.expected = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authorization = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] == "lifespan" or OPEN_PATHS.fullmatch(scope["path"]) is not None
        scheme, _, key = authorization.strip().partition(b" ")
        if is_open or (scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self.expected)):
            await self.app(scope, receive, send)
            return
        message = "Incorrect API key provided." if authorization else "You didn't provide an API key."
        error = ApiError(401, f"{message} Send it as Authorization: Bearer KEY.", code="invalid_api_key")
        await error.response()(scope, receive, send)


class RefuseWebPages:
    """Middleware that answers 403 to a Host or an Origin that is neither this machine's nor one that was given."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self.hosts = hosts
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else self._refusal(Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await ApiError(403, refusal, code="foreign_web_page").response()(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        """What is wrong with the headers, for the client; None where they may pass."""
        alone = "Without an API key this server answers programs on its own machine alone"
        for authority in headers.getlist("host"):
            host = host_of(authority)
            if host is None or not (is_loopback(host) or host in self.hosts):
                return f"{alone}, not under the name {authority[:200]!r}: --allow-host NAME lets it in."
        for origin in headers.getlist("origin"):
            scheme, _, authority = origin.lower().partition("://")
            host = host_of(authority) if scheme in DEFAULT_PORTS else None
            if (host is None or not is_loopback(host)) and _without_default_port(origin) not in self.origins:
                return f"{alone}, not the web page {origin[:200]!r}: --allow-origin ORIGIN lets it in."
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine itself."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def host_of(authority: str) -> str | None:
    """The host of HOST[:PORT] in lower case, without an IPv6 address's brackets; None where it has no such form."""
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    host = match[1] or match[2].lower().removesuffix(".")
    return str(ip_address(host)) if _is_address(host) else host


def _given_host(text: str) -> str:
    """A host of the command line, as `host_of` gives it. An IPv6 address may come without its brackets."""
    bare = text.strip("[]")
    host = host_of(f"[{bare}]" if ":" in bare else bare)  # a port after a name makes it no IPv6 address
    if host is None or (":" in bare and not _is_address(host)):
        raise GovorError(f"--allow-host {text}: expected the name by which clients call this machine, without a port")
    return host


def _given_origin(text: str) -> str:
    """An origin of the command line as browsers write it."""
    scheme, separator, authority = text.lower().removesuffix("/").partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or host_of(authority) is None:
        raise GovorError(f"--allow-origin {text}: expected http://HOST or https://HOST, with :PORT where it has one")
    return _without_default_port(f"{scheme}://{authority}")


def _without_default_port(origin: str) -> str:
    origin = origin.lower()
    return origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], "\0"))
