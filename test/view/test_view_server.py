"""The server of specprune view: what it answers, to whom, and what it refuses."""
import argparse
import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console
from view_fake import ROWS, FakeLink, settable

from specprune_ros import view
from specprune_ros.errors import ConfigurationError
from specprune_ros.view.requests import HEADERS, refusal

pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from specprune_ros.view import app as view_app  # noqa: E402
from specprune_ros.view.serve import ADDRESS, _listen, _until_done  # noqa: E402

STATIC = Path(view_app.STATIC)
JSON = {"Content-Type": "application/json"}


def with_client(work, link=None):
    """Run ``work(client, link)`` against a server."""
    link = link or FakeLink()

    @asynccontextmanager
    async def client():
        async with TestClient(TestServer(view_app.make_app(link, ROWS, settable))) as client:
            yield client

    async def run():
        async with client() as started:
            return await work(started, link)

    return asyncio.run(run())


def own(client):
    """Headers of a change that the page itself sends."""
    return {**JSON, "Origin": f"http://{client.host}:{client.port}"}


async def first_event(client):
    async with client.get("/api/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        line = await response.content.readline()
    return json.loads(line.removeprefix(b"data: "))


# --- what it answers ------------------------------------------------------------------------------

def test_the_page_and_all_it_needs_come_from_here():
    async def work(client, _link):
        response = await client.get("/")
        page = await response.text()
        assert response.status == 200 and response.content_type == "text/html"
        for name, value in HEADERS.items():
            assert response.headers[name] == value
        wanted = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert len(wanted) >= 5
        for name in wanted:
            assert (await client.get(f"/{name}")).status == 200, name
        for module in re.findall(r'from "\./([^"]+)"', (STATIC / "page.js").read_text()):
            assert (await client.get(f"/{module}")).content_type == "text/javascript"

    with_client(work)


def test_no_file_of_the_page_points_elsewhere():
    for path in STATIC.iterdir():
        if path.suffix in (".html", ".css", ".js", ".svg"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            found = [link for link in re.findall(r"https?://[^\s\"')]+", text)
                     if "leeoniya/uPlot" not in link]  # the notice of the library
            assert not found, f"{path.name}: {found}"


def test_the_chart_library_has_its_licence():
    assert "Leon Sorokin" in (STATIC / "uPlot.LICENSE.txt").read_text()


@pytest.mark.parametrize("path", ["/nothing", "/../app.py", "/%2e%2e/app.py", "/..%2fapp.py",
                                  "/picture/primary/other.jpg", "/picture/nobody/camera.jpg"])
def test_there_is_nothing_else(path):
    async def work(client, _link):
        response = await client.get(path)
        assert response.status == 404
        assert response.headers["X-Frame-Options"] == "DENY"

    with_client(work)


def test_events_bring_what_there_is_and_count_as_a_viewer():
    async def work(client, link):
        link.running(points=3)
        shown = await first_event(client)
        assert shown["condition"]["kind"] == "running"
        assert [point["n"] for point in shown["points"]] == [1, 2, 3]
        async with client.get("/api/events") as response:
            lines = [await response.content.readline() for _ in range(3)]
            assert json.loads(lines[2].removeprefix(b"data: "))["points"] == []  # sent already
            assert link.viewers >= 1
        for _ in range(100):
            if not link.viewers:
                break
            await asyncio.sleep(0.1)
        assert link.viewers == 0

    with_client(work)


def test_pictures_are_jpegs():
    async def work(client, link):
        response = await client.get("/picture/primary/kept.jpg")
        assert response.content_type == "image/jpeg"
        assert await response.read() == link.pictures["primary", "kept"].jpeg
        link.pictures["primary", "camera"].jpeg = b""  # one that could not be read
        assert (await client.get("/picture/primary/camera.jpg")).status == 404

    with_client(work)


def test_changes_reach_the_node_and_its_veto_the_page():
    async def work(client, link):
        link.running()
        response = await client.post("/api/parameters", headers=own(client),
                                     data='{"dynamic.floor": 40}')
        assert await response.json() == {"ok": True, "reason": ""}
        assert link.calls == [{"dynamic.floor": 40}]
        link.veto = "exit must not be below enter"
        response = await client.post("/api/parameters", headers=own(client),
                                     data='{"controller.enter_translation": 5}')
        assert await response.json() == {"ok": False, "reason": link.veto}
        assert type(link.calls[-1]["controller.enter_translation"]) is float

    with_client(work)


@pytest.mark.parametrize("body", ["", "[1]", "{}", "{", '{"guard.max_command": 9.0}',
                                  '{"dynamic.floor": "many"}'])
def test_changes_that_make_no_sense_never_reach_the_node(body):
    async def work(client, link):
        link.running()
        response = await client.post("/api/parameters", headers=own(client), data=body)
        assert response.status == 400 and (await response.json())["reason"]
        assert link.calls == []

    with_client(work)


def test_services_answer_or_say_why_not(monkeypatch):
    async def work(client, link):
        response = await client.post("/api/clear_fault", headers=own(client), data="{}")
        assert response.status == 503 and "is it running" in (await response.json())["reason"]
        link.fault()
        response = await client.post("/api/clear_fault", headers=own(client), data="{}")
        assert (await response.json())["ok"] and link.calls[-1] == "clear_fault"
        assert (await client.post("/api/settle", headers=own(client), data="{}")).status in (404,
                                                                                             405)
        link.hang = True
        monkeypatch.setattr(view_app, "ANSWER_S", 0.05)
        response = await client.post("/api/reset_episode", headers=own(client), data="{}")
        assert response.status == 504 and "not answered" in (await response.json())["reason"]

    with_client(work)


# --- whom it refuses ------------------------------------------------------------------------------

LOCAL = {"Host": "127.0.0.1:8765"}
SAME = {**LOCAL, "Origin": "http://127.0.0.1:8765", **JSON}


@pytest.mark.parametrize("method, headers", [
    ("GET", LOCAL),
    ("GET", {"Host": "localhost"}),
    ("GET", {"Host": "localhost:9000", "Sec-Fetch-Site": "none"}),  # an SSH tunnel
    ("GET", {"Host": "[::1]:8765"}),
    ("GET", {**LOCAL, "Sec-Fetch-Site": "same-origin"}),
    ("POST", SAME),
    ("POST", {**SAME, "Content-Type": "application/json; charset=utf-8"}),
])
def test_requests_of_the_page_itself_are_answered(method, headers):
    assert refusal(method, headers) == ""


@pytest.mark.parametrize("method, headers", [
    ("GET", {}),
    ("GET", {"Host": ""}),
    ("GET", {"Host": "evil.example:8765"}),  # DNS rebinding
    ("GET", {"Host": "127.0.0.1.evil.example"}),
    ("GET", {"Host": "localhost.evil.example:8765"}),
    ("GET", {"Host": "localhost@evil.example"}),
    ("GET", {"Host": "evil@localhost"}),
    ("GET", {"Host": "192.168.1.7:8765"}),
    ("GET", {"Host": "localhost:x"}),
    ("GET", {"Host": "[::1"}),
    ("GET", {**LOCAL, "Origin": "https://evil.example"}),
    ("GET", {**LOCAL, "Origin": "null"}),
    ("GET", {**LOCAL, "Sec-Fetch-Site": "cross-site"}),
    ("GET", {**LOCAL, "Sec-Fetch-Site": "same-site"}),
    ("POST", {**LOCAL, **JSON}),  # no Origin
    ("POST", {**SAME, "Origin": "http://127.0.0.1:1234"}),
    ("POST", {**SAME, "Origin": "http://localhost:8765"}),
    ("POST", {**SAME, "Content-Type": "text/plain"}),  # what a form can send
    ("POST", {**LOCAL, "Origin": "http://127.0.0.1:8765"}),
    ("DELETE", {**LOCAL, **JSON}),
])
def test_requests_of_others_are_refused(method, headers):
    assert refusal(method, headers)


def test_a_refused_request_does_nothing_over_http():
    async def work(client, link):
        link.running()
        for headers in ({**own(client), "Host": "evil.example"},
                        {**JSON, "Origin": "https://evil.example"}, {**JSON}):
            response = await client.post("/api/parameters", headers=headers,
                                         data='{"dynamic.floor": 1}')
            assert response.status == 403
            assert response.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
        assert (await client.get("/api/events", headers={"Host": "evil.example"})).status == 403
        assert link.calls == [] and link.viewers == 0

    with_client(work)


def test_a_huge_request_is_refused():
    async def work(client, link):
        response = await client.post("/api/parameters", headers=own(client),
                                     data='{"instruction": "' + "x" * 200_000 + '"}')
        assert response.status == 413 and link.calls == []

    with_client(work)


# --- the command ----------------------------------------------------------------------------------

def test_it_listens_on_this_machine_only_and_names_a_port_that_is_taken():
    with _listen(0) as listener:
        address, port = listener.getsockname()
        assert address == ADDRESS == "127.0.0.1"
        with pytest.raises(ConfigurationError, match=rf"port {port} .* --port 0"):
            _listen(port)


#: What aiohttp 3.8 (Ubuntu 22.04, Humble) takes for a connection; anything else ends all of them.
AIOHTTP_38 = {"keepalive_timeout", "tcp_keepalive", "logger", "access_log_class", "access_log",
              "access_log_format", "debug", "max_line_size", "max_headers", "max_field_size",
              "lingering_time", "read_bufsize", "auto_decompress", "handle_signals"}


def test_the_server_takes_only_options_that_the_oldest_aiohttp_knows(monkeypatch):
    made = []

    class Runner(web.AppRunner):
        def __init__(self, app, **options):
            made.append(set(options))
            super().__init__(app, **options)

    monkeypatch.setattr(web, "AppRunner", Runner)
    args = argparse.Namespace(open=False, seconds=0.01)
    with _listen(0) as listener:
        asyncio.run(_until_done(view_app.make_app(FakeLink(), ROWS, settable), args,
                                Console(quiet=True), listener, lambda: None))
    assert made and made[0] <= AIOHTTP_38


def test_there_is_no_option_for_another_host():
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert not options & {"--host", "--bind", "--address"}
    assert parser.parse_args([]).port == 8765
    assert parser.parse_args(["--demo", "--port", "0"]).demo


@pytest.mark.parametrize("words", [["--port", "70000"], ["--port", "-1"], ["--port", "x"]])
def test_ports_that_make_no_sense_are_refused(words):
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)


def test_a_server_on_loopback_is_not_reached_from_another_address():
    with _listen(0) as listener:
        port = listener.getsockname()[1]
        with socket.socket() as other, pytest.raises(OSError):
            other.settimeout(2.0)
            other.connect(("127.0.0.2", port))  # another address of this machine
