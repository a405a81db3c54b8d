"""A small web server for tests: bytes and files, fast, by range; and the faults of real ones, asked for as data.

with Server(lambda request: Reply(body=b"...")) as server:
    server.fail("*.safetensors", Fault(drop_after=1000, times=2))
    requests.get(server.url + "/x.safetensors")
    assert "authorization" not in server.requests[0].headers
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import file_digest, sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import parse_qsl, unquote, urlsplit

ALWAYS = 1 << 30
PAGE = b"<!DOCTYPE html><html><title>Sign in to this network</title></html>"


@dataclass(frozen=True)
class Blob:
    """The content of a file, in memory or on disk, and what hubs say of it."""

    content: bytes | Path
    size: int
    sha256: str
    git_blob: str

    def open(self) -> BinaryIO:
        return self.content.open("rb") if isinstance(self.content, Path) else BytesIO(self.content)


def blob(content: bytes | Path | Blob, sha256_of_it: str | None = None) -> Blob:
    """Hash `content`. A large file's sha256 may be given; its git id is then made up, as nobody asks for it."""
    if isinstance(content, Blob):
        return content
    if isinstance(content, bytes):
        git = sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(content, len(content), sha256(content).hexdigest(), git)
    if sha256_of_it is None:
        with content.open("rb") as file:
            sha256_of_it = file_digest(file, "sha256").hexdigest()
    return Blob(content, content.stat().st_size, sha256_of_it, sha1(sha256_of_it.encode()).hexdigest())


@dataclass(frozen=True)
class Request:
    """One request as it came: header names in lower case."""

    method: str
    target: str  # path and query as they were sent
    headers: Mapping[str, str]
    when: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))


@dataclass(frozen=True)
class Reply:
    """What to answer. The server itself adds Content-Length, and does ranges when the status is 200."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path | Blob = b""


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of this `method` (None: any); the rest of the reply is right.

    Offsets count in the file, not in the range that was asked for.
    """

    status: int | None = None  # this instead of the reply, with `headers` and `body`
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop_after: int | None = None  # the connection breaks after so many bytes of this answer; 0: before its status line
    flip: int | None = None  # the byte at this offset is another one
    truncate: int | None = None  # the file ends here, and Content-Length says so
    no_range: bool = False  # the range is ignored: 200 and everything
    no_length: bool = False  # no Content-Length; the end of the connection is the end
    hang: float | None = None  # seconds of silence before the answer (it ends with the server)
    rate: float | None = None  # bytes per second
    times: int = 1
    method: str | None = "GET"


def html(times: int = ALWAYS) -> Fault:
    """The page of a captive portal, status 200."""
    return Fault(status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body=PAGE, times=times)


class Server:
    """Serves `reply(request)` on a free port of the loopback until its `with` ends; keeps every request."""

    def __init__(self, reply: Callable[[Request], Reply], host: str = "127.0.0.1") -> None:
        self.reply = reply
        self.requests: list[Request] = []
        self.connections = 0  # so far
        self.closing = threading.Event()
        self.faults: list[tuple[str, Fault]] = []
        self.lock = threading.Lock()
        self.http = _Http((host, 0), _Handler)
        self.http.owner = self
        self.url = f"http://{host}:{self.http.server_port}"

    def fail(self, pattern: str, fault: Fault) -> None:
        """`fault` for requests whose decoded target (path?query) matches the shell pattern; earlier ones go first."""
        self.faults.append((pattern, fault))

    def __enter__(self) -> Self:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.http.close_all()

    def take_fault(self, request: Request) -> Fault | None:
        target = unquote(request.target)
        with self.lock:
            self.requests.append(request)
            for pattern, fault in self.faults:
                if fault.times > 0 and fault.method in (None, request.method) and fnmatchcase(target, pattern):
                    fault.times -= 1
                    return fault
        return None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: Server

    def __init__(self, *arguments) -> None:
        self.open_sockets: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address) -> None:
        self.open_sockets.add(request)
        self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no error of the test."""

    def close_all(self) -> None:
        for connection in list(self.open_sockets):
            super().shutdown_request(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Http

    def do_GET(self) -> None:
        owner = self.server.owner
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        fault = owner.take_fault(request) or Fault()
        if fault.hang is not None:
            owner.closing.wait(fault.hang)
        if fault.drop_after == 0:
            self._break()
            return
        if fault.status is None:
            self._answer(owner.reply(request), fault)
        else:
            self._answer(Reply(fault.status, fault.headers, fault.body), fault)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, reply: Reply, fault: Fault) -> None:
        body = blob(reply.body) if isinstance(reply.body, bytes) else reply.body
        size = body.size if isinstance(body, Blob) else body.stat().st_size
        total = size if fault.truncate is None else min(size, fault.truncate)
        start, stop, status, extra = 0, total, reply.status, {}
        asked = None if fault.no_range or reply.status != 200 else self.headers.get("Range")
        if asked:
            try:
                start, stop = _range(asked, total)
                status, extra = 206, {"Content-Range": f"bytes {start}-{stop - 1}/{total}"}
            except ValueError:
                start, stop, status, extra = 0, 0, 416, {"Content-Range": f"bytes */{total}"}
        self.send_response(status)
        headers = {"Accept-Ranges": "bytes", **reply.headers, **extra}
        if fault.no_length:
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(stop - start)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = self.close_connection or fault.no_length
        if self.command == "HEAD" or stop <= start:
            return
        end = stop if fault.drop_after is None else min(stop, start + fault.drop_after)
        with body.open("rb") if isinstance(body, Path) else body.open() as file:
            _send(self.connection, file, start, end, fault)
        if end < stop:
            self._break()

    def _break(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def _range(asked: str, size: int) -> tuple[int, int]:
    """First offset and the one after the last of `bytes=A-B`, `bytes=A-` or `bytes=-N`; `ValueError` for none."""
    first, last = asked.removeprefix("bytes=").split("-")
    if not first:
        return max(0, size - int(last)), size
    start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= stop:
        raise ValueError(asked)
    return start, stop


def _send(connection: socket.socket, file: BinaryIO, start: int, stop: int, fault: Fault) -> None:
    if fault.rate:
        step = max(1, int(fault.rate / 20))
        begun = time.monotonic()
        for offset in range(start, stop, step):
            end = min(stop, offset + step)
            _send_piece(connection, file, offset, end, fault.flip)
            time.sleep(max(0.0, begun + (end - start) / fault.rate - time.monotonic()))
    else:
        _send_piece(connection, file, start, stop, fault.flip)


def _send_piece(connection: socket.socket, file: BinaryIO, start: int, stop: int, flip: int | None) -> None:
    if flip is not None and start <= flip < stop:
        _send_piece(connection, file, start, flip, None)
        file.seek(flip)
        connection.sendall(bytes([file.read(1)[0] ^ 0x40]))
        start = flip + 1
    if start < stop:
        connection.sendfile(file, start, stop - start)
