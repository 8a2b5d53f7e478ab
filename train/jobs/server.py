"""`govor jobs serve`: one server for a data folder."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse

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
from train.serving.api_errors import install_error_handlers
from train.serving.guard import Access, guard
from train.serving.routes import chat_routes
from train.serving.serve import listen


def serve(folder: Path, catalogue: Catalogue, *, host: str, port: int, access: Access, slots: int) -> None:
    """Serve until SIGINT or SIGTERM; GovorError where that would not be safe, or the folder is in use or somebody's.

    MachineError where there are fewer cards than slots.
    """
    import uvicorn

    cards = cards_of_slots(slots)
    listener = listen(host, port, access.key)
    with listener, claim_data_folder(folder) as foreign:
        if foreign:
            log_line(f"{folder}: not the server's, left as they are: {listed(foreign)}")
        store = Store(folder)
        store.sweep()
        for name, base in catalogue.missing.items():
            log_line(f"{name}: {base} is not there, so no job can name it")
        address = listener.getsockname()
        config = uvicorn.Config(
            make_app(store, catalogue, access, slots, cards),
            log_level="error",
            access_log=False,  # paths may hold what clients have made up
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        required = ", key required" if access.key else ""
        print(f"fine-tuning API on http://{host}:{address[1]}/v1{required}; Ctrl-C ends it", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            log_line("ended; jobs that were training go on with the next start")


def make_app(store: Store, catalogue: Catalogue, access: Access, slots: int, cards: Sequence[str] = ()) -> FastAPI:
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
    guard(app, access)
    install_error_handlers(app)

    @app.get("/health", include_in_schema=False)
    async def health() -> JSONResponse:
        alive = worker.is_alive()
        return JSONResponse({"status": "ok" if alive else "worker gone"}, 200 if alive else 503)

    return app
