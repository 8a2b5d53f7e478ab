"""The studio's page and the routes behind it, for `govor studio` and, mounted by the command line, `govor jobs serve`.

Under / and /static lies the bare page, under /studio what it asks for. No path comes from the page: it names runs and
files by the ids that a listing of the given folders has.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train.core.runs import Run
from train.remote.ballot import SCRIPT, STYLE
from train.serving.api_errors import ApiError, install_error_handlers
from train.serving.guard import Access, guard
from train.studio import commands
from train.studio.chat import chat_routes
from train.studio.follow import Mark, events
from train.studio.new_run import Uploads, new_routes
from train.studio.routing import StudioRoute, json_answer, require_json
from train.studio.row_routes import row_routes
from train.studio.run_list import find_runs, list_runs, run_state
from train.studio.seen import Viewer
from train.studio.vote_routes import vote_routes

STATIC = Path(__file__).with_name("static")
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)
"""Scripts, styles and requests of this server alone, nothing written into the page, and no text made HTML."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True)
class Studio:
    """What the command line gives the studio."""

    folders: Sequence[Path]
    """Project folders: with runs/ and data/, or with runs and files of rows in themselves."""
    servers: Sequence[str] = ()
    """OpenAI APIs that may be talked to, as their base URLs."""
    key: str | None = None
    """What those servers are shown."""
    jobs: bool = False
    """Whether it is mounted on a jobs server."""
    begun: commands.Commands = field(default_factory=commands.Commands)
    viewer: Viewer = field(default_factory=Viewer)
    uploads: Uploads = field(default_factory=Uploads)

    def close(self) -> None:
        """Let go of what the page has begun; commands go on."""
        self.begun.close()
        self.viewer.close()
        self.uploads.close()

    def run(self, id_: str) -> Path:
        """The run folder of that id; ApiError 404 where there is none."""
        path = find_runs(self.folders).get(id_)
        if path is None:
            raise ApiError(404, f"{id_}: no such run in the studio's folders")
        return path


class PageHeaders:
    """Middleware that sets HEADERS on whatever is the studio's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        ours = scope["type"] == "http" and scope["path"].startswith(("/static", "/studio"))
        await self.app(scope, receive, with_headers if ours or scope.get("path") == "/" else send)


def add_studio(app: FastAPI, studio: Studio) -> None:
    """Give an app the page and its routes."""
    app.include_router(run_routes(studio))
    app.include_router(row_routes(studio.folders, studio.viewer))
    app.include_router(vote_routes(studio.folders))
    app.include_router(chat_routes(studio.folders[0], studio.servers, studio.key))
    if not studio.jobs:  # there jobs are begun by its own API
        app.include_router(new_routes(studio.folders[0], studio.begun, studio.uploads))

    @app.get("/static/vote.{kind}", include_in_schema=False)
    async def ballot(kind: Literal["js", "css"]) -> Response:
        return FileResponse(SCRIPT if kind == "js" else STYLE)

    app.mount("/static", GZipMiddleware(StaticFiles(directory=STATIC)))
    app.add_middleware(PageHeaders)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def make_app(studio: Studio, access: Access) -> FastAPI:
    """The app of `govor studio`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        studio.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    add_studio(app, studio)
    guard(app, access)
    install_error_handlers(app)

    @app.get("/health")
    async def health() -> Mapping[str, str]:
        return {"status": "ok"}

    return app


def run_routes(studio: Studio) -> APIRouter:
    """Runs, their curves, and the commands that work on them."""
    routes = APIRouter(prefix="/studio", route_class=StudioRoute, include_in_schema=False)

    @routes.get("/about")
    async def about() -> Any:
        folders = [str(folder.resolve()) for folder in studio.folders]
        return {"folders": folders, "servers": list(studio.servers), "jobs": studio.jobs}

    @routes.get("/runs")
    async def runs() -> Any:
        states = await asyncio.to_thread(list_runs, studio.folders)
        return json_answer({"runs": [{**asdict(state), "commands": commands.commands_of(state)} for state in states]})

    @routes.get("/runs/{id_}")
    async def run(id_: str) -> Any:
        from train.studio.run_page import describe

        path = studio.run(id_)
        state = await asyncio.to_thread(run_state, id_, path)
        told = await asyncio.to_thread(describe, Run(path)) if state.base and state.state != "damaged" else {}
        return json_answer({"run": {**asdict(state), "commands": commands.commands_of(state)}, **told})

    @routes.get("/runs/{id_}/metrics")
    async def metrics(id_: str, request: Request) -> Response:
        mark = Mark.parse(request.headers.get("last-event-id") or request.query_params.get("after"))
        stream = events(Run(studio.run(id_)).metrics_file, mark)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @routes.post("/runs/{id_}/{verb}")
    async def act(id_: str, verb: str, request: Request) -> Any:
        path = studio.run(id_)
        require_json(request)
        target = (await request.json()).get("target")
        state = await asyncio.to_thread(run_state, id_, path)
        if not any((one["verb"], one["target"]) == (verb, target) for one in commands.commands_of(state)):
            raise ApiError(409, f"{id_}: {verb} is not possible now: the run is {state.doing or state.state}")
        if verb == "stop":
            return {"stopped": commands.stop(path)}
        folder = commands.project_of(path)
        return studio.begun.start(commands.words_of(path, verb, target), folder, id_)

    @routes.get("/commands")
    async def begun() -> Any:
        return {"commands": studio.begun.listed()}

    return routes
