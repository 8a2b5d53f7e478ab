"""What all routes share: responses out of the store, lists, and the signs of a repeated request."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request, Response
from pydantic import BaseModel

from train.jobs import wire
from train.jobs.change import Change
from train.jobs.store import NoSuchCursorError, Page, Store
from train.serving.api_errors import ApiError

RETRY_WINDOW = 15 * 60
"""Seconds in which a repeated request counts as the same one: the SDKs' timeout is ten minutes."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.ErrorEnvelope} for status in (400, 401, 403, 404, 409, 413, 500, 503, 507)
}
T = TypeVar("T")
After = Annotated[str | None, Query(max_length=128)]
Order = Annotated[Literal["asc", "desc"], Query()]


def list_response(
    store: Store,
    table: str,
    where: list[tuple[str, Any]],
    after: str | None,
    limit: int,
    *,
    oldest_first: bool = False,
    with_ids: bool = False,
) -> Response:
    """A page of a list in OpenAI's form. `where`: see Store.page; `with_ids`: with first_id and last_id."""
    try:
        page = store.page(table, where, after=after, limit=limit, oldest_first=oldest_first)
    except NoSuchCursorError:
        raise ApiError(400, f"No object with the id '{after}' in this list: 'after'.", param="after") from None
    more = f',"has_more":{"true" if page.has_more else "false"}'
    if with_ids:
        more += f',"first_id":{_id(page, 0)},"last_id":{_id(page, -1)}'
    return json_response(f'{{"object":"list","data":[{",".join(page.objects)}]{more}}}')


def _id(page: Page, at: int) -> str:
    """JSON of the id of one of the page's objects."""
    return json.dumps(json.loads(page.objects[at])["id"]) if page.objects else "null"


def json_response(text: str) -> Response:
    """A response with JSON out of the store, which need not be parsed and written again."""
    return Response(text.encode(), media_type="application/json")


def is_retry(request: Request) -> bool:
    """Whether an SDK says that it has sent this request before."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and count.strip("0") != ""


def apply_change(store: Store, act: Callable[[Change], T]) -> T:
    """Run `act` in a transaction and return its result. It waits for the disk, so not on the event loop."""
    with store.change() as change:
        return act(change)


def require_found(text: str | None, error: ApiError) -> str:
    """An object's JSON; raises the error where there is none."""
    if text is None:
        raise error
    return text


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """The description of a JSON body, for OpenAPI."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
