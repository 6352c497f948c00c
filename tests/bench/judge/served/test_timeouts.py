"""A request ends in time, however many bytes a server sends and however slowly."""

import threading
import time
from contextlib import suppress

import pytest

from kvproof.bench.judge.served import client
from kvproof.bench.judge.served.client import Client, ServerError

from ._stub import Manner, served

STARTS = {
    "headers": b"HTTP/1.1 200 OK\r\nX-More: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    "body without a length": b"HTTP/1.1 200 OK\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "body of an error": b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n",
}


@pytest.mark.parametrize("drips", STARTS)
def test_a_server_that_drips_bytes_is_left_after_the_timeout(drips):
    done = threading.Event()

    def drip(handler, path, body):
        handler.wfile.write(STARTS[drips])
        while not done.wait(0.02):
            handler.wfile.write(b"1\r\na\r\n" if drips == "chunks" else b"a")
        handler.close_connection = True
        return True

    with served(None, Manner(before=drip)) as url:
        began = time.monotonic()
        try:
            with pytest.raises(ServerError, match=r"gave no whole answer in 0\.3 s|answered 500"):
                Client(url, timeout=0.3).get("/models")
        finally:
            took = time.monotonic() - began
            done.set()
    assert took < 2


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_without_end_is_not_read_to_it(announced, monkeypatch):
    monkeypatch.setattr(client, "MOST", 1 << 20)

    def flood(handler, path, body):
        length = b"Content-Length: 999999999999\r\n" if announced else b""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        handler.close_connection = True
        with suppress(OSError):
            for _ in range(10_000):
                handler.wfile.write(b"a" * 65536)
        return True

    with served(None, Manner(before=flood)) as url, pytest.raises(ServerError, match="sent more than 1048576 bytes"):
        Client(url, timeout=20).get("/models")


def test_a_connection_that_stays_open_after_the_answer_is_not_waited_for():
    done = threading.Event()

    def hold(handler, path, body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        done.wait(10)
        return True

    with served(None, Manner(before=hold)) as url:
        try:
            assert Client(url, timeout=5).get("/models") == {}
        finally:
            done.set()
