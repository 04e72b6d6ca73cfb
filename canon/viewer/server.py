"""``canon view``: the viewer on a port until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from canon.errors import InputError
from canon.viewer.access import is_local

DEFAULT_PORT = 7860
_PORTS_TO_TRY = 100
_SECONDS_TO_SAY_GOODBYE = 1
_SHORTEST_PASSWORD = 8


@dataclass(frozen=True)
class Serving:
    """Where to serve, and to whom."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None = 7860, or the next one that is free."""
    password: str | None = None
    device: str | None = None
    """For editors that have an option of that name."""


def check_installed() -> None:
    """Refuse to start without what the viewer needs.

    Raises:
        InputError: gradio is not installed.
    """
    try:
        missing = find_spec("gradio") is None
    except (ImportError, ValueError):
        missing = True
    if missing:
        raise InputError("The viewer needs gradio, which is not installed; run pip install 'canon-video[viewer]'.")


def check_exposure(serving: Serving) -> None:
    """Refuse to show a project to other machines without a password.

    Raises:
        InputError: so it is, or the password is too short.
    """
    if serving.password is not None and len(serving.password) < _SHORTEST_PASSWORD:
        raise InputError(f"The password is too short; give at least {_SHORTEST_PASSWORD} characters.")
    if not is_local(serving.host) and serving.password is None:
        raise InputError(
            f"With --host {serving.host} other machines could open and change the project; add --password-file, or "
            "leave --host out."
        )


def bound(host: str, port: int | None) -> socket.socket:
    """A socket that is bound; with no port given, the first free one from 7860 on.

    Raises:
        InputError: the port is in use (the next free one is named), or the address is none of this machine.
    """
    if port is not None and not 0 <= port <= 65535:
        raise InputError(f"The port {port} cannot be used; choose 1024 to 65535.")
    if port is not None:
        try:
            return _bind(host, port)
        except PermissionError as error:
            raise InputError(f"The port {port} may not be used here; choose 1024 to 65535.") from error
        except OSError as error:
            if not _in_use(error):
                raise _unusable(host, error) from error
            with _first_free(host, port + 1) as free:
                raise InputError(
                    f"The port {port} is in use; stop what uses it, or give --port {free.getsockname()[1]}."
                ) from error
    return _first_free(host, DEFAULT_PORT)


def _first_free(host: str, start: int) -> socket.socket:
    for port in range(start, min(start + _PORTS_TO_TRY, 65536)):
        try:
            return _bind(host, port)
        except OSError as error:
            if not _in_use(error):
                raise _unusable(host, error) from error
    return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)  # now, so that a second viewer cannot bind to the port meanwhile
    except OSError:
        made.close()
        raise
    return made


def _in_use(error: OSError) -> bool:
    return error.errno == errno.EADDRINUSE


def _unusable(host: str, error: OSError) -> InputError:
    return InputError(
        f"The address '{host}' cannot be served on ({error.strerror}); leave --host out for this machine."
    )


def address(host: str, port: int) -> str:
    """The URL to open."""
    name = host.strip("[]")
    name = "localhost" if name in ("0.0.0.0", "::") else f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/"


def serve(project: str | Path, serving: Serving, ready: Callable[[str], None] = print) -> None:
    """Serve a project until Ctrl-C or SIGTERM; what was at work is ended then.

    Args:
        ready: called with the address once pages can be opened.

    Raises:
        InputError: no project, no gradio, a port in use, or an address open to others without a password.
    """
    from canon.project import Project

    opened = Project.open(project)
    check_installed()
    check_exposure(serving)
    with bound(serving.host, serving.port) as listening, contextlib.suppress(KeyboardInterrupt):
        import uvicorn

        from canon.viewer.app import build

        # Streams of gradio that are still open are cut at the end, which is no error to tell people about.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        app = build(opened.folder, password=serving.password, host=serving.host, device=serving.device)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_SECONDS_TO_SAY_GOODBYE,
            server_header=False,
        )
        try:
            # The socket listens already: who opens the page now waits a moment.
            ready(address(serving.host, listening.getsockname()[1]))
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            app.state.close()


def open_browser(url: str) -> None:
    """Show a page in the browser of whoever sits at this machine, if somebody does."""
    if os.environ.get("SSH_CONNECTION"):
        return
    shown = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if shown:
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(url)
