"""What the studio's routes have in common: errors that are answers, and bodies that no other page can send."""

import json
from collections.abc import Callable, Coroutine
from math import isfinite
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


def json_answer(value: Any) -> Response:
    """JSON of what somebody's files hold: halves of characters stay escaped, numbers that JSON has no word for go."""
    return Response(json.dumps(_finite(value)), media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def require_json(request: Request) -> None:
    """ApiError 415 unless a body comes as JSON, which no other web page can send without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "expected a body in application/json")
