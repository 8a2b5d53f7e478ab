"""The routes of files."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, TypeAdapter, ValidationError

from train.jobs import wire
from train.jobs.change import new_id
from train.jobs.route_helpers import (
    RETRY_WINDOW,
    After,
    Order,
    apply_change,
    is_retry,
    json_response,
    list_response,
    require_found,
)
from train.jobs.store import Store, remove_file
from train.jobs.uploads import MAX_FILE_BYTES, receive_upload
from train.jobs.wire import File
from train.serving.api_errors import ApiError

PURPOSES = get_args(wire.Purpose)
Lifetime = Annotated[int, Field(ge=3600, le=2_592_000)]
"""Seconds after which a file is deleted."""


def add_file_routes(routes: APIRouter, store: Store) -> None:
    """Add the routes of files: upload, list, retrieve, delete, download."""

    @routes.post("/files", response_model=wire.File, openapi_extra=UPLOAD)
    async def upload(request: Request) -> Response:
        id_ = new_id("file-")
        path = store.file_path(id_)
        await asyncio.to_thread(store.reserve, id_)
        form = await receive_upload(request, path)
        try:
            file = _file_object(id_, form.fields, form.filename or "upload", form.size)
            text = await asyncio.to_thread(add_file, store, file, form.sha256, is_retry(request))
        except Exception:  # a cancelled request may be in the store already: the next start sweeps what is not
            remove_file(path)
            raise
        if text is not None:  # the first answer was lost on its way
            remove_file(path)
            return json_response(text)
        return json_response(file.model_dump_json())

    @routes.get("/files", response_model=wire.Files)
    async def files(
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Order = "desc",
        purpose: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        where: list[tuple[str, Any]] = [("(expires_at IS NULL OR expires_at > ?)", int(time.time()))]
        if purpose is not None:
            where.append(("purpose = ?", purpose))
        return list_response(store, "files", where, after, limit, oldest_first=order == "asc", with_ids=True)

    @routes.get("/files/{file_id}", response_model=wire.File)
    async def file(file_id: str) -> Response:
        return json_response(require_found(store.object_json("files", file_id), _no_file(file_id)))

    @routes.delete("/files/{file_id}", response_model=wire.Deleted)
    async def delete_file(file_id: str) -> Response:
        require_found(store.object_json("files", file_id), _no_file(file_id))
        if not await asyncio.to_thread(apply_change, store, lambda change: change.delete("files", file_id)):
            raise _no_file(file_id)
        remove_file(store.file_path(file_id))
        return json_response(wire.Deleted(id=file_id, object="file").model_dump_json())

    @routes.get("/files/{file_id}/content", response_class=Response, responses=CONTENT_RESPONSES)
    async def content(file_id: str) -> Response:
        file = File.model_validate_json(require_found(store.object_json("files", file_id), _no_file(file_id)))
        return _download(store.file_path(file_id), file)


def _file_object(id_: str, fields: dict[str, str], filename: str, size: int) -> File:
    """The object of an uploaded file; ApiError where the form's fields are wrong."""
    purpose = fields.get("purpose")
    if purpose is None:
        raise ApiError(400, "Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in PURPOSES:
        raise ApiError(400, f"'{purpose[:64]}' is not one of {list(PURPOSES)} - 'purpose'", param="purpose")
    now = int(time.time())
    seconds = fields.get("expires_after[seconds]")
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise ApiError(400, "expires_after[anchor] can only be 'created_at'.", param="expires_after[anchor]")
    lifetime = 2_592_000 if purpose == "batch" else None
    if seconds is not None:
        try:
            lifetime = TypeAdapter(Lifetime).validate_python(seconds)
        except ValidationError:
            message = "expires_after[seconds] must be a number from 3600 to 2592000."
            raise ApiError(400, message, param="expires_after[seconds]") from None
    expires_at = now + lifetime if lifetime else None
    return File(id=id_, purpose=purpose, filename=filename, bytes=size, created_at=now, expires_at=expires_at)


def add_file(store: Store, file: File, sha256: str, retried: bool) -> str | None:
    """Add the file; where this very request has uploaded it before, add nothing and return the JSON of that one."""
    with store.change() as change:
        earlier = change.same_file(file, sha256, file.created_at - RETRY_WINDOW) if retried else None
        if earlier is None:
            change.add_file(file, sha256)
    return earlier


def _download(path: Path, file: File) -> Response:
    """The contents as they were uploaded, under the client's own name."""
    try:
        contents = path.open("rb")
    except FileNotFoundError:
        raise _no_file(file.id) from None
    ascii_name = "".join(letter if letter.isascii() and letter not in '"\\' else "_" for letter in file.filename)
    disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(file.filename, safe='')}"

    def blocks() -> Iterable[bytes]:
        with contents:
            while block := contents.read(2**18):
                yield block

    headers = {"content-disposition": disposition, "content-length": str(file.bytes)}
    return StreamingResponse(blocks(), media_type="application/octet-stream", headers=headers)


def _no_file(id_: str) -> ApiError:
    return ApiError(404, f"No such File object: {id_}", param="id")


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "file": {"type": "string", "format": "binary", "maxLength": MAX_FILE_BYTES},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}
CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
