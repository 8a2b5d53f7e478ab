"""The story of a trial: install, start the servers, have each client do what it can, write the table."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clients.install import CLIENTS, Client, install, version_of
from clients.servers import KEY, PAGE, QUESTION, Address, running_servers
from clients.table import Outcome, judge, write_table

PROGRAMS = Path(__file__).with_name("programs")
MOST_SECONDS = 3600
"""Longest that all operations of a client may take on one server."""


def main(names: Sequence[str]) -> int:
    if unknown := set(names) - CLIENTS.keys():
        sys.exit(f"error: {min(unknown)}: no such client; there are {', '.join(CLIENTS)}")
    clients = [client for client in CLIENTS.values() if not names or client.name in names]
    for client in clients:
        install(client)
    failed = False
    for address in running_servers():
        for client in clients:
            outcomes = try_client(client, address)
            failed |= any(outcome.verdict == "FAILS" for outcome in outcomes)
            write_table(client.name, version_of(client), outcomes)
    return int(failed)


def try_client(client: Client, address: Address) -> list[Outcome]:
    """What became of each of the client's operations on one server."""
    began = time.monotonic()
    outcomes = list(operations(client, address))
    print(f"{client.name} on {address.name}: {time.monotonic() - began:.0f} s", flush=True)
    for outcome in outcomes:
        print(f"  {outcome.operation:17}{outcome.verdict:8}{outcome.why}", flush=True)
    return outcomes


def operations(client: Client, address: Address) -> Iterator[Outcome]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_", "HF_"))},
        "OPENAI_BASE_URL": address.url, "OPENAI_API_BASE": address.url, "OPENAI_API_KEY": KEY,
        "GOVOR_MODEL": address.model, "GOVOR_OTHER_MODEL": address.other_model, "GOVOR_ROWS": str(address.rows),
        "GOVOR_QUESTION": QUESTION, "GOVOR_PAGE": PAGE, "GOVOR_CLIENT": str(client.folder),
        "NODE_PATH": str(client.folder / "node_modules"), "DO_NOT_TRACK": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }  # fmt: skip
    if address.base:
        environment["GOVOR_BASE"] = address.base
    command = client.command(PROGRAMS)
    log = client.folder / f"{address.name.replace(' ', '-')}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=client.folder, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            output, _ = process.communicate(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    reports = [json.loads(line[2:]) for line in output.splitlines() if line.startswith("@@")]
    for report in reports:
        yield judge(address, report)
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        yield Outcome(
            address.name, "start" if not reports else "end", "FAILS", f"exit {process.returncode}: {lines[-1]}"
        )
