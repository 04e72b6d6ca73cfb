"""The web server of the viewer in three dimensions: viser's, closed against what is not asked for."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from canon.errors import InputError

log = logging.getLogger("canon")

_SCRIPT = Path(__file__).parent / "assets" / "spatial.js"


def open_server(host: str, port: int, label: str) -> Any:
    """A running ``viser.ViserServer``; its ``stop()`` ends it.

    Nothing of it reaches the internet: viser's sharing is off. Pages of other sites cannot talk to it.

    Raises:
        InputError: viser is not installed, or the port cannot be used.
    """
    try:
        import viser
        from viser._messages import RunJavascriptMessage
    except ImportError as error:
        raise InputError("Viewing in three dimensions needs viser; run: pip install canon-video[viewer]") from error

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            return None

    _check(host, port)
    with _silent():
        server = Server(host=host, port=port, label=label, verbose=False)
    if port and server.get_port() != port:  # taken in the meantime; viser has looked for the next one
        close_server(server)
        raise InputError(f"The port {port} is in use; give another one, or 0 for any that is free.")

    async def joined(connection: Any) -> None:
        await _refuse_foreign(server, connection.client_id)

    server._websock_server.on_client_connect(joined)
    server._websock_server.queue_message(RunJavascriptMessage(source=_SCRIPT.read_text(encoding="utf-8")))
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium", dark_mode=True)
    if not _is_local(host):
        log.warning("the viewer on port %d can be used by everybody who reaches '%s'", server.get_port(), host)
    return server


def close_server(server: Any) -> None:
    """End it, quietly."""
    with _silent():
        server.stop()


def _check(host: str, port: int) -> None:
    """viser would go on to the next port, or wait for ever."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"There is no port {port}; give 1 to 65535, or 0 for any that is free.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = error.strerror or error
        if port:
            raise InputError(
                f"The port {port} of '{host}' cannot be used ({why}); give another one, or 0 for any that is free."
            ) from error
        raise InputError(f"The viewer cannot be opened on '{host}' ({why}); give 127.0.0.1.") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """viser tells the terminal when it starts and stops."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


async def _refuse_foreign(server: Any, client: int) -> None:
    """End a connection that a page of another site opened."""
    connection = server._websock_server._live_connections.get(client)
    if connection is None:
        return
    host, origin = (connection.request.headers.get(name) for name in ("Host", "Origin"))
    own = urlsplit(f"//{host or ''}").hostname or ""
    foreign = origin is not None and urlsplit(origin).netloc != host
    # A name of somebody else's that leads here would be the page's own host as well.
    if foreign or (_is_local(server.get_host()) and not _is_local(own)):
        log.warning("a page of '%s' was kept from using the viewer", origin or host)
        await connection.close(1008, "Pages of other sites may not use this viewer.")


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
