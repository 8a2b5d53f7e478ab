"""Routes of the page Rows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from train.serving.api_errors import ApiError, read_request
from train.studio import rows_file
from train.studio.routing import StudioRoute, require_json
from train.studio.seen import Viewer, find_configs

MOST = 100
"""Rows on a page."""


class Decision(BaseModel):
    """What a person says of a row."""

    model_config = ConfigDict(extra="forbid")
    line: int
    said: rows_file.Said | None
    text: str | None = None


class Kept(BaseModel):
    """The name of the new file."""

    model_config = ConfigDict(extra="forbid")
    name: str


def row_routes(folders: Sequence[Path], viewer: Viewer) -> APIRouter:
    """Files of rows: paged, searched, seen as the model sees them, decided on, written anew."""
    routes = APIRouter(prefix="/studio/rows", route_class=StudioRoute, include_in_schema=False)

    def file_of(id_: str) -> Path:
        path = rows_file.find_files(folders).get(id_)
        if path is None:
            raise ApiError(404, f"{id_}: no such file of rows in the studio's folders")
        return path

    @routes.get("")
    async def files() -> Any:
        found = rows_file.find_files(folders).items()
        listed = [{"id": id_, "path": str(path), "bytes": path.stat().st_size} for id_, path in found]
        return {"files": listed, "configs": list(find_configs(folders))}

    @routes.get("/{id_}")
    async def page(id_: str, start: int = 0, count: int = 10, search: str = "") -> Any:
        path = file_of(id_)
        return await asyncio.to_thread(_page, path, max(0, start), max(1, min(count, MOST)), search)

    @routes.get("/{id_}/seen")
    async def seen(id_: str, config: str, lines: str) -> Any:
        path, known = file_of(id_), find_configs(folders)
        if config not in known:
            raise ApiError(404, f"{config}: no such config in the studio's folders")
        try:
            numbers = {int(number) for number in lines.split(",")}
        except ValueError:
            raise ApiError(400, f"lines={lines[:80]}: expected numbers of lines") from None
        index = rows_file.index_of(path)
        places = [place for place, number in enumerate(index.numbers) if number in numbers][:MOST]
        asked = [(line.number, line.raw) for line in rows_file.read_lines(path, places)]
        return {"lines": await asyncio.to_thread(viewer.show, *known[config], path, asked)}

    @routes.get("/{id_}/check")
    async def check(id_: str) -> Any:
        return await asyncio.to_thread(rows_file.check, file_of(id_))

    @routes.get("/{id_}/alike")
    async def alike(id_: str) -> Any:
        return {"groups": await asyncio.to_thread(rows_file.alike_groups, file_of(id_))}

    @routes.post("/{id_}/decide")
    async def decide(id_: str, request: Request) -> Any:
        require_json(request)
        said = read_request(Decision, await request.body())
        await asyncio.to_thread(rows_file.decide, file_of(id_), said.line, said.said, said.text)
        return {"said": said.said}

    @routes.post("/{id_}/write")
    async def write(id_: str, request: Request) -> Any:
        require_json(request)
        kept = read_request(Kept, await request.body())
        return await asyncio.to_thread(rows_file.write_kept, file_of(id_), kept.name)

    return routes


def _page(path: Path, start: int, count: int, words: str) -> dict[str, Any]:
    index = rows_file.index_of(path)
    found = rows_file.search(path, words) if words.strip() else range(len(index.starts))
    decisions = rows_file.decisions_of(path)
    lines = rows_file.read_lines(path, found[start : start + count])
    said = [entry["said"] for entry in decisions.values() if "said" in entry]
    return {
        "rows": len(index.starts),
        "found": len(found),
        "lines": [rows_file.describe_line(line, decisions) for line in lines],
        "decided": {kind: said.count(kind) for kind in ("y", "n", "edit")},
    }
