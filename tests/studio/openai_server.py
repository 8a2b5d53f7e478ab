"""A small server that speaks OpenAI's streaming chat, and remembers what it was asked."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def openai_server(answers: dict[str, str]):
    """`answers`: model → what it says to everything, a word a chunk. Yields (base URL, list of requests)."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            models = [
                {"id": name, "object": "model", "metadata": {"system_message": f"Ты {name}."}} for name in answers
            ]
            self.reply(200, json.dumps({"object": "list", "data": models}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            if body["model"] not in answers:
                self.reply(404, json.dumps({"error": {"message": "no such model"}}).encode())
                return
            chunks = [
                {"choices": [{"delta": {"content": word}}]} for word in re.findall(r"\S+\s*", answers[body["model"]])
            ]
            chunks.append({"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]})
            text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            self.reply(200, text.encode(), "text/event-stream")

        def reply(self, status: int, body: bytes, kind: str = "application/json"):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
