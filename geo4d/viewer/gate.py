"""Who may connect to the interactive viewer: the page that it serves, under an address that no name server can forge.

Any page in any browser can open a websocket to this machine, so the headers that browsers write themselves are checked:

- `Host`, of every request, must be an address that the server listens at, with its port. On a loopback address that is
  localhost, 127.0.0.1, [::1] or the host that was given; elsewhere localhost, any IP address, or the host that was
  given. Names are refused beyond that, because whoever owns a name can point it at this machine after a browser has
  loaded his page (DNS rebinding).
- `Origin`, where there is one, must be the same address. Browsers always send it with a websocket; a program that is no
  browser sends none, and may connect: it could write any header, and is on a machine that can reach the port anyway.

Everything else gets the answer 403. A tunnel must therefore use the same port at both of its ends.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response

logger = logging.getLogger(__name__)
_opening = threading.Lock()


def refusal(hosts: list[str], origins: list[str], host: str, port: int) -> str | None:
    """Why a request with these headers is not let in to the server at host:port, in a few words; None: it is let in."""
    if len(hosts) != 1 or not _names_server(hosts[0].lower(), host.lower(), port):
        return f"the Host {' '.join(hosts)[:100]!r} is not this server's: open the address that geo4d view printed"
    if origins and (len(origins) != 1 or origins[0].lower() != f"http://{hosts[0].lower()}"):
        return f"the Origin {' '.join(origins)[:100]!r} is not this server's page"
    return None


def _names_server(header: str, host: str, port: int) -> bool:
    """Whether a Host header names an address of the server at host:port."""
    name, colon, digits = header.rpartition(":") if not header.endswith("]") else (header, "", "")
    if not colon:
        name, digits = header, "80"  # which browsers leave out
    if digits != str(port):
        return False
    if name in (f"[{host}]" if ":" in host else host, "localhost"):
        return True
    bracketed = name.startswith("[") and name.endswith("]")
    address = _address(name[1:-1] if bracketed else name)
    if address is None or (address.version == 6) != bracketed:
        return False
    return not _is_loopback(host) or name in ("127.0.0.1", "[::1]")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


@contextmanager
def gate(host: str) -> Iterator[list[int]]:
    """While this lasts, a server that viser opens gets the checks of this module, and complaints of one line.

    Viser has no hook for either: it opens its port by `websockets.asyncio.server.serve`, looked up when it does, which
    is exchanged meanwhile. Gives the list of ports that were so opened: if it stays empty, a version of viser did
    otherwise.
    """
    original = websockets.asyncio.server.serve
    opened: list[int] = []

    def guarded(handler: Any, address: Any, port: int, **options: Any) -> Any:
        opened.append(port)
        inner = options.pop("process_request", None)
        check = functools.partial(_process, host, port, inner)
        return original(handler, address, port, process_request=check, logger=_OneLine(logger, {}), **options)

    with _opening:
        websockets.asyncio.server.serve = guarded  # type: ignore[assignment]
        try:
            yield opened
        finally:
            websockets.asyncio.server.serve = original  # type: ignore[misc]


def _process(
    host: str,
    port: int,
    inner: Callable[[ServerConnection, Request], Response | None] | None,
    connection: ServerConnection,
    request: Request,
) -> Response | None:
    """The answer to a request before its websocket opens; None opens it."""
    why = refusal(request.headers.get_all("Host"), request.headers.get_all("Origin"), host, port)
    if why is not None:
        logger.debug("Refused a connection: %s", why)
        return connection.respond(HTTPStatus.FORBIDDEN, f"geo4d view: {why}.\n")
    return None if inner is None else inner(connection, request)


class _OneLine(logging.LoggerAdapter):
    """What the websockets library logs as errors with a traceback, as one line each.

    Its reports of every message are left out.
    """

    def isEnabledFor(self, level: int) -> bool:
        """Whether records of the level are of interest: the library's own warnings and errors are."""
        return level >= logging.WARNING

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """One line. A client that leaves early, or speaks no HTTP, is nothing to worry about."""
        if not self.isEnabledFor(level):
            return
        error = sys.exc_info()[1]
        expected = error is None or isinstance(error, (ConnectionClosed, InvalidHandshake, OSError, EOFError))
        reason = "" if error is None else f" ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        shown = logging.DEBUG if expected else logging.WARNING
        self.logger.log(shown, "A client of the viewer: %s%s", str(msg) % args if args else msg, reason)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Nothing is added."""
        return msg, kwargs

    def addFilter(self, filter: Any) -> None:
        """Viser's own filter of such complaints, which would also drop the lines above, is not taken."""
