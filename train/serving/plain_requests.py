"""Requests as the routes expect them: GET for HEAD, paths without trailing slashes, bodies unpacked."""

import re
import zlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train.serving.api_errors import ApiError

PIECE = 2**20
"""Most bytes that are unpacked at once, so that whoever counts a body can stop in time."""


class PlainRequests:
    """Middleware that lets clients write a request in every way that means the same.

    The web server leaves out the body of an answer to HEAD by itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        scope["path"] = re.sub("//+", "/", scope["path"]).rstrip("/") or "/"
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        headers = MutableHeaders(scope=scope)
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("gzip", "x-gzip"):
            del headers["content-encoding"]
            del headers["content-length"]  # of the packed body
            receive = Unpacked(receive)
        elif encoding not in ("", "identity"):
            text = f"A body in {encoding[:64]!r} cannot be read: send it as it is, or in gzip."
            await ApiError(415, text, param="content-encoding").response()(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Unpacked:
    """Receives a gzip'd body piece by piece; ApiError where it is none, or is cut off."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._packed = b""
        self._more = True
        """Whether more is to be received."""
        self._unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._ended = False

    async def __call__(self) -> Message:
        while not self._ended:
            if not self._packed and self._more:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._packed, self._more = message.get("body", b""), message.get("more_body", False)
            try:
                body = self._unpacker.decompress(self._packed, PIECE)
            except zlib.error:
                raise ApiError(400, "The body is not gzip, as its content-encoding says.") from None
            self._packed = self._unpacker.unconsumed_tail
            whole = self._unpacker.eof
            if whole and self._unpacker.unused_data:
                raise ApiError(400, "The gzip'd body has something behind its end.")
            if not whole and not self._packed and not self._more and not body:
                raise ApiError(400, "The gzip'd body is cut off.")
            if whole and not self._more:
                self._ended = True
            if body or self._ended:
                return {"type": "http.request", "body": body, "more_body": not self._ended}
        return await self._receive()
