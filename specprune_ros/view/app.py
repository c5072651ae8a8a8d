"""The page's server: static files, live data as server-sent events, pictures, and commands."""
from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from ..errors import ConfigurationError, SpecpruneError
from .requests import HEADERS, refusal

STATIC = Path(__file__).parent / "static"
PERIOD_S = 0.2  # between two events
ANSWER_S = 10.0  # that the node may take to answer
MOST_BYTES = 65536  # of a command
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
          ".svg": "image/svg+xml", ".txt": "text/plain"}


class Link(Protocol):
    """What the server needs of ``specprune_ros.ros.view_link.ViewLink``."""

    def snapshot(self, since: int = 0) -> dict[str, Any]: ...
    def picture(self, camera: str, which: str) -> Any: ...
    def viewer(self) -> Any: ...
    def set_parameters(self, values: Mapping[str, object]
                       ) -> concurrent.futures.Future[tuple[bool, str]]: ...
    def trigger(self, service: str) -> concurrent.futures.Future[tuple[bool, str]]: ...


def make_app(link: Link, parameters: list[dict[str, Any]],
             settable: Callable[[Mapping[str, Any]], dict[str, object]]) -> web.Application:
    """The server of a link.

    parameters: rows of ``view_state.parameter_rows``. settable: checks what the page sends.
    """
    page = _Page(link, parameters, settable)
    app = web.Application(middlewares=[_guard], client_max_size=MOST_BYTES)
    app.on_shutdown.append(page.end_streams)
    app.router.add_get("/api/events", page.events)
    app.router.add_get("/api/parameters", page.parameters)
    app.router.add_post("/api/parameters", page.set_parameters)
    app.router.add_post("/api/{service:reset_episode|clear_fault}", page.trigger)
    app.router.add_get("/picture/{camera}/{which:camera|kept}.jpg", page.picture)
    app.router.add_get("/", _file)
    app.router.add_get("/{name}", _file)
    return app


@web.middleware
async def _guard(request: web.Request, handler) -> web.StreamResponse:
    """Refuse what is not of our own page; give every answer its headers."""
    why = refusal(request.method, request.headers)
    if why:
        return web.json_response({"ok": False, "reason": why}, status=403, headers=HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


async def _file(request: web.Request) -> web.StreamResponse:
    path = STATIC / request.match_info.get("name", "index.html")
    if path.parent != STATIC or not path.is_file() or path.suffix not in _TYPES:
        raise web.HTTPNotFound(text="no such page")
    return web.Response(body=path.read_bytes(), content_type=_TYPES[path.suffix], charset="utf-8")


class _Page:
    """The handlers that need the link."""

    def __init__(self, link: Link, parameters: list[dict[str, Any]],
                 settable: Callable[[Mapping[str, Any]], dict[str, object]]) -> None:
        self._link, self._rows, self._settable = link, parameters, settable
        self._closing = False

    async def end_streams(self, _app: web.Application) -> None:
        self._closing = True

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Live data, until the browser goes or the server ends."""
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            with self._link.viewer():
                await self._send_events(response)
        except ConnectionError:
            pass  # the browser is gone
        return response

    async def _send_events(self, response: web.StreamResponse) -> None:
        newest = 0
        while not self._closing:
            shown = self._link.snapshot(newest)
            if shown["points"]:
                newest = shown["points"][-1]["n"]
            text = json.dumps(shown, allow_nan=False)
            await response.write(f"data: {text}\n\n".encode())
            await asyncio.sleep(PERIOD_S)

    async def picture(self, request: web.Request) -> web.Response:
        picture = self._link.picture(request.match_info["camera"], request.match_info["which"])
        if picture is None or not picture.jpeg:
            raise web.HTTPNotFound(text="no picture so far")
        return web.Response(body=picture.jpeg, content_type="image/jpeg")

    async def parameters(self, _request: web.Request) -> web.Response:
        return web.json_response(self._rows)

    async def set_parameters(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            if not isinstance(body, dict) or not body:
                raise ConfigurationError("send an object of names and values")
            values = self._settable(body)
        except (ValueError, ConfigurationError) as error:
            return web.json_response({"ok": False, "reason": str(error)}, status=400)
        return await _answer(self._link.set_parameters(values))

    async def trigger(self, request: web.Request) -> web.Response:
        return await _answer(self._link.trigger(request.match_info["service"]))


async def _answer(future: concurrent.futures.Future[tuple[bool, str]]) -> web.Response:
    try:
        ok, reason = await asyncio.wait_for(asyncio.wrap_future(future), ANSWER_S)
    except asyncio.TimeoutError:
        return web.json_response(
            {"ok": False, "reason": f"vla_node has not answered within {ANSWER_S:.0f} s"},
            status=504)
    except SpecpruneError as error:
        return web.json_response({"ok": False, "reason": str(error)}, status=503)
    return web.json_response({"ok": ok, "reason": reason})
