"""The command line: ``canon COMMAND``. A command's module is imported only when that command is called."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("canon.cli.demo", "the whole path on an embedded clip; start here"),
    "fit": ("canon.cli.fit", "fit a video once: canon fit VIDEO --project DIR"),
    "canonical": ("canon.cli.canonical", "write the canonical images, to paint on"),
    "edit": ("canon.cli.edit", "make an edit: canon edit DIR --editor paint --name N ...; --list shows the editors"),
    "render": ("canon.cli.render", "render edits: canon render DIR --edit N [--edit M ...]"),
    "export": (
        "canon.cli.export",
        "for Nuke, Blender, Fusion, Flame, After Effects: canon export DIR stmap|tracks|labels|cutout|mesh|...",
    ),
    "stabilise": ("canon.cli.stabilise", "hold the background, or another layer, still"),
    "eval": ("canon.cli.evaluate", "measure a fit, and an edit of it"),
    "view": ("canon.cli.view", "look, paint and edit in the browser: canon view DIR"),
    "run": ("canon.cli.run", "run a scripted experiment: canon run EXPERIMENT.yaml"),
}
"""Command -> module with ``run(arguments) -> int``, and what it does."""

DONE, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 bad input, 130 interrupted, 1 a fault of ours."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch is imported: spinning threads on a busy machine are several times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in arguments or os.environ.get("CANON_TRACEBACK", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with _terminated_like_interrupted():
            return _dispatch(arguments)
    except BaseException as error:
        if debug and not isinstance(error, SystemExit | KeyboardInterrupt):
            raise
        code, sentence = _explain(error)
        if sentence:
            with contextlib.suppress(OSError, ValueError):
                print(f"canon: {sentence}", file=sys.stderr, flush=True)
        return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"canon {version('canon-video')}")
        return DONE
    command = arguments[0]
    if command not in COMMANDS:
        import difflib

        from canon.errors import InputError

        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise InputError(f"There is no command '{command}'; {hint}")
    if not {"-h", "--help"} & set(arguments):
        from canon.cli.console import warnings_to_stderr
        from canon.runtime import tune_allocator

        tune_allocator()
        with warnings_to_stderr():
            return importlib.import_module(COMMANDS[command][0]).run(arguments[1:])
    return importlib.import_module(COMMANDS[command][0]).run(arguments[1:])


def _help() -> str:
    lines = [
        "usage: canon COMMAND [OPTIONS]",
        "",
        "Fit a video once, edit its canonical images, render every frame.",
        "",
    ]
    lines += [f"  {name:<11}{text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "canon COMMAND --help shows a command's options; canon --version the version."]
    lines += ["--debug, or CANON_TRACEBACK=1 in the environment, shows where a fault happened."]
    return "\n".join(lines)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and the sentence to print."""
    from canon.errors import InputError

    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else DONE if error.code is None else BAD_INPUT), ""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; run the same command again to go on."
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left; Python would complain once more when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE, ""
    if isinstance(error, OSError):
        from pathlib import Path

        from canon.storage import explain_os_error

        explained = explain_os_error(error, Path(str(error.filename or "the output")))
        error = explained if isinstance(explained, InputError) else error
    if isinstance(error, InputError):
        return BAD_INPUT, " ".join(str(error).split())
    if _is_out_of_memory(error):
        return BAD_INPUT, "Not enough memory; use fewer frames (--max-frames) or smaller ones (--size)."
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return FAULT, f"this is a fault in canon ({what}); run with --debug to see where, and please report it."


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    torch_says = "out of memory" in text or "can't allocate memory" in text or "Insufficient memory" in text
    return isinstance(error, MemoryError) or torch_says


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, so that schedulers that stop a run let it tidy up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
