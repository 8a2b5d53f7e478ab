"""The key of an engine, as middleware inside the engine's own process, on every route that it has but /health.

vLLM's own key leaves some of its routes open (/tokenize, /invocations), and `transformers serve` knows none. The folder
of this file is on the engine's PYTHONPATH and holds nothing else; the engine's environment may have nothing of ours, so
only the standard library is imported. The key comes in an environment variable: others can read command lines.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY_VARIABLE = "GOVOR_ENGINE_KEY"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class EngineKey:
    """ASGI middleware that answers 401 to requests without `Authorization: Bearer KEY`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self.expected = f"Bearer {os.environ[KEY_VARIABLE]}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] == "lifespan" or scope.get("path") == "/health"
        if is_open or hmac.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error":{"message":"This engine is govor\'s."}}'})
        else:
            await send({"type": "websocket.close", "code": 1008})
