"""``canon view DIR``."""

from __future__ import annotations

from dataclasses import dataclass

from canon.cli.arguments import Directory, parse
from canon.errors import InputError

DESCRIPTION = """Look at a project in the browser: fits, canonical images and how frames land on them; paint, edit,
render and download. Only this machine can open the address. Others can with --host 0.0.0.0 and a password, which the
browser sends as it is: put a proxy with HTTPS in front, or use 'ssh -L', where the network is not trusted. Ctrl-C ends
it."""


@dataclass
class ViewArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    port: int | None = None
    """Port to serve on; without it 7860, or the next one that is free."""
    host: str = "127.0.0.1"
    """Address to serve on; any but this machine's own needs a password."""
    password: str | None = None
    """Password to ask for, of at least 8 characters, with any user name. Others on this machine can see it among the
    running programs; --password-file keeps it from them."""
    password_file: str | None = None
    """File whose first line is the password."""
    browser: bool = True
    """Open the page in a browser (--no-browser does not)."""
    device: str | None = None
    """Where diffusion models compute, such as cpu or cuda, for all edits; without it, what an edit says, or CUDA if
    there is one."""


def run(arguments: list[str]) -> int:
    """Serve until Ctrl-C."""
    (own,) = parse("view", DESCRIPTION, [ViewArguments], arguments)

    from canon.viewer.server import Serving, open_browser, serve

    def ready(url: str) -> None:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        if own.browser:
            open_browser(url)

    serve(own.project, Serving(own.host, own.port, _password(own), own.device), ready)
    return 0


def _password(own: ViewArguments) -> str | None:
    if own.password_file is None:
        return own.password
    if own.password is not None:
        raise InputError("A password is given once; leave --password or --password-file out.")
    try:
        with open(own.password_file, encoding="utf-8") as file:  # noqa: PTH123
            line = file.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the password file '{own.password_file}'; check the name.") from error
    if not line:
        raise InputError(
            f"The password file '{own.password_file}' begins with an empty line; write the password there."
        )
    return line
