"""What the studio's routes have in common: errors that are answers, and bodies that no other page can send."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from train.core.errors import GovorError
from train.serving.api_errors import ApiError


class StudioRoute(APIRoute):
    """A route whose GovorErrors are answers: they say in a line what is wrong, and how to mend it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except GovorError as error:
                return ApiError(400, str(error)).response()
            except OSError as error:
                return ApiError(500, f"{error.filename or 'disk'}: {error.strerror or error}").response()

        return handle


def require_json(request: Request) -> None:
    """ApiError 415 unless a body comes as JSON, which no other web page can send without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "expected a body in application/json")
