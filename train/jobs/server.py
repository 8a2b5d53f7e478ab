"""`govor jobs serve`: one server for a data folder."""

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from train.core.errors import DISK_FULL, MachineError
from train.core.files import listed
from train.jobs.bases import Catalogue
from train.jobs.data_folder import DATABASE, RESPONSES, claim_data_folder
from train.jobs.engine_gate import EngineGate
from train.jobs.executors import Executor, LocalExecutor
from train.jobs.file_routes import add_file_routes
from train.jobs.job_errors import log_line
from train.jobs.job_routes import add_job_routes, add_model_routes
from train.jobs.model_loader import ModelLoader
from train.jobs.route_helpers import ERRORS
from train.jobs.store import Store
from train.jobs.upload_routes import add_upload_routes
from train.jobs.worker import GpuLease, Worker, cards_of_slots
from train.serving.api_errors import ApiError, install_error_handlers
from train.serving.guard import Access, guard
from train.serving.response_store import ResponseStore
from train.serving.routes import chat_routes, engines_now
from train.serving.serve import listen


def serve(
    folder: Path,
    catalogue: Catalogue,
    *,
    host: str,
    port: int,
    access: Access,
    slots: int,
    system: bool = True,
    pages: Callable[[FastAPI], None] | None = None,
    ray_address: str | None = None,
    database_folder: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; GovorError where that would not be safe, or the folder is in use or somebody's.

    MachineError where there are fewer cards than slots. `system`: a conversation without a system message gets that of
    the model's rows, where they share one. `pages` gives the app pages for people. `ray_address`: of the cluster that
    trains, the machine itself where it is None; `database_folder`: see `claim_data_folder`.
    """
    import uvicorn

    cards = [] if ray_address else cards_of_slots(slots)
    listener = listen(host, port, access.key)
    with listener, claim_data_folder(folder, database_folder) as foreign:
        if foreign:
            log_line(f"{folder}: not the server's, left as they are: {listed(foreign)}")
        opening = DATABASE
        try:
            store = Store(folder, database_folder)
            store.sweep()
            opening = RESPONSES
            responses = ResponseStore((database_folder or folder) / RESPONSES)
        except sqlite3.Error as error:
            raise MachineError(
                f"{(database_folder or folder) / opening}: {error}: another program may hold it, or it is read-only"
            ) from None
        for name, base in catalogue.missing.items():
            log_line(f"{name}: {base} is not there, so no job can name it")
        executor = _ray_executor(ray_address, store, catalogue) if ray_address else LocalExecutor(store, cards)
        address = listener.getsockname()
        config = uvicorn.Config(
            make_app(store, responses, catalogue, access, slots, executor, system=system, pages=pages),
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


def make_app(
    store: Store,
    responses: ResponseStore,
    catalogue: Catalogue,
    access: Access,
    slots: int,
    executor: Executor | None = None,
    *,
    system: bool = True,
    pages: Callable[[FastAPI], None] | None = None,
) -> FastAPI:
    """The app; its worker runs as long as it does. `executor`: who trains, this machine where none is given."""
    executor = executor or LocalExecutor(store)
    loader = ModelLoader(store, catalogue, system=system)
    gate = EngineGate(store, loader)
    worker = Worker(store, slots, GpuLease() if executor.elsewhere else gate, executor=executor)

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
    add_upload_routes(routes, store)
    add_job_routes(routes, store, catalogue, worker.wake.set)
    add_model_routes(routes, store, catalogue, loader.system_message)

    @routes.get("/nodes", include_in_schema=False)
    async def nodes() -> JSONResponse:
        try:
            found = await asyncio.to_thread(executor.nodes)
        except MachineError as error:
            raise ApiError(503, str(error)) from None
        return JSONResponse({"object": "list", "data": [node._asdict() for node in found]})

    app.include_router(routes)
    app.include_router(chat_routes(gate.resolve, responses))
    app.add_middleware(gate.hold_engine)
    if pages:
        pages(app)
    guard(app, access)
    install_error_handlers(app)
    app.add_exception_handler(sqlite3.Error, storage_failed)
    app.add_exception_handler(OSError, storage_failed)

    @app.get("/health", include_in_schema=False)
    async def health() -> JSONResponse:
        alive = worker.is_alive()
        content = {"status": "ok" if alive else "worker gone", "engines": engines_now([loader.engine_kind()])}
        return JSONResponse(content, 200 if alive else 503)

    return app


def _ray_executor(address: str, store: Store, catalogue: Catalogue) -> Executor:
    """The executor for a Ray cluster, whose nodes have proved that they share the data folder.

    Where Ray does not answer, as after the loss of its head, they prove it before the next job.
    """
    from train.jobs.ray_api import UnreachableError
    from train.jobs.ray_executor import RayExecutor

    catalogue.trains_elsewhere = True
    executor = RayExecutor(address, store, catalogue)
    try:
        executor.prove()
    except UnreachableError as error:
        log_line(f"{error}: jobs wait until it does")
    return executor


async def storage_failed(_: Request, error: Exception) -> Response:
    """The answer where the data folder takes or gives nothing: nothing of the request was stored.

    The SDKs ask again by themselves only where another program may soon let go of the database.
    """
    number = error.errno if isinstance(error, OSError) else None
    never = {"x-should-retry": "false"}
    if number in (errno.ENOSPC, errno.EDQUOT) or DISK_FULL.search(str(error)):
        text = "The server's disk is full: nothing of this request was stored. Make room, then send it again."
        answer = ApiError(507, text, code="insufficient_storage", headers=never)
    elif "locked" in str(error) or "busy" in str(error):
        text = "Another program has locked the server's database: nothing of this request was stored."
        answer = ApiError(503, text, code="database_locked", headers={"retry-after": "5"})
    elif number in (errno.EROFS, errno.EACCES, errno.EPERM) or "readonly" in str(error):
        text = "The server cannot write its data folder: nothing of this request was stored."
        answer = ApiError(500, text, code="read_only", headers=never)
    else:
        text = "The server cannot read its database or a file in its data folder; its log says more."
        answer = ApiError(500, text, code="storage_failed", headers=never)
    log_line(f"storage: {type(error).__name__}: {' '.join(str(error).split())}")
    return answer.response()
