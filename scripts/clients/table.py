"""What became of each operation, and the table of it in train/jobs/README.md."""

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clients.install import CLIENTS, FOLDER, REPOSITORY
from clients.servers import Address

README = REPOSITORY / "train/jobs/README.md"
BEGIN, END = "<!-- clients: written by make test-clients -->", "<!-- clients: end -->"
OPERATIONS = {
    "chat": "chat", "stream": "chat, streamed", "responses": "responses", "responses_stream": "responses, streamed",
    "conversation": "conversation", "completions": "completions", "schema": "JSON schema", "tools": "tools",
    "files": "files", "jobs": "jobs", "tuned_model": "tuned model by its name",
}  # fmt: skip
"""Operation → its column; what is none of these stands behind the client's name when it does not work."""
TEXTS = ("chat", "stream", "responses", "responses_stream", "completions", "tuned_model")
"""Operations that return the model's answer."""
RESULTS = FOLDER / "results.json"
REFUSAL = re.compile(
    r"'\w+' is not supported by this server's engine, [^;]+; [^.\"\\{←]+"
    r"|This server [^.\"\\{←]+"
    r"|[^:\"\\]*leaves out the tools[^\"'\\{←]*"
)
"""A refusal of the server's that names what it cannot do."""


class Outcome(NamedTuple):
    """What became of an operation on a server."""

    server: str
    operation: str
    verdict: Literal["works", "refused", "FAILS"]
    why: str


def judge(address: Address, report: dict[str, Any]) -> Outcome:
    """The outcome of what a program reports."""
    operation = report["operation"]
    if (error := report.get("error")) is not None:
        error = re.sub(r"\x1b\[[0-9;]*m", "", error)
        refusal = REFUSAL.search(error)
        verdict: Literal["works", "refused", "FAILS"] = "refused" if refusal else "FAILS"
        return Outcome(address.name, operation, verdict, " ".join((refusal[0] if refusal else error).split()))
    said = report["said"]
    if operation in TEXTS and isinstance(said, str) and said != address.expected:
        return Outcome(address.name, operation, "FAILS", f"{said!r} instead of {address.expected!r}")
    if operation == "schema" and not (isinstance(said, dict) and isinstance(said.get("friends"), bool)):
        return Outcome(address.name, operation, "FAILS", f"{said!r} is not what the schema asks for")
    if not said:
        return Outcome(address.name, operation, "FAILS", "it brought nothing")
    return Outcome(address.name, operation, "works", "")


def write_table(client: str, version: str, outcomes: Sequence[Outcome]) -> None:
    """Keep what a client has said on a server now, and write the table of all in README."""
    results = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    server = outcomes[0].server
    earlier = [fields for fields in results.get(client, {}).get("outcomes", ()) if fields[0] != server]
    results[client] = {"version": version, "date": time.strftime("%Y-%m-%d"), "outcomes": [*earlier, *outcomes]}
    RESULTS.write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    text = "\n".join(table(json.loads(RESULTS.read_bytes())))
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(results: dict[str, Any]) -> list[str]:
    """The table's lines: a row a client, then the reasons that its cells point at."""
    reasons: list[str] = []
    lines = [f"| | tried | {' | '.join(OPERATIONS.values())} |", f"|---|---|{'---|' * len(OPERATIONS)}"]
    for client in (client for client in CLIENTS.values() if client.name in results):
        result = results[client.name]
        outcomes = [Outcome(*fields) for fields in result["outcomes"]]
        cells = [_cell([one for one in outcomes if one.operation == name], reasons) for name in OPERATIONS]
        others = [one for one in outcomes if one.operation not in OPERATIONS and one.verdict != "works"]
        title = f"{client.title} {result['version']}"
        title += "".join(f"; {one.operation}: {_cell([one], reasons)}" for one in others)
        lines.append(f"| {title} | {result['date']} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return [*lines, "", *notes, "", f"Tried on {_machine()}, against `transformers serve`."]


def _cell(outcomes: Iterable[Outcome], reasons: list[str]) -> str:
    """What an operation came to on the servers where it was tried; `reasons` grows by those that are new."""
    said = {}
    for outcome in outcomes:
        if outcome.why and outcome.why not in reasons:
            reasons.append(outcome.why)
        said[outcome.server] = outcome.verdict + (f" ({reasons.index(outcome.why) + 1})" if outcome.why else "")
    if len(set(said.values())) <= 1:
        return next(iter(said.values()), "")
    return "; ".join(f"{server}: {verdict}" for server, verdict in said.items())


def _machine() -> str:
    """The machine, in words."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"
