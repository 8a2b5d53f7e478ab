"""`govor studio`: the page on a port of this machine."""

from contextlib import suppress
from pathlib import Path

from train.core.errors import GovorError
from train.serving.guard import Access
from train.serving.serve import listen
from train.studio.app import Studio, make_app


def require_folders(folders: tuple[Path, ...]) -> None:
    """GovorError where one of the project folders is none."""
    for folder in folders:
        if not folder.is_dir():
            raise GovorError(f"{folder}: no such folder")


def serve(studio: Studio, *, host: str, port: int, access: Access) -> None:
    """Serve until Ctrl-C or SIGTERM; trainings that were begun from the page go on."""
    import uvicorn

    with listen(host, port, access.key) as listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        config = uvicorn.Config(
            make_app(studio, access),
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,  # open curves never end by themselves
        )
        required = ", key required" if access.key else ""
        print(f"studio on http://{shown}:{address[1]}/{required}; Ctrl-C ends it, trainings go on", flush=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
