"""Reads JSON exports as a stream: ijson's events, and errors in words."""

import calendar
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from train.chats.messages import LAST_SECOND
from train.chats.sources import ShallowJson, Source, json_fault, open_unpacked, skip_byte_order_mark
from train.core.errors import GovorError

Event = tuple[str, str, Any]


def events(source: Source) -> Iterator[Event]:
    """ijson's events of the file: (prefix, event, value); GovorError where its JSON is not whole."""
    import ijson

    with open_unpacked(source) as file:
        try:
            # use_float: ijson 3.6 crashes on an integer of thousands of digits without it
            yield from ijson.parse(ShallowJson(skip_byte_order_mark(file)), use_float=True)
        except (ijson.JSONError, ValueError) as error:
            place = f"{json_fault(error)} near byte {file.tell()}"
            raise GovorError(f"{source}: {place}: export or copy it again") from None


def value_at(stream: Iterator[Event], event: str, value: Any) -> Any:
    """The whole value that begins with this event, taken from the stream."""
    from ijson.common import ObjectBuilder

    builder = ObjectBuilder()
    builder.event(event, value)
    depth = 1 if event in ("start_map", "start_array") else 0
    while depth:
        _, event, value = next(stream)
        depth += {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}.get(event, 0)
        builder.event(event, value)
    return builder.value


def objects_in_lists(files: Iterable[Source]) -> Iterator[dict[str, Any]]:
    """The objects of files that are a list of objects each."""
    for source in files:
        stream = events(source)
        for prefix, event, value in stream:
            if prefix == "item" and event == "start_map":
                yield value_at(stream, event, value)


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def seconds_in(value: Any, unit: float = 1.0) -> int | None:
    """Seconds since 1970 of a number of units; None where it is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e16:
        return None
    seconds = int(value / unit)
    return seconds if 0 <= seconds < LAST_SECOND else None


def seconds_of_iso(value: Any) -> tuple[int | None, int]:
    """(seconds since 1970, seconds ahead of UTC) of an ISO date, UTC where it has no zone."""
    try:
        date = datetime.fromisoformat(value)
        offset = date.utcoffset()
        zone = int(offset.total_seconds()) if offset else 0
        seconds = calendar.timegm(date.timetuple()) - zone
    except (TypeError, ValueError, OverflowError):
        return None, 0
    return (seconds, zone if zone % 60 == 0 else 0) if 0 <= seconds < LAST_SECOND else (None, 0)
