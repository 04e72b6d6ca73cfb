"""The other end of :class:`canon.viewer.jobs.Worker`: ``python -m canon.viewer.worker FD MODULE``."""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from canon.errors import InputError

_SECONDS_BETWEEN_REPORTS = 0.1


def main() -> None:
    """Run what is asked for, one after another, until the viewer is gone."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    pipe, module = Connection(int(sys.argv[1])), importlib.import_module(sys.argv[2])
    asked: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, asked), daemon=True).start()
    while True:
        message = json.loads(asked.get())
        pipe.send_bytes(json.dumps(_answer(pipe, module, message["function"], message["arguments"])).encode())


def _listen(pipe: Connection, asked: queue.Queue[bytes]) -> None:
    """Pass on what is asked; when the viewer is gone, however it went, nobody waits for the result."""
    while True:
        try:
            asked.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _answer(pipe: Connection, module: Any, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    from canon.progress import reporting

    last = [0.0]

    def report(stage: str, done: float, figures: Mapping[str, float]) -> None:
        if time.monotonic() - last[0] >= _SECONDS_BETWEEN_REPORTS:
            last[0] = time.monotonic()
            pipe.send_bytes(json.dumps({"progress": [stage, float(done), {}]}).encode())

    try:
        if name not in module.FUNCTIONS:
            raise InputError(f"There is no work called '{name}'.")
        with reporting(report):
            result = module.FUNCTIONS[name](**arguments)
        return {"result": json.loads(json.dumps(result, allow_nan=False))}
    except InputError as error:
        return {"error": " ".join(str(error).split()), "expected": True}
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        return {"error": _sentence(error), "expected": False}


def _sentence(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "Not enough memory; use a smaller size, fewer frames or another device."
    what = " ".join(f"{type(error).__name__}: {text}".split())[:200]
    return f"This is a fault in canon ({what}); .work/jobs/worker.log in the project says where, please report it."


if __name__ == "__main__":
    main()
