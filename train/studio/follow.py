"""The lines of metrics.jsonl as server-sent events, while they are written.

The id of an event is the byte offset behind its last line, then `-` and a checksum of the bytes before that offset. A
client that was cut off names the last id it has seen and goes on behind it: nothing is lost or comes twice, also where
the server was killed. A resumed training writes the file anew without the steps that it takes again; then the offset or
the checksum does not fit, and the client is told to begin anew (event `reset`).
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

POLL = 0.2  # seconds between two looks at the file
HEARTBEAT = 10.0  # seconds of silence after which a comment shows a broken connection
MOST = 1 << 20  # bytes of the file in one event
CHECKED = 256  # bytes before the offset that the checksum covers


class Point(msgspec.Struct, omit_defaults=True):
    """A line of metrics.jsonl, as far as the page draws it."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    num_tokens: float | None = None
    tokens_per_second: float | None = None
    memory_gib: float | None = None


class Mark(NamedTuple):
    """A place in the file behind a whole line."""

    offset: int = 0
    check: int = 0

    def __str__(self) -> str:
        return f"{self.offset}-{self.check:08x}"

    @classmethod
    def parse(cls, text: str | None) -> "Mark":
        """The mark of an event's id; the beginning of the file where it is none."""
        offset, _, check = (text or "").partition("-")
        try:
            return cls(max(0, int(offset)), int(check, 16))
        except ValueError:
            return cls()


class Read(NamedTuple):
    """What was read behind a mark."""

    mark: Mark
    points: list[Point]
    reset: bool
    """The file does not go on from the mark: the points are from its beginning."""


_decoder = msgspec.json.Decoder(Point)


def read_after(file: Path, mark: Mark) -> Read:
    """The whole lines behind the mark, at most MOST bytes of them; a line that is damaged is passed over."""
    try:
        handle = file.open("rb")
    except FileNotFoundError:
        return Read(Mark(), [], reset=mark.offset > 0)
    with handle:
        reset = mark != Mark() and _checksum(handle, mark.offset) != mark.check
        offset = 0 if reset else mark.offset
        handle.seek(offset)
        block = handle.read(MOST)
        block = block[: block.rfind(b"\n") + 1]
        if not block and not reset:
            return Read(mark, [], reset=False)
        end = offset + len(block)
        new = Mark(end, _checksum(handle, end) or 0) if end else Mark()
    points = []
    for line in block.splitlines():
        try:
            points.append(_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return Read(new, points, reset)


def _checksum(file: IO[bytes], offset: int) -> int | None:
    """CRC-32 of the bytes before the offset; None where the file is shorter."""
    start = max(0, offset - CHECKED)
    file.seek(start)
    found = file.read(offset - start)
    return zlib.crc32(found) if len(found) == offset - start else None


async def events(file: Path, mark: Mark) -> AsyncIterator[bytes]:
    """Events with the lines behind the mark, those that are there and those that come, until the client leaves."""
    silent = 0.0
    while True:
        read = await asyncio.to_thread(read_after, file, mark)
        mark = read.mark
        if read.reset:
            yield b"event: reset\ndata: {}\n\n"
        if read.points or read.reset:
            yield b"id: %s\nevent: points\ndata: %s\n\n" % (str(mark).encode(), msgspec.json.encode(read.points))
            silent = 0.0
            continue
        await asyncio.sleep(POLL)
        silent += POLL
        if silent >= HEARTBEAT:
            yield b": here\n\n"
            silent = 0.0
