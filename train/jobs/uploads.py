"""A multipart form with a file, streamed to disk: of bounded size, complete or absent."""

import asyncio
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from train.core.files import aside_name, publish, sync_folder
from train.serving.api_errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FILE_BYTES = 512 * 2**20
"""Most bytes that a file may have."""
MAX_FIELD_BYTES = 4096
"""Most bytes that a form field other than the file may have."""
MAX_PARTS = 16
"""Most parts that a form may have."""
BUFFER_BYTES = 2**20
"""Bytes gathered before they are written, off the event loop."""


@dataclass
class Upload:
    """The form of an upload, except for the contents of `file`: they are on disk."""

    fields: dict[str, str] = field(default_factory=dict)
    """The form's other fields."""
    filename: str | None = None
    """The client's name for the file."""
    size: int = 0
    """Bytes of the file."""
    sha256: str = ""


async def receive_upload(request: Request, path: Path, max_bytes: int = MAX_FILE_BYTES, name: str = "file") -> Upload:
    """Write the form's part `name` to `path`. ApiError where it is no such form; then nothing is left on disk."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, f"Expected an upload as multipart/form-data with the part `{name}`.")
    if int(_number(request.headers.get("content-length"))) > max_bytes + MAX_PARTS * MAX_FIELD_BYTES:
        raise _too_large(max_bytes)
    aside = aside_name(path)
    try:
        with aside.open("xb") as file:
            form = _Form(max_bytes, name)
            try:
                await _fill(form, MultipartParser(boundary, form.callbacks()), request, file)
            except (FormParserError, ValueError):
                raise ApiError(400, "The upload is not a valid multipart form.") from None
            except ClientDisconnect:
                raise ApiError(400, "The upload was cut off.") from None
            if not form.complete:
                raise ApiError(400, "The upload was cut off: its last boundary is missing.")
            if form.upload.filename is None:
                raise ApiError(400, f"Missing required parameter: '{name}'.", param=name)
            await asyncio.to_thread(os.fsync, file.fileno())
        publish(aside, path, replace=True)
    finally:
        aside.unlink(missing_ok=True)
    await asyncio.to_thread(sync_folder, path.parent)
    return form.upload


async def _fill(form: "_Form", parser: MultipartParser, request: Request, file: IO[bytes]) -> None:
    """Parse the request's body and write the file in it as it comes, with its hash."""
    digest = hashlib.sha256()

    def write(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    async for chunk in request.stream():
        parser.write(chunk)
        if len(form.unwritten) >= BUFFER_BYTES:
            block, form.unwritten = bytes(form.unwritten), bytearray()
            await asyncio.to_thread(write, block)
    parser.finalize()
    await asyncio.to_thread(write, bytes(form.unwritten))
    file.flush()
    form.upload.sha256 = digest.hexdigest()


class _Form:
    """Gathers the form from the parser's callbacks."""

    def __init__(self, max_bytes: int, file: str) -> None:
        self.upload = Upload()
        self._file = file
        self.unwritten = bytearray()
        """The file's bytes that are not written yet."""
        self.complete = False
        self._max_bytes = max_bytes
        self._parts = 0
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._field = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ApiError(400, f"The upload has more than {MAX_PARTS} parts.")
        self._disposition, self._field = b"", bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", errors="replace")
        if self._name == self._file:
            if self.upload.filename is not None:
                raise ApiError(400, "Only one file can be uploaded at a time.", param=self._file)
            self.upload.filename = _display_name(options.get(b"filename", b""))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file:
            self.upload.size += end - start
            if self.upload.size > self._max_bytes:
                raise _too_large(self._max_bytes)
            self.unwritten += data[start:end]
        else:
            self._field += data[start:end]
            if len(self._field) > MAX_FIELD_BYTES:
                raise ApiError(400, f"A form field is longer than {MAX_FIELD_BYTES} bytes.")

    def part_end(self) -> None:
        if self._name != self._file:
            self.upload.fields[self._name] = self._field.decode("utf-8", errors="replace")

    def end(self) -> None:
        self.complete = True


def _display_name(raw: bytes) -> str:
    """The client's name without folders, for people to read; nothing on disk is called so."""
    name = re.split(r"[/\\]", raw.decode("utf-8", errors="replace"))[-1]
    return "".join(letter for letter in name if letter.isprintable())[:255] or "upload"


def _number(text: str | None) -> str:
    """A header's number as digits; 0 where it is none."""
    return text if text and text.isascii() and text.isdigit() and len(text) < 19 else "0"


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"The file is larger than {max_bytes // 2**20} MB.", param="file", code="file_too_large")
