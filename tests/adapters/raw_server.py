"""A server on loopback that answers as the test says, byte by byte, and keeps what it was sent."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attrs

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Trace: a\r\n\r\n{}"


@attrs.define
class Peer:
    """One connection as the server sees it."""

    connection: socket.socket
    received: bytearray = attrs.field(factory=bytearray)
    closed: threading.Event = attrs.field(factory=threading.Event)

    def read_request(self) -> bool:
        """Read one whole request; False when the other side is gone."""
        begin = len(self.received)
        while not _is_whole(bytes(self.received[begin:])):
            data = self.connection.recv(65536)
            if not data:
                return False
            self.received += data
        return True

    def say(self, octets: bytes) -> None:
        """Send *octets*."""
        self.connection.sendall(octets)

    def drip(self, octets: bytes, pause_s: float) -> None:
        """Send one byte after the other until nobody listens."""
        for octet in octets:
            self.say(bytes([octet]))
            time.sleep(pause_s)

    def reset(self) -> None:
        """Close with RST."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def _is_whole(octets: bytes) -> bool:
    head, found, body = octets.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found) and len(body) >= int(length[1] if length else 0)


@attrs.define
class RawServer:
    """What was connected, and where."""

    url: str
    peers: list[Peer] = attrs.field(factory=list)

    @property
    def received(self) -> list[bytes]:
        """What each connection brought."""
        return [bytes(peer.received) for peer in self.peers]

    def wait_for(self, needle: bytes) -> None:
        """Wait until *needle* has arrived."""
        _wait(lambda: self.count(needle) > 0, f"{needle!r} did not arrive")

    def peer(self, number: int = 0) -> Peer:
        """Return a connection, waited for: the client may be done before it is accepted here."""
        _wait(lambda: len(self.peers) > number, f"connection {number} was not made")
        return self.peers[number]

    def count(self, needle: bytes) -> int:
        """How often *needle* arrived, on whatever connection."""
        return sum(octets.count(needle) for octets in self.received)


def _wait(is_so: Callable[[], bool], problem: str) -> None:
    until = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < until, problem
        time.sleep(0.01)


@contextmanager
def raw_server(behaviour: Callable[[Peer], None]) -> Iterator[RawServer]:
    """Serve each connection with *behaviour*, then close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RawServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        threads = list[threading.Thread]()
        accepting = threading.Thread(target=_accept, args=(listener, server, behaviour, threads))
        accepting.start()
        try:
            yield server
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            for peer in server.peers:
                with suppress(OSError):
                    peer.connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def _accept(
    listener: socket.socket,
    server: RawServer,
    behaviour: Callable[[Peer], None],
    threads: list[threading.Thread],
) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            peer = Peer(connection)
            server.peers.append(peer)
            threads.append(threading.Thread(target=_serve, args=(peer, behaviour)))
            threads[-1].start()


def _serve(peer: Peer, behaviour: Callable[[Peer], None]) -> None:
    with suppress(OSError), peer.connection:
        behaviour(peer)
    peer.closed.set()


def answer_all(peer: Peer) -> None:
    """Answer every request with an empty object."""
    while peer.read_request():
        peer.say(OK)
