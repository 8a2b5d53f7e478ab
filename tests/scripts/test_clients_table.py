"""What the trial of other clients calls working, refused and failed, and the table of it."""

import json
from pathlib import Path

import pytest
from clients import table
from clients.install import CLIENTS
from clients.servers import Address

JOBS = Address("jobs serve", "http://x/v1", "ft:a", "ft:b", "tiny", Path("rows.jsonl"), "Ты Пётр.")
SERVE = JOBS.__class__("serve", "http://y/v1", "a", "b", None, Path("rows.jsonl"), "Ты Пётр.")
REFUSED = (
    "Error code: 400 - {'error': {'message': \"'tools' is not supported by this server's engine, transformers serve; "
    "vLLM has it: pip install vllm in an environment of its own\", 'type': 'invalid_request_error'}}"
)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        ({"operation": "chat", "said": "Ты Пётр."}, "works"),
        ({"operation": "responses_stream", "said": "Ты Пётр"}, "FAILS"),
        ({"operation": "chat", "said": ""}, "FAILS"),
        ({"operation": "schema", "said": {"friends": False}}, "works"),
        ({"operation": "schema", "said": {"friends": "no"}}, "FAILS"),
        ({"operation": "files", "said": None}, "FAILS"),
        ({"operation": "jobs", "said": "succeeded"}, "works"),
        ({"operation": "tools", "error": f"BadRequestError: {REFUSED}"}, "refused"),
        ({"operation": "tools", "error": "APIConnectionError: Connection error."}, "FAILS"),
    ],
)
def test_verdicts(report, verdict):
    outcome = table.judge(JOBS, report)
    assert (outcome.server, outcome.operation, outcome.verdict) == ("jobs serve", report["operation"], verdict)
    assert bool(outcome.why) == (verdict != "works")


def test_the_table(tmp_path, monkeypatch):
    """One client on one server after the other: the rows of all stay, and a reason stands there once."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results.json")
    refused = {"operation": "tools", "error": REFUSED}
    table.write_table("litellm", "1.0", [table.judge(JOBS, {"operation": "jobs", "said": "succeeded"})])
    table.write_table("dspy", "3.0", [table.judge(JOBS, {"operation": "chat", "said": "Ты Пётр."})])
    for address, more in ((JOBS, {"said": "Ты Пётр."}), (SERVE, {"error": "TimeoutError: late"})):
        told = [table.judge(address, report) for report in ({"operation": "chat", **more}, refused)]
        table.write_table("litellm", "1.1", told)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert set(json.loads((tmp_path / "results.json").read_bytes())) == {"litellm", "dspy"}
    [litellm] = [line for line in text.splitlines() if line.startswith("| LiteLLM 1.1 |")]
    [dspy] = [line for line in text.splitlines() if line.startswith("| DSPy 3.0 |")]
    assert "| jobs serve: works; serve: FAILS (1) |" in litellm and "| refused (2) |" in litellm and "| works |" in dspy
    assert text.count("pip install vllm") == 1


def test_each_client_has_its_program():
    programs = Path(table.__file__).with_name("programs")
    assert {client.program for client in CLIENTS.values()} == {file.name for file in programs.glob("try_*")}
