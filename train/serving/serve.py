"""`govor serve`: runs by name behind the OpenAI API."""

import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from ipaddress import ip_address
from types import FrameType

from train.core.errors import GovorError, MachineError
from train.core.runs import Run
from train.serving.choose_engine import EngineName, served_models
from train.serving.engine import Engine
from train.serving.engine_api import Served
from train.serving.guard import Access
from train.serving.prompt_check import PromptCheck, PromptCheckError, check_served_prompts
from train.serving.routes import Start, make_app

ANSWER_GRACE = 60
"""Seconds that answers in flight may take once we are to end."""


def serve(
    runs: Sequence[Run],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    access: Access,
    engine: EngineName = "auto",
    merged: bool = False,
    program: str | None = None,
    allow_template_drift: bool = False,
    system: bool = True,
    flags: Sequence[str] = (),
) -> None:
    """Serve until Ctrl-C or SIGTERM; then answers in flight are finished and the engines ended.

    `system`: a conversation without a system message gets that of the run's rows, where they share one.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with closing(listen(host, port, access.key)) as listener:
        served = served_models(runs, engine=engine, merged=merged, program=program, flags=flags, system=system)
        engines = list({id(model.engine): model.engine for model in served}.values())

        def prepare() -> None:
            start(engines)
            prompt_checks = [check(model, allow_template_drift) for model in served]
            print(listing(served, prompt_checks))

        try:
            run_app(served, access, listener, prepare)
        finally:
            for running in engines:
                running.stop()


def listen(host: str, port: int, key: str | None) -> socket.socket:
    """A socket that listens at the address; GovorError where it is in use, or lets others in without a key."""
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise GovorError(
            "the API key has only plain visible characters, and at least one: mend GOVOR_API_KEY or --api-key-file"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise GovorError(f"--host {host}: {error.strerror or error}") from None
    if not ip_address(str(address[0]).partition("%")[0]).is_loopback and key is None:
        raise GovorError(f"--host {host} lets other machines in: give a key too (GOVOR_API_KEY or --api-key-file)")
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise MachineError(f"port {port} on {host} cannot be had ({error.strerror}): choose another --port") from None
    return listener


def start(engines: Sequence[Engine]) -> None:
    """Start the engines at once and wait until all are ready; MachineError where one is not."""
    for engine in engines:
        print(f"starting {engine.name} …", file=sys.stderr, flush=True)
        engine.start()
    for engine in engines:
        engine.wait_ready(say=lambda line: print(line, file=sys.stderr, flush=True))


def check(served: Served, allow_template_drift: bool) -> PromptCheck:
    """Check a model's prompts; PromptCheckError where they differ from training's, unless that is allowed."""
    prompt_check = check_served_prompts(served)
    if not prompt_check.differences:
        return prompt_check
    differences = prompt_check.differences
    lines = "".join(f"\n  {line}" for line in differences[:3])
    lines += f"\n  and {len(differences) - 3} more" * (len(differences) > 3)
    if not allow_template_drift:
        raise PromptCheckError(
            f"{served.name}: {served.engine_api.title} feeds the model other prompts than it was trained on "
            f"({prompt_check}); --allow-template-drift serves it nevertheless:{lines}"
        )
    print(f"warning: {served.name}: {prompt_check}:{lines}", file=sys.stderr, flush=True)
    return prompt_check


def listing(served: Sequence[Served], prompt_checks: Sequence[PromptCheck]) -> str:
    """The table of the served models: name, what it is, engine, context, prompt check."""
    rows = [("model", "what", "engine", "context", "template")]
    for model, prompt_check in zip(served, prompt_checks, strict=True):
        context = f"{model.engine_api.context(model)} tokens"
        rows.append((model.name, model.description, model.engine_api.title, context, str(prompt_check)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def run_app(served: Sequence[Served], access: Access, listener: socket.socket, prepare: Callable[[], None]) -> None:
    """Answer requests until a signal comes, and until `prepare` has returned only with 503; its error is raised.

    So a client that comes too early is told to ask again, and does not hang.
    """
    import uvicorn

    host, port = listener.getsockname()[:2]
    base = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
    beginning = Start()
    config = uvicorn.Config(
        make_app(served, access, beginning),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=ANSWER_GRACE,
        server_header=False,
    )
    server, failures = uvicorn.Server(config), []

    def begin() -> None:
        try:
            prepare()
            print(f"OpenAI API on {base}" + (", key required" if access.key else "") + "; Ctrl-C ends it", flush=True)
        except Exception as error:
            failures.append(error)
            server.should_exit = True
        beginning.end()

    threading.Thread(target=begin, name="start", daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    if failures:
        raise failures[0]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt
