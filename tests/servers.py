"""File servers on loopback: a web server with configurable faults, and an S3 server."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class WebServer(ThreadingHTTPServer):
    """Web server that answers the n-th GET of a path by its n-th behaviour, then by its last."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requests: list[str] = []
        """`METHOD PATH` of every request, without queries"""
        self.queries: list[str] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Set the behaviours of `path`; returns its URL."""
        self.behaviours[path] = list(behaviours)
        return self.url + path

    def gets(self, path: str) -> int:
        """Number of GET requests for `path`."""
        return self.requests.count(f"GET {path}")

    def handle_error(self, request, client_address):
        """Print nothing: tests close connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, WebServer)
        path, _, query = self.path.partition("?")
        with server.lock:
            number = server.gets(path)
            server.requests.append(f"{self.command} {path}")
            server.queries.append(query)
        behaviours = server.behaviours.get(path, [status(404)])
        behaviours[min(number, len(behaviours) - 1)](self)

    do_HEAD = do_GET

    def log_message(self, format, *args) -> None:
        pass


@contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server(monkeypatch) -> Iterator[str]:
    """Run an S3 server; yields its address and sets the AWS environment variables to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    # fsspec caches file systems, which keep the address of the previous server.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield endpoint
    finally:
        server.stop()


def body(data: bytes, etag: str = "", length: int | None = None) -> Behaviour:
    """Send all of `data`, with `length` as its Content-Length (None: the true one)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _start(handler, len(data) if length is None else length, etag)
        if handler.command == "GET":
            handler.wfile.write(data)
        if length is not None:
            handler.close_connection = True

    return answer


def unannounced(data: bytes) -> Behaviour:
    """Send `data` without a Content-Length: it ends with the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _start(handler, None)
        if handler.command == "GET":
            handler.wfile.write(data)
        handler.close_connection = True

    return answer


def slow_unannounced(data: bytes, pieces: int, pause: float) -> Behaviour:
    """Send `data` without a Content-Length in `pieces` parts, with a pause after each."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _start(handler, None)
        step = -(-len(data) // pieces)
        for start in range(0, len(data) if handler.command == "GET" else 0, step):
            handler.wfile.write(data[start : start + step])
            time.sleep(pause)
        handler.close_connection = True

    return answer


def endless(compressed: bool = False) -> Behaviour:
    """Send zeros until the client closes the connection, `compressed` a thousandfold with gzip."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if compressed:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        packer = zlib.compressobj(wbits=31)
        with suppress(OSError):
            while handler.command == "GET":
                zeros = bytes(1 << 20)
                piece = packer.compress(zeros) if compressed else zeros
                handler.wfile.write(piece + packer.flush(zlib.Z_SYNC_FLUSH) * compressed)
        handler.close_connection = True

    return answer


def chunked(data: bytes, cut: bool = False) -> Behaviour:
    """Send `data` in chunks of 1000 bytes; with `cut`, without the final empty chunk."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        if handler.command == "GET":
            for start in range(0, len(data), 1000):
                piece = data[start : start + 1000]
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if not cut:
                handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


def slow(data: bytes, pieces: int, pause: float, etag: str = "") -> Behaviour:
    """Send `data` in `pieces` parts with a pause of so many seconds after each."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _start(handler, len(data), etag)
        step = -(-len(data) // pieces)
        for start in range(0, len(data) if handler.command == "GET" else 0, step):
            handler.wfile.write(data[start : start + step])
            time.sleep(pause)

    return answer


def stall(data: bytes) -> Behaviour:
    """Send half of `data`, then nothing until the server is closed."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _start(handler, len(data))
        if handler.command == "GET":
            handler.wfile.write(data[: len(data) // 2])
            assert isinstance(handler.server, WebServer)
            handler.server.stopping.wait()
            handler.close_connection = True

    return answer


def status(code: int, **headers: str) -> Behaviour:
    """Send an error page with further headers, such as `retry_after="7"` (Retry-After)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        page = b"<html>no</html>"
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(page)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(page)

    return answer


def redirect(path: str) -> Behaviour:
    """Redirect to another path of this server."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def _start(handler: BaseHTTPRequestHandler, length: int | None, etag: str = "") -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    if etag:
        handler.send_header("ETag", f'"{etag}"')
    handler.end_headers()
