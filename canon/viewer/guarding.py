"""Between a browser and the viewer: how much may be sent, whose turn it is, and errors as sentences."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from canon.errors import InputError
from canon.runtime import cores

log = logging.getLogger("canon")

MOST_JSON = 1 << 20
MOST_UPLOAD = 128 << 20
"""Bytes of a body that are read at most."""
STALE = "X-Canon-Stale"
"""Header of an empty answer to somebody who has asked for something newer since."""


class TooLarge(InputError):
    """More was sent than is read."""


class Conflict(InputError):
    """Another tab is in the way."""


class SentenceRoute(APIRoute):
    """A route that answers errors with ``{"error": sentence}``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except TooLarge as error:
                return sentence(str(error), 413)
            except Conflict as error:
                return sentence(str(error), 409)
            except InputError as error:
                return sentence(str(error), 400)
            except RequestValidationError as error:
                return sentence(_explained(error), 422)
            except HTTPException as error:
                return sentence(str(error.detail), error.status_code)
            except Exception:
                log.exception("the viewer failed at %s", request.url.path)
                return sentence("Something went wrong in the viewer; its terminal shows what.", 500)

        return handle


def sentence(text: str, status: int) -> JSONResponse:
    """An error as the browser gets it."""
    return JSONResponse({"error": text}, status_code=status)


def _explained(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()) if part not in ("query", "path", "body"))
    return f"The value of '{where}' cannot be used: {str(first.get('msg', 'it is wrong'))[:200]}."


async def read_body(request: Request, most: int = MOST_UPLOAD) -> bytes:
    """The body of a request, of at most so many bytes; a longer one is not read to its end.

    Raises:
        TooLarge: there are more.
    """
    refused = TooLarge(f"The file has more than {most >> 20} MiB, which is the most that can be sent.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise refused
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise refused
        parts.append(part)
    return b"".join(parts)


async def read_mapping(request: Request) -> dict[str, Any]:
    """The body of a request as a JSON object; {} if there is none.

    Raises:
        InputError: too long, or no JSON object.
    """
    data = await read_body(request, MOST_JSON)
    if not data:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("The request is not JSON.") from error
    if not isinstance(value, dict):
        raise InputError("The request is not a JSON object.")
    return value


class Turns:
    """Pictures are made so many at a time, and not at all for who has asked for a newer one since."""

    def __init__(self, count: int | None = None) -> None:
        self._slots = asyncio.Semaphore(count or cores())
        self._latest: OrderedDict[str, int] = OrderedDict()

    def stale(self, channel: str, number: int) -> bool:
        """Note that ``number`` is asked for on a channel; whether a later one is known already. "" is no channel."""
        if not channel:
            return False
        latest = max(self._latest.pop(channel, number), number)
        self._latest[channel] = latest
        while len(self._latest) > 1000:
            self._latest.popitem(last=False)
        return latest > number

    async def run(self, request: Request, channel: str, number: int, make: Callable[[], bytes]) -> bytes | None:
        """What ``make`` makes in a thread, when its turn comes; None if nobody waits for it any more."""
        self.stale(channel, number)
        async with self._slots:
            if self.stale(channel, number) or await request.is_disconnected():
                return None
            return await asyncio.to_thread(make)


class Bytes:
    """The encoded pictures made last, by tag, within a number of bytes."""

    def __init__(self, most: int = 96 << 20) -> None:
        self._most, self._total = most, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def get(self, tag: str) -> bytes | None:
        """A picture that is kept."""
        if tag in self._kept:
            self._kept.move_to_end(tag)
        return self._kept.get(tag)

    def put(self, tag: str, data: bytes) -> None:
        """Keep a picture."""
        self._total += len(data) - len(self._kept.pop(tag, b""))
        self._kept[tag] = data
        while self._total > self._most and len(self._kept) > 1:
            self._total -= len(self._kept.popitem(last=False)[1])
