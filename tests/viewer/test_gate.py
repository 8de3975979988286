"""The viewer lets in its own page alone, and a client that leaves early is one line of the detailed log."""

import http.client
import logging
import socket
import struct
import threading
import time

import pytest

from geo4d.viewer.gate import refusal
from geo4d.viewer.server import serve

websocket = pytest.importorskip("websocket")
viser = pytest.importorskip("viser")
PROTOCOL = f"viser-v{viser.__version__}"


@pytest.mark.parametrize(
    "host,said",
    [
        ("127.0.0.1", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080"]),
        ("localhost", ["127.0.0.1:8080", "localhost:8080"]),
        ("::1", ["[::1]:8080", "localhost:8080"]),
        ("127.0.0.5", ["127.0.0.5:8080"]),
        ("0.0.0.0", ["192.168.1.7:8080", "[2001:db8::1]:8080", "localhost:8080"]),
        ("Workstation", ["workstation:8080", "10.0.0.1:8080"]),
    ],
)
def test_own_addresses_are_let_in(host, said):
    for address in said:
        assert refusal([address], [], host, 8080) is None
        assert refusal([address], [f"http://{address}"], host, 8080) is None


@pytest.mark.parametrize(
    "host,said",
    [
        (
            "127.0.0.1",
            [
                "evil.example:8080",
                "127.0.0.1:8081",
                "127.0.0.1",
                "192.168.1.7:8080",
                "localhost.evil.example:8080",
                ":8080",
                "",
            ],
        ),
        (
            "127.0.0.1",
            ["127.0.0.1:8080:8080", "::1:8080", "[127.0.0.1]:8080", "[::1:8080", "user@127.0.0.1:8080", "[::1]"],
        ),
        ("0.0.0.0", ["evil.example:8080", "0x7f000001:8080", "workstation:8080"]),
    ],
)
def test_foreign_hosts_are_refused(host, said):
    for address in said:
        assert "Host" in refusal([address], [], host, 8080)


def test_foreign_origins_are_refused():
    own = "127.0.0.1:8080"
    for origin in (
        "http://evil.example",
        "http://127.0.0.1:8081",
        "http://localhost:8080",
        "https://127.0.0.1:8080",
        "null",
        "",
    ):
        assert "Origin" in refusal([own], [origin], "127.0.0.1", 8080)
    assert "Origin" in refusal([own], [f"http://{own}", "http://evil.example"], "127.0.0.1", 8080)
    assert "Host" in refusal([own, "evil.example:8080"], [], "127.0.0.1", 8080)
    assert "Host" in refusal([], [], "127.0.0.1", 8080)


def test_the_usual_port_may_be_left_out():
    assert refusal(["127.0.0.1"], ["http://127.0.0.1"], "127.0.0.1", 80) is None
    assert refusal(["[::1]"], [], "::1", 80) is None


@pytest.fixture(autouse=True)
def quiet_handlers(monkeypatch):
    """Commands of earlier tests leave handlers with streams that are closed, whose complaints are not the server's."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(small_reconstruction, port):
    stop = threading.Event()
    thread = threading.Thread(
        target=serve, args=(small_reconstruction,), kwargs={"port": port, "stop": stop}, daemon=True
    )
    thread.start()
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield port
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def connect(port, **options):
    return websocket.create_connection(f"ws://127.0.0.1:{port}", subprotocols=[PROTOCOL], timeout=10, **options)


def fetch(port, **said):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers=said)
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_who_connects(server):
    own = f"127.0.0.1:{server}"
    for options in (
        {"origin": f"http://{own}"},
        {"suppress_origin": True},
        {"host": f"localhost:{server}", "suppress_origin": True},
    ):
        client = connect(server, **options)
        assert len(client.recv()) > 100  # the scene
        client.close()
    for options in (
        {"origin": "http://evil.example"},
        {"origin": f"http://localhost:{server}"},
        {"host": f"evil.example:{server}", "origin": f"http://evil.example:{server}"},  # DNS rebinding
        {"host": f"evil.example:{server}", "suppress_origin": True},
    ):
        with pytest.raises(websocket.WebSocketBadStatusException) as error:
            connect(server, **options)
        assert error.value.status_code == 403
    assert fetch(server)[0] == 200 and b"<html" in fetch(server)[1]
    for said in ({"Host": f"evil.example:{server}"}, {"Origin": "http://evil.example"}):
        status, text = fetch(server, **said)
        assert status == 403 and text.startswith(b"geo4d view: the ") and b"<html" not in text


def leave(port, data=b"", *, reset=False):
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(data)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_clients_that_leave_early_are_a_line_each(server, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="geo4d.viewer")
    time.sleep(0.3)
    caplog.clear()
    upgrade = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    ).encode()
    requests = (b"", b"GET / HTTP/1.1\r\nHost: 127", b"\x16\x03\x01\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
    for data in requests:
        leave(server, data)
    for reset in (False, True):
        leave(server, upgrade, reset=reset)
    connect(server, suppress_origin=True).close()
    connect(server, suppress_origin=True).shutdown()
    end = time.monotonic() + 10
    while len(caplog.records) < len(requests) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    assert len(requests) <= len(caplog.records) <= len(requests) + 4
    for record in caplog.records:
        assert record.levelno == logging.DEBUG and record.exc_info is None and "\n" not in record.getMessage()
    assert "Traceback" not in capfd.readouterr().err
    assert fetch(server)[0] == 200


def test_a_client_that_sends_rubbish_is_one_warning(server, caplog, capfd):
    client = connect(server, suppress_origin=True)
    client.send_binary(b"rubbish")
    end = time.monotonic() + 10
    while not caplog.records and time.monotonic() < end:
        time.sleep(0.1)
    client.close()
    warned = [
        record for record in caplog.records if record.levelno >= logging.WARNING and record.name.startswith("geo4d")
    ]
    assert len(warned) == 1 and "A client of the viewer" in warned[0].getMessage() and warned[0].exc_info is None
    assert "Traceback" not in capfd.readouterr().err
