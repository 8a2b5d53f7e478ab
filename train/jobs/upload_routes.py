"""The routes of uploads: a large file in parts, which become one file when the upload is completed."""

import asyncio
import hashlib
import os
import time
from pathlib import Path

from fastapi import APIRouter, Request, Response

from train.core.files import aside_name, publish, sync_folder
from train.jobs.change import Change, new_id
from train.jobs.route_helpers import is_retry, json_response, request_body
from train.jobs.store import Store, remove_file
from train.jobs.uploads import MAX_FILE_BYTES, receive_upload
from train.jobs.wire import CompleteRequest, File, Upload, UploadPart, UploadRequest
from train.serving.answering import read_body
from train.serving.api_errors import ApiError, read_request

LIFETIME = 3600
"""Seconds that an upload may take, as OpenAI has it; its parts are deleted then."""
MAX_PART_BYTES = 64 * 2**20
"""Most bytes that a part may have, as OpenAI has it."""
MAX_REQUEST_BYTES = 2**20
BLOCK = 2**20


def add_upload_routes(routes: APIRouter, store: Store) -> None:
    """Add the routes of uploads: create, add a part, complete, cancel."""

    @routes.post("/uploads", response_model=Upload, openapi_extra=request_body(UploadRequest))
    async def create(request: Request) -> Response:
        body = read_request(UploadRequest, await read_body(request, MAX_REQUEST_BYTES))
        if body.bytes > MAX_FILE_BYTES:
            text = f"A file has at most {MAX_FILE_BYTES} bytes on this server."
            raise ApiError(400, text, param="bytes", code="file_too_large")
        now = int(time.time())
        lifetime = body.expires_after.seconds if body.expires_after else 2_592_000 if body.purpose == "batch" else None
        upload = Upload(
            id=new_id("upload_"), bytes=body.bytes, created_at=now, expires_at=now + LIFETIME,
            filename=body.filename, purpose=body.purpose,
        )  # fmt: skip
        await asyncio.to_thread(_add, store, upload, lifetime)
        return json_response(upload.model_dump_json())

    @routes.post("/uploads/{upload_id}/parts", response_model=UploadPart, openapi_extra=PART)
    async def add_part(upload_id: str, request: Request) -> Response:
        await asyncio.to_thread(_pending, store, upload_id)
        file = new_id("file-")
        path = store.file_path(file)
        await asyncio.to_thread(store.reserve, file)
        form = await receive_upload(request, path, MAX_PART_BYTES, "data")
        part = UploadPart(id=file.replace("file-", "part_"), created_at=int(time.time()), upload_id=upload_id)
        try:
            await asyncio.to_thread(_add_part, store, part, file, form.size)
        except Exception:
            remove_file(path)
            raise
        return json_response(part.model_dump_json())

    @routes.post("/uploads/{upload_id}/complete", response_model=Upload, openapi_extra=request_body(CompleteRequest))
    async def complete(upload_id: str, request: Request) -> Response:
        body = read_request(CompleteRequest, await read_body(request, MAX_REQUEST_BYTES))
        upload = await asyncio.to_thread(_complete, store, upload_id, body, is_retry(request))
        return json_response(upload.model_dump_json())

    @routes.post("/uploads/{upload_id}/cancel", response_model=Upload)
    async def cancel(upload_id: str) -> Response:
        upload = await asyncio.to_thread(_cancel, store, upload_id)
        return json_response(upload.model_dump_json())


def _add(store: Store, upload: Upload, lifetime: int | None) -> None:
    with store.change() as change:
        change.add_upload(upload, lifetime)


def _pending(store: Store, upload_id: str) -> None:
    """ApiError where the upload takes no parts."""
    with store.change() as change:
        _find(change, upload_id)


def _find(change: Change, upload_id: str) -> tuple[Upload, int | None]:
    """A pending upload, with the seconds that its file will have; ApiError where there is none."""
    found = change.upload(upload_id)
    if found is None:
        raise ApiError(404, f"No such Upload object: {upload_id}", param="upload_id")
    upload = found[0]
    late = upload.status == "pending" and upload.expires_at <= time.time()
    if late or upload.status != "pending":
        text = f"Upload {upload_id} has status '{'expired' if late else upload.status}': begin a new one."
        raise ApiError(400, text, param="upload_id")
    return found


def _add_part(store: Store, part: UploadPart, file: str, size: int) -> None:
    with store.change() as change:
        upload, _ = _find(change, part.upload_id)
        total = size + sum(other for _, other in change.parts(part.upload_id).values())
        if total > upload.bytes + MAX_PART_BYTES:  # a part that is sent again comes on top
            text = f"The parts have {total} bytes in all, and {upload.bytes} were announced."
            raise ApiError(400, text, param="data")
        change.add_part(part, file, size)


def _complete(store: Store, upload_id: str, request: CompleteRequest, retried: bool) -> Upload:
    """Join the parts; the upload with its file. ApiError where they are not what was announced: it stays pending."""
    with store.change() as change:
        found = change.upload(upload_id)
        if retried and found and found[0].status == "completed":  # the first answer was lost on its way
            return found[0]
        upload, lifetime = _find(change, upload_id)
        parts = change.parts(upload_id)
        files = [parts[part] for part in request.part_ids if part in parts]
    if len(files) < len(request.part_ids) or len(set(request.part_ids)) < len(files):
        text = "Expected the ids of this upload's parts, in order, each once."
        raise ApiError(400, text, param="part_ids")
    if (size := sum(size for _, size in files)) != upload.bytes:
        text = f"The parts have {size} bytes together, and {upload.bytes} were announced."
        raise ApiError(400, text, param="part_ids")
    id_ = new_id("file-")
    path = store.file_path(id_)
    store.reserve(id_)
    try:
        md5, sha256 = _join([store.file_path(file) for file, _ in files], path)
        if request.md5 is not None and request.md5.lower() != md5:
            text = f"The file's MD5 is {md5}, not {request.md5.lower()}: a part is damaged or the order is another."
            raise ApiError(400, text, param="md5")
        now = int(time.time())
        expires_at = now + lifetime if lifetime else None
        file = File(
            id=id_, purpose=upload.purpose, filename=upload.filename, bytes=size, created_at=now, expires_at=expires_at
        )
        with store.change() as change:
            _find(change, upload_id)  # somebody may have completed or cancelled it meanwhile
            change.add_file(file, sha256)
            upload.status, upload.file = "completed", file
            left = change.end_upload(upload)
    except Exception:
        remove_file(path)
        raise
    for name in left:
        remove_file(store.file_path(name))
    return upload


def _join(parts: list[Path], path: Path) -> tuple[str, str]:
    """Write the parts' contents to a file, on disk when this returns; (md5, sha256) of it."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    aside = aside_name(path)
    try:
        with aside.open("xb") as file:
            for part in parts:
                with part.open("rb") as contents:
                    while block := contents.read(BLOCK):
                        md5.update(block)
                        sha256.update(block)
                        file.write(block)
            file.flush()
            os.fsync(file.fileno())
        publish(aside, path, replace=True)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return md5.hexdigest(), sha256.hexdigest()


def _cancel(store: Store, upload_id: str) -> Upload:
    with store.change() as change:
        upload, _ = _find(change, upload_id)
        upload.status = "cancelled"
        left = change.end_upload(upload)
    for name in left:
        remove_file(store.file_path(name))
    return upload


PART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary", "maxLength": MAX_PART_BYTES}},
                }
            }
        },
    }
}
