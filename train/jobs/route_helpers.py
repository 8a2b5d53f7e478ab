"""What all routes share: answers out of the store, the list envelope, requests read into objects."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request, Response
from pydantic import ValidationError

from train.jobs import wire
from train.jobs.change import Change
from train.jobs.store import NoSuchCursorError, Page, Store
from train.jobs.wire import JobRequest
from train.serving.api_errors import ApiError

RETRY_WINDOW = 15 * 60
"""Seconds in which a repeated request counts as the same one: the SDKs' timeout is ten minutes."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.Envelope} for status in (400, 401, 403, 404, 409, 413, 503)
}
T = TypeVar("T")
After = Annotated[str | None, Query()]
Order = Annotated[Literal["asc", "desc"], Query()]


def listed(
    store: Store,
    table: str,
    where: list[tuple[str, Any]],
    after: str | None,
    limit: int,
    *,
    oldest_first: bool = False,
    ends: bool = False,
) -> Response:
    """The list envelope; `ends`: with first_id and last_id."""
    try:
        page = store.page(table, where, after=after, limit=limit, oldest_first=oldest_first)
    except NoSuchCursorError:
        raise ApiError(400, f"No object with the id '{after}' in this list: 'after'.", param="after") from None
    more = f',"has_more":{"true" if page.has_more else "false"}'
    if ends:
        more += f',"first_id":{_id(page, 0)},"last_id":{_id(page, -1)}'
    return as_json(f'{{"object":"list","data":[{",".join(page.objects)}]{more}}}')


def _id(page: Page, at: int) -> str:
    return json.dumps(json.loads(page.objects[at])["id"]) if page.objects else "null"


def as_json(text: str) -> Response:
    """The store's own JSON: it is not parsed and written again."""
    return Response(text.encode(), media_type="application/json")


def read_request(kind: type[JobRequest], raw: bytes) -> JobRequest:
    """The request of a JSON body; ApiError 400 that names the field."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    first, param = errors[0], _param(errors[0]["loc"])
    said = [f"{e['msg'][0].lower()}{e['msg'][1:]}" for e in errors if _param(e["loc"]) == param]
    if first["type"] == "json_invalid":
        raise ApiError(400, "We could not parse the JSON body of your request.")
    if first["type"] == "extra_forbidden":
        raise ApiError(400, f"Unrecognized request argument supplied: {param}", param=param)
    if first["type"] == "missing":
        raise ApiError(400, f"Missing required parameter: '{param}'.", param=param)
    if param == "suffix":
        raise ApiError(400, "suffix: 1 to 64 letters a-z, A-Z, digits, `_` and `-`.", param=param)
    raise ApiError(400, f"Invalid {repr(param) if param else 'request'}: {', or '.join(said)}.", param=param)


def _param(at: tuple[int | str, ...]) -> str | None:
    """The field's name; pydantic adds the branch of a union to the place."""
    return ".".join(str(part) for part in at if not str(part).startswith(("literal[", "constrained-"))) or None


def is_retry(request: Request) -> bool:
    """Whether an SDK says that it has sent this before."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and count.strip("0") != ""


def changed(store: Store, what: Callable[[Change], T]) -> T:
    """A transaction of one step; it waits for the disk, so not on the event loop."""
    with store.change() as change:
        return what(change)


def found(text: str | None, otherwise: ApiError) -> str:
    """An object's JSON, or the error where there is none."""
    if text is None:
        raise otherwise
    return text
