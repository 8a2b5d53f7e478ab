"""An HTTP server on loopback in place of a service that cannot be reached: it keeps the requests."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    content: bytes

    def json(self) -> dict:
        return json.loads(self.content)


Answer = tuple[int, dict | str] | tuple[int, dict | str, dict[str, str]] | None
"""Status, JSON or text, perhaps headers; None: the connection is cut."""


class StandIn:
    """Answers as `answer` says for each request."""

    def __init__(self, answer: Callable[[Request], Answer]):
        self.requests: list[Request] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, sent)
                stand_in.requests.append(request)
                answered = answer(request)
                if answered is None:
                    self.close_connection = True
                    return
                status, content, *more = answered
                body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if isinstance(content, str) else "application/json")
                self.send_header("content-length", str(len(body)))
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                with suppress(ConnectionError):  # the client did not wait for it
                    self.end_headers()
                    self.wfile.write(body)

            do_POST = do_PUT = do_GET  # noqa: N815

            def handle(self) -> None:
                with suppress(ConnectionError):  # the client has left
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
