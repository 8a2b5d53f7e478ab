"""`govor jobs serve`: one server for a data folder."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from train.core.files import listed
from train.jobs.bases import Catalogue
from train.jobs.data_folder import claim_data_folder
from train.jobs.engine_gate import EngineGate
from train.jobs.file_routes import add_file_routes
from train.jobs.job_errors import log_line
from train.jobs.job_routes import add_job_routes, add_model_routes
from train.jobs.route_helpers import ERRORS
from train.jobs.store import Store
from train.jobs.worker import Worker, cards_of_slots
from train.serving.api_errors import ApiError, install_error_handlers
from train.serving.routes import chat_routes, require_key
from train.serving.serve import listen


def serve(folder: Path, catalogue: Catalogue, *, host: str, port: int, key: str | None, slots: int) -> None:
    """Serve until SIGINT or SIGTERM; GovorError where that would not be safe, or the folder is in use or somebody's.

    MachineError where there are fewer cards than slots.
    """
    import uvicorn

    cards = cards_of_slots(slots)
    listener = listen(host, port, key)
    with listener, claim_data_folder(folder) as foreign:
        if foreign:
            log_line(f"{folder}: not the server's, left as they are: {listed(foreign)}")
        store = Store(folder)
        store.sweep()
        for name, base in catalogue.missing.items():
            log_line(f"{name}: {base} is not there, so no job can name it")
        address = listener.getsockname()
        config = uvicorn.Config(
            make_app(store, catalogue, key, slots, cards),
            log_level="error",
            access_log=False,  # paths may hold what clients have made up
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        required = ", key required" if key else ""
        print(f"fine-tuning API on http://{host}:{address[1]}/v1{required}; Ctrl-C ends it", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            log_line("ended; jobs that were training go on with the next start")


def make_app(store: Store, catalogue: Catalogue, key: str | None, slots: int, cards: Sequence[str] = ()) -> FastAPI:
    """The app; its worker runs as long as it does. `cards`: one for each slot, see `cards_of_slots`."""
    gate = EngineGate(store, catalogue)
    worker = Worker(store, slots, gate, cards)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()
        await asyncio.to_thread(gate.close)
        await asyncio.to_thread(worker.join)

    app = FastAPI(
        title="govor jobs", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        redirect_slashes=False,
    )  # fmt: skip
    routes = APIRouter(prefix="/v1", responses=ERRORS)
    add_file_routes(routes, store)
    add_job_routes(routes, store, catalogue, worker.wake.set)
    add_model_routes(routes, store, catalogue)
    app.include_router(routes)
    app.include_router(chat_routes(gate.resolve))
    app.add_middleware(gate.count_chats)
    require_key(app, key)
    if key is None:
        app.add_middleware(LoopbackOnly)
    install_error_handlers(app)

    @app.get("/health", include_in_schema=False)
    async def health() -> JSONResponse:
        alive = worker.is_alive()
        return JSONResponse({"status": "ok" if alive else "worker gone"}, 200 if alive else 503)

    return app


class LoopbackOnly:
    """Middleware that refuses what a web page in a browser here could send: such a request names an origin or host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            names = [headers.get("host"), _authority(headers.get("origin"))]
            if not all(name is None or is_loopback(_hostname(name)) for name in names):
                error = ApiError(403, "Without an API key this server answers programs on its own machine alone.")
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _authority(origin: str | None) -> str | None:
    """Host and port of an Origin header."""
    return None if origin is None else origin.partition("://")[2] or origin


def _hostname(authority: str) -> str:
    """The host of HOST:PORT, without an IPv6 address's brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
