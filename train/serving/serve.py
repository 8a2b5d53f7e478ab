"""`govor serve`: runs by name behind the OpenAI API."""

import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_address
from types import FrameType

from train.core.errors import GovorError, MachineError
from train.core.runs import Run
from train.serving.choose_engine import EngineName, served_models
from train.serving.engine import Engine
from train.serving.engine_api import Served
from train.serving.prompt_check import Parity, ParityError, compare
from train.serving.routes import make_app

LAST_WORDS = 60
"""Seconds that answers in flight may take after we were asked to end."""


def serve(
    runs: Sequence[Run],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    engine: EngineName = "auto",
    merged: bool = False,
    program: str | None = None,
    allow_template_drift: bool = False,
    flags: Sequence[str] = (),
) -> None:
    """Serve until Ctrl-C or SIGTERM; then answers in flight are finished and the engines ended."""
    signal.signal(signal.SIGTERM, _interrupt)
    with closing(listen(host, port, key)) as listener:
        served = served_models(runs, engine=engine, merged=merged, program=program, flags=flags)
        engines = list({id(one.engine): one.engine for one in served}.values())
        try:
            start(engines)
            parities = [check(one, allow_template_drift) for one in served]
            print(listing(served, parities))
            run_app(served, key, listener)
        finally:
            for one in engines:
                one.stop()


def listen(host: str, port: int, key: str | None) -> socket.socket:
    """A socket bound to the address; a GovorError where it is taken, or reaches beyond this machine without a key."""
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise GovorError("--api-key: a key has only plain visible characters, and at least one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise GovorError(f"--host {host}: {error.strerror or error}") from None
    if not ip_address(str(address[0]).partition("%")[0]).is_loopback and key is None:
        raise GovorError(f"--host {host} lets other machines in: give a key too (--api-key or GOVOR_API_KEY)")
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
    for one in engines:
        print(f"starting {one.name} …", file=sys.stderr, flush=True)
        one.start()
    for one in engines:
        one.wait_ready()


def check(served: Served, allow_template_drift: bool) -> Parity:
    """The parity of a served model; ParityError where it is not whole, unless that is allowed."""
    parity = compare(served)
    if not parity.drifted:
        return parity
    shown = parity.drifted[:3]
    lines = "".join(f"\n  {line}" for line in shown)
    lines += f"\n  and {len(parity.drifted) - 3} more" * (len(parity.drifted) > 3)
    if not allow_template_drift:
        raise ParityError(
            f"{served.name}: {served.dialect.title} feeds the model other prompts than it was trained on ({parity}); "
            f"--allow-template-drift serves it nevertheless:{lines}"
        )
    print(f"warning: {served.name}: {parity}:{lines}", file=sys.stderr, flush=True)
    return parity


def listing(served: Sequence[Served], parities: Sequence[Parity]) -> str:
    """A line a model: name, what it is, engine, context, parity."""
    rows = [("model", "what", "engine", "context", "template")]
    for one, parity in zip(served, parities, strict=True):
        context = f"{one.dialect.context(one)} tokens"
        rows.append((one.name, one.what, one.dialect.title, context, str(parity)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def run_app(served: Sequence[Served], key: str | None, listener: socket.socket) -> None:
    """Answer until a signal comes."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    base = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
    print(f"OpenAI API on {base}" + (", key required" if key else "") + "; Ctrl-C ends it", flush=True)
    config = uvicorn.Config(
        make_app(served, key),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=LAST_WORDS,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM means the same as Ctrl-C."""
    raise KeyboardInterrupt
