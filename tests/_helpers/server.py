"""A web server on this machine that misbehaves as told."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Served:
    """Files by name, and how they are sent.

    ``plan`` has one entry for each request to come, a function of the handler that may send something and
    says whether that was all; after the last, and without one, requests are answered well.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    plan: list[Callable[["Handler"], bool]] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    slowness: float = 0.0
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of each request
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    served: Served

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        served = self.served
        served.seen.append((self.path, self.headers["Range"]))
        if served.plan and served.plan.pop(0)(self):
            return
        self.answer()

    @property
    def body(self) -> bytes | None:
        return self.served.files.get(self.path.rpartition("/")[2])

    @property
    def tag(self) -> str:
        return f'"{hash(self.body)}"'

    def answer(self, cut: int | None = None, honour_if_range: bool = True) -> None:
        """Send the file, or the piece that is asked for; ``cut``: break off after so many bytes."""
        body = self.body
        if body is None:
            self.send_error(404)
            return
        start = 0
        wanted = self.headers["Range"]
        same = self.headers["If-Range"] == self.tag or not honour_if_range
        if wanted and self.served.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if self.served.tags:
            self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        piece = body[start:] if cut is None else body[start : start + cut]
        if not self.served.slowness:
            self.wfile.write(piece)
            return
        for at in range(0, len(piece), 1 << 14):
            self.wfile.write(piece[at : at + (1 << 14)])
            time.sleep(self.served.slowness)


def truncate(after: int) -> Callable[[Handler], bool]:
    def act(handler: Handler) -> bool:
        handler.answer(cut=after)
        return True

    return act


def stall(after: int, seconds: float) -> Callable[[Handler], bool]:
    def act(handler: Handler) -> bool:
        handler.answer(cut=after)
        handler.wfile.flush()
        time.sleep(seconds)
        return True

    return act


def fail(code: int) -> Callable[[Handler], bool]:
    def act(handler: Handler) -> bool:
        handler.send_error(code)
        return True

    return act


@contextmanager
def serve() -> Iterator[Served]:
    served = Served()
    handler = type("BoundHandler", (Handler,), {"served": served})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
