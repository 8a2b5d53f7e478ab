"""A multipart upload, streamed to disk: bounded, whole or absent."""

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

from train.core.files import aside_name, sync_folder
from train.serving.api_errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

LARGEST = 512 * 2**20
"""Bytes of one file."""
FIELD = 4096
"""Bytes of a form field that is no file."""
PARTS = 16
BUFFER = 2**20
"""Bytes gathered before they are written, off the event loop."""


@dataclass
class Upload:
    """The parts of the form. The contents of `file` are on disk, under the name that was given."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0
    sha256: str = ""


async def receive(request: Request, path: Path, largest: int = LARGEST) -> Upload:
    """Write the part `file` to `path`; ApiError for what is no such form, and then nothing is left on disk."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, "Expected an upload as multipart/form-data with the parts `purpose` and `file`.")
    if int(_digits(request.headers.get("content-length"))) > largest + PARTS * FIELD:
        raise _too_large(largest)
    aside = aside_name(path)
    try:
        with aside.open("xb") as file:
            form = _Form(largest)
            try:
                await _fill(form, MultipartParser(boundary, form.callbacks()), request, file)
            except (FormParserError, ValueError):
                raise ApiError(400, "The upload is not a valid multipart form.") from None
            except ClientDisconnect:
                raise ApiError(400, "The upload was cut off.") from None
            if not form.complete:
                raise ApiError(400, "The upload was cut off: its last boundary is missing.")
            if form.upload.filename is None:
                raise ApiError(400, "Missing required parameter: 'file'.", param="file")
            await asyncio.to_thread(os.fsync, file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    await asyncio.to_thread(sync_folder, path.parent)
    return form.upload


async def _fill(form: "_Form", parser: MultipartParser, request: Request, file: IO[bytes]) -> None:
    digest = hashlib.sha256()

    def write(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    async for chunk in request.stream():
        parser.write(chunk)
        if len(form.waiting) >= BUFFER:
            block, form.waiting = bytes(form.waiting), bytearray()
            await asyncio.to_thread(write, block)
    parser.finalize()
    await asyncio.to_thread(write, bytes(form.waiting))
    file.flush()
    form.upload.sha256 = digest.hexdigest()


class _Form:
    """What the parser's callbacks gather."""

    def __init__(self, largest: int) -> None:
        self.upload = Upload()
        self.waiting = bytearray()
        """Bytes of the file that are not written yet."""
        self.complete = False
        self._largest = largest
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
        if self._parts > PARTS:
            raise ApiError(400, f"The upload has more than {PARTS} parts.")
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
        if self._name == "file":
            if self.upload.filename is not None:
                raise ApiError(400, "Only one file can be uploaded at a time.", param="file")
            self.upload.filename = _display_name(options.get(b"filename", b""))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.upload.size += end - start
            if self.upload.size > self._largest:
                raise _too_large(self._largest)
            self.waiting += data[start:end]
        else:
            self._field += data[start:end]
            if len(self._field) > FIELD:
                raise ApiError(400, f"A form field is longer than {FIELD} bytes.")

    def part_end(self) -> None:
        if self._name != "file":
            self.upload.fields[self._name] = self._field.decode("utf-8", errors="replace")

    def end(self) -> None:
        self.complete = True


def _display_name(raw: bytes) -> str:
    """The last part of the client's name, for people to read; nothing on disk is called so."""
    name = re.split(r"[/\\]", raw.decode("utf-8", errors="replace"))[-1]
    return "".join(letter for letter in name if letter.isprintable())[:255] or "upload"


def _digits(text: str | None) -> str:
    return text if text and text.isascii() and text.isdigit() and len(text) < 19 else "0"


def _too_large(largest: int) -> ApiError:
    return ApiError(413, f"The file is larger than {largest // 2**20} MB.", param="file", code="file_too_large")
