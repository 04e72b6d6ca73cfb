"""Who may ask: programs of this machine by default, others with a password; never a page of another site.

A page from elsewhere can make a browser ask a server on localhost. It is refused because it names another ``Origin``,
or the browser says that another site asks; or, where it had its own name point here (DNS rebinding), another ``Host``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio

Scope = dict[str, Any]
Application = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
_SECONDS_AFTER_A_WRONG_PASSWORD = 1.0
_SECURITY = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """ASGI middleware around everything that is served: pages, gradio's own routes and ours."""

    def __init__(self, app: Application, host: str = "127.0.0.1", password: str | None = None) -> None:
        """Guard ``app``.

        Args:
            host: the address that is bound to.
            password: that is asked for by HTTP's basic authentication, with any name of a user; None = none.
        """
        self.app, self.host = app, host
        self._password = None if password is None else password.encode()

    async def __call__(
        self, scope: Scope, receive: Callable[..., Awaitable[Any]], send: Callable[..., Awaitable[None]]
    ) -> None:
        """Pass on what is allowed; answer 400, 401 or 403 to the rest."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._known_host(headers) or not _same_origin(headers):
            await _refuse(scope, send, 403, "This address may not be asked from another site.")
        elif "\0" in scope.get("path", ""):  # which no file's name can hold
            await _refuse(scope, send, 400, "This address cannot be.")
        elif self._password is not None and not self._knows(headers.get("authorization", "")):
            # The browser's first request has no password at all and need not wait.
            await anyio.sleep(_SECONDS_AFTER_A_WRONG_PASSWORD if "authorization" in headers else 0)
            await _refuse(scope, send, 401, "A password is needed to see this project.")
        else:
            await self.app(scope, receive, _hardened(send))

    def _known_host(self, headers: Mapping[str, str]) -> bool:
        name = (urlsplit("//" + headers.get("host", "")).hostname or "").lower()
        if name in _LOCAL_NAMES or name == self.host.strip("[]").lower():
            return True
        # Under which names others reach a machine is not known here; a password is asked for, which no page has.
        return self._password is not None and not is_local(self.host)

    def _knows(self, given: str) -> bool:
        kind, _, rest = given.partition(" ")
        try:
            said = base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and hmac.compare_digest(said, self._password or b"")


def _same_origin(headers: Mapping[str, str]) -> bool:
    ours = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    if not ours and headers.get("sec-fetch-mode") != "navigate":  # a link that leads here is followed
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _hardened(send: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_SECURITY]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Callable[..., Awaitable[None]], status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json"), *_SECURITY]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="canon", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f'{{"error": "{sentence}"}}'.encode()})
