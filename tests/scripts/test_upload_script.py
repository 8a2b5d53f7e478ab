"""scripts/upload_and_finetune.py: the whole way with a real server of ours, and what hosted providers are sent."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import pytest
import upload_and_finetune
import yaml
from click.testing import CliRunner
from finetuning import openai_api, providers
from finetuning.providers import PROVIDERS

from tests.conftest import REPOSITORY
from tests.jobs.jobs_server import Server, rows
from tests.scripts.stand_in import Request, StandIn
from train.remote.services import read_env

pytestmark = pytest.mark.long

KEYS = ("OPENAI_API_KEY", "KIMI_API_KEY", "MOONSHOT_API_KEY", "GOVOR_API_KEY", "GOVOR_BASE_URL")
KEY = "sk-secret-1234567890"
MODEL = "ft:gpt-4o-mini-2024-07-18:org::abc"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No keys of the machine's, and a day on which OpenAI takes jobs."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(providers, "today", lambda: date(2026, 11, 21))
    monkeypatch.setattr(upload_and_finetune, "HOSTED_INTERVAL", 0.02)


def call(*words: object, exit_code: int = 0):
    """The script's result: stdout, stderr, both in `output`; errors are one line."""
    result = CliRunner().invoke(upload_and_finetune.main, [str(word) for word in words])
    assert result.exit_code == exit_code, (result.output, result.exception)
    if exit_code == 2:
        last = result.stderr.strip().splitlines()
        assert last[-1].startswith("error: ") and "unexpected" not in last[-1], result.stderr
    return result


def logs() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in Path("logs").glob("*.log"))


class OpenAi(StandIn):
    """OpenAI as far as the script needs it: a job that runs for two looks and then succeeds."""

    def __init__(self, **changes):
        self.looks = 0
        self.changes = changes
        self.steps = 250
        super().__init__(self.answer)

    def job(self) -> dict:
        done = self.looks > 2
        return {
            "object": "fine_tuning.job", "id": "ftjob-1", "created_at": 1, "status": "succeeded" if done else "running",
            "model": "gpt-4o-mini-2024-07-18", "fine_tuned_model": MODEL if done else None,
            "hyperparameters": {"n_epochs": 3}, "error": {}, "trained_tokens": 4321 if done else None,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        } | self.changes  # fmt: skip

    def events(self, after: str | None) -> dict:
        """Newest first, a hundred a page, as many as steps are done."""
        done = min(self.looks * 110, self.steps)
        found = [
            {
                "object": "fine_tuning.job.event", "id": f"ftevent-{n}", "created_at": 1000 + n, "level": "info",
                "message": f"Step {n}/{self.steps}: training loss=1.00", "type": "metrics",
                "data": {"step": n, "total_steps": self.steps, "train_loss": 2 - n / self.steps},
            }
            for n in range(done, 0, -1)
        ]  # fmt: skip
        start = next((at + 1 for at, event in enumerate(found) if event["id"] == after), 0)
        return {"object": "list", "data": found[start : start + 100], "has_more": start + 100 < len(found)}

    def answer(self, request: Request):
        path, _, query = request.path.partition("?")
        if path == "/v1/files":
            return 200, {"object": "file", "id": "file-1", "status": "processed"}
        if path == "/v1/fine_tuning/jobs":
            return 200, self.job() if request.method == "POST" else {"object": "list", "data": [self.job()]}
        if path.endswith("/events"):
            after = re.search(r"after=([\w-]+)", query)
            return 200, self.events(after and after[1])
        if path == "/v1/fine_tuning/jobs/ftjob-1":
            self.looks += 1
            return 200, self.job()
        if path == "/v1/chat/completions":
            content = f"Ответ на: {request.json()['messages'][-1]['content'][:9]}"
            return 200, {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": content}}]}
        return 404, {"error": {"message": "Unknown request URL", "type": "x", "param": None, "code": None}}


@pytest.fixture
def openai_stand_in(monkeypatch):
    stand_in = OpenAi()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield stand_in
    stand_in.close()


# A server of ours


@pytest.fixture(scope="module")
def server(tmp_path_factory, base):
    server = Server(tmp_path_factory.mktemp("jobs"), base, key="key-of-the-server", wants_gpu="gpt-4")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def whole_way(server, rows_file, tmp_path_factory):
    """(output, log) of the whole way by a guide's script, with the server and its key in .env."""
    folder = tmp_path_factory.mktemp("client")
    (folder / ".env").write_text(f'GOVOR_API_KEY="{server.key}"\nGOVOR_BASE_URL={server.url}\n', encoding="utf-8")
    (folder / "held_out.jsonl").write_bytes(rows(6, start=500))
    (folder / "data").mkdir()
    (folder / "data/natasha_finetuning_20251125_153356.jsonl").write_bytes(rows_file.read_bytes())
    words = ["--validation-file", "held_out.jsonl", "--epochs", "2", "--learning-rate", "0.4"]
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    script = REPOSITORY / "scripts/analysis/upload_and_finetune_natasha.py"
    result = subprocess.run(
        [sys.executable, script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, (result.stdout, result.stderr, server.log())
    assert f"note: {server.url} takes the place of OpenAI" in result.stderr
    return result.stdout, (folder / "logs/finetune_natasha.log").read_text(encoding="utf-8")


def test_the_whole_way_prints_what_people_know(whole_way, server):
    printed, _ = whole_way
    in_order = [
        r"✅ Validation passed: 24 training examples", r"✅ Validation passed: 6 validation examples",
        r"\n✅ File uploaded successfully\n   File ID: file-\w+\n", r"\n   Validation file ID: file-\w+\n",
        r"\n✅ Fine-tuning job created successfully\n   Job ID: ftjob-\w+\n   Status: queued\n",
        r"gpt-4-turbo stands for acme/tiny", r"⏳ Starting to monitor fine-tuning job...",
        r"Learning rate: 0.01 × 0.4 = 0.004\n", r"Status: running",
        r"step \d+/12  loss \d+\.\d{3}  accuracy 0\.\d+", r"validation loss \d", "Status: succeeded",
        r"✅ Fine-tuned model: ft:gpt-4-turbo:local:natasha-v1:\w{8}", r"Trained tokens: [\d,]+",
        r"\nTest 1: \S.*\nResponse: \S", r"\nTest 5: … \S",
        r"Log: logs/",
    ]  # fmt: skip
    at = 0
    for pattern in in_order:
        found = re.compile(pattern).search(printed, at)
        assert found, (pattern, printed[at:])
        at = found.start()
    id_ = re.search(r"ftjob-\w+", printed)[0]
    job = server.get(f"/fine_tuning/jobs/{id_}")
    assert job["govor"]["config"]["training"]["learning_rate"] == 0.004, "a factor, not the rate"
    resolved = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.4}
    assert job["hyperparameters"] == resolved, "what was `auto` is a number"
    assert job["user_provided_suffix"] == "natasha-v1"
    trained = int(re.search(r"Trained tokens: ([\d,]+)", printed)[1].replace(",", ""))
    assert trained == job["trained_tokens"]


def test_the_log_has_what_happened_and_no_key_and_no_chat_text(whole_way, server):
    printed, log = whole_way
    for word in ("file-", "ftjob-", "Status: succeeded", "answer 5", "natasha_finetuning_"):
        assert word in log
    assert server.key not in log and server.key not in printed
    prompts = yaml.safe_load((REPOSITORY / "configs/natasha.yaml").read_text(encoding="utf-8"))["prompts"]
    assert len(prompts) == 5
    for prompt in prompts:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        assert text in printed and text not in log


def test_afterwards_jobs_are_listed_watched_and_asked(whole_way, server, monkeypatch):
    printed, _ = whole_way
    job = re.search(r"ftjob-\w+", printed)[0]
    there = ("--base-url", server.url)
    refused = call("--list-jobs", *there, exit_code=2).stderr
    assert "wants a key: set GOVOR_API_KEY" in refused
    monkeypatch.setenv("GOVOR_API_KEY", "another-key")
    refused = call("--list-jobs", *there, exit_code=2).stderr
    assert "refuses the key in GOVOR_API_KEY" in refused and "another-key" not in refused
    monkeypatch.setenv("GOVOR_API_KEY", server.key)
    assert f"{job}  succeeded" in call("--list-jobs", *there).stdout
    watched = call("--monitor", job, *there).stdout
    assert "Fine-tuning job started" in watched and "✅ Fine-tuned model: ft:gpt-4-turbo" in watched
    assert "cannot be cancelled" in call("--cancel", job, *there, exit_code=2).stderr
    assert "Could not find fine tune: ftjob-none" in call("--monitor", "ftjob-none", *there, exit_code=2).stderr
    assert "ft:none" in call("--test", "ft:none", *there, exit_code=2).stderr
    Path("rows.jsonl").write_bytes(rows(12))
    files = len(server.get("/files")["data"])
    unknown = call("--file", "rows.jsonl", "--model", "no/such", *there, exit_code=2).stderr
    assert "`no/such` does not exist" in unknown and "acme/tiny" in unknown
    refused = call("--file", "rows.jsonl", "--model", "gpt-4", *there, exit_code=2).stderr
    assert "gpt-4 stands for acme/large on this server and cannot be tuned here: it wants a GPU" in refused
    assert "Bases that can: acme/tiny" in refused
    assert server.get("/models/acme/large")["id"] == "acme/large", "it is listed, since it answers"
    by_its_name = call("--file", "rows.jsonl", "--model", "acme/large", *there, exit_code=2).stderr
    assert "acme/large cannot be tuned here: it wants a GPU" in by_its_name
    assert len(server.get("/files")["data"]) == files, "refused before anything is uploaded"
    body = {"model": "gpt-4", "training_file": server.get("/files")["data"][0]["id"]}
    answer = server.ask("POST", "/fine_tuning/jobs", json=body)
    assert answer.status_code == 400 and "cannot be tuned here" in answer.json()["error"]["message"]


# What is refused, printed or counted without any request


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is a failure."""
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_validation_needs_no_network_and_no_key(no_network, rows_file):
    for provider in PROVIDERS:
        result = call("--provider", provider, "--file", rows_file, "--validate-only")
        assert result.stdout.startswith("✅ Validation passed: 24 training examples")
    assert not Path("logs").exists()
    Path("bad.jsonl").write_bytes(rows(12) + b'{"messages": [{"role": "user"}]}\nnot json\n')
    for more in (["--validate-only"], ["--upload-only"], []):
        printed = call("--file", "bad.jsonl", *more, exit_code=1).stdout
        assert (
            "bad.jsonl:13: " in printed
            and "bad.jsonl:14: not valid JSON" in printed
            and "❌ Validation failed" in printed
        )
    Path("small.jsonl").write_bytes(rows(9))
    assert "at least 10 are needed" in call("--file", "small.jsonl", "--validate-only", exit_code=1).stdout
    Path("good.jsonl").write_bytes(rows(12))
    call("--file", "good.jsonl", "--validation-file", "small.jsonl", "--validate-only", exit_code=1)  # the same rows
    same = call("--file", "good.jsonl", "--validation-file", "good.jsonl", "--validate-only")
    assert "warning: training and validation file hold the same rows" in same.stderr
    Path("other.jsonl").write_bytes(rows(9, start=100))
    printed = call("--file", "good.jsonl", "--validation-file", "other.jsonl", "--validate-only").stdout
    assert "✅ Validation passed: 9 validation examples" in printed
    assert "no such file" in call("--file", "none.jsonl", "--validate-only", exit_code=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--provider", "kimi", "--file", "rows.jsonl"], "documents no fine-tuning API; it has: chat"),
        (["--provider", "kimi", "--file", "rows.jsonl", "--upload-only"], "files for text extraction"),
        (["--provider", "kimi", "--file", "rows.jsonl", "--dry-run"], "--provider local"),
        (["--base-url", "https://api.moonshot.cn/v1", "--list-jobs"], "documents no fine-tuning API"),
        (["--provider", "kimi", "--monitor", "ftjob-1"], "documents no fine-tuning API"),
        (["--provider", "kimi", "--test", "kimi-k2.6"], "set KIMI_API_KEY or MOONSHOT_API_KEY"),
        (["--provider", "openai", "--file", "rows.jsonl"], "set OPENAI_API_KEY"),
        (
            ["--provider", "openai", "--file", "rows.jsonl", "--absolute-learning-rate", "1e-4"],
            "--learning-rate, where",
        ),
        (["--file", "rows.jsonl", "--absolute-learning-rate", "1", "--learning-rate", "1"], "one of them"),
        (["--file", "rows.jsonl", "--absolute-learning-rate", "0.1"], "multiplier of their own rate"),
        (["--provider", "openai", "--file", "rows.jsonl", "--model", "gpt-4-turbo"], "shut down on 2026-10-23"),
        (["--provider", "google", "--file", "rows.jsonl"], "tunes no models since May 2025"),
        (["--file", "rows.jsonl", "--suffix", "наташа!"], "Cyrillic letters"),
        (["--file", "rows.jsonl", "--suffix", "n" * 65], "1 to 64"),
        (["--file", "rows.jsonl", "--absolute-learning-rate", "nan"], "--absolute-learning-rate nan: expected a"),
        (["--file", "rows.jsonl", "--learning-rate", "inf"], "--learning-rate inf: expected a number"),
        (["--file", "rows.jsonl", "--model", ""], "--model is empty"),
        (["--monitor", " "], "empty"),
        (["--file", "rows.jsonl", "--bucket", "b"], "--provider vertex"),
        (["--file", "rows.jsonl", "--provider", "vertex"], "--project-id and --bucket"),
        (["--provider", "vertex", "--location", "global", "--list-jobs"], "in a region"),
        (["--list-jobs", "--cancel", "ftjob-1"], "one at a time"),
        (["--monitor", ""], "empty"),
        (["--estimate", "--file", "rows.jsonl", "--dry-run"], "nothing is sent"),
        (["--base-url", "localhost:8000", "--list-jobs"], "GOVOR_BASE_URL localhost:8000: expected http://"),
        ([], "--file FILE is needed"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_request(no_network, words, said):
    Path("rows.jsonl").write_bytes(rows(12))
    assert said in call(*words, exit_code=2).stderr
    assert not Path("logs").exists()


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_an_address_that_is_empty_is_none(no_network, monkeypatch, blank):
    """As a variable is that a .env or a compose file sets to nothing."""
    monkeypatch.setenv("GOVOR_BASE_URL", blank)
    for words in ([], ["--base-url", blank]):
        said = call("--list-jobs", "--dry-run", *words).stdout
        assert "GET http://127.0.0.1:8000/v1/fine_tuning/jobs" in said
    monkeypatch.setenv("GOVOR_BASE_URL", " http://127.0.0.1:9/v1 ")
    assert "GET http://127.0.0.1:9/v1/fine_tuning/jobs" in call("--list-jobs", "--dry-run").stdout


def test_a_cyrillic_suffix_goes_to_a_server_of_ones_own(no_network):
    Path("rows.jsonl").write_bytes(rows(12))
    assert '"suffix": "Наташа 2"' in call("--file", "rows.jsonl", "--suffix", "Наташа 2", "--dry-run").stdout


def test_openai_is_refused_after_its_last_day(no_network, monkeypatch):
    Path("rows.jsonl").write_bytes(rows(12))
    words = ("--provider", "openai", "--file", "rows.jsonl", "--dry-run")
    for day, code in ((date(2027, 1, 6), 0), (date(2027, 1, 7), 2)):
        monkeypatch.setattr(providers, "today", lambda day=day: day)
        said = call(*words, exit_code=code).stderr
    assert "created no fine-tuning jobs since 2027-01-06" in said and "--provider local" in said
    assert (
        "GET https://api.openai.com/v1/fine_tuning/jobs"
        in call("--provider", "openai", "--list-jobs", "--dry-run").stdout
    )


def test_a_server_that_is_not_there():
    said = call("--base-url", "http://127.0.0.1:9/v1", "--list-jobs", exit_code=2).stderr
    assert "http://127.0.0.1:9/v1 cannot be reached" in said and "govor jobs serve" in said


def test_estimate(no_network, rows_file, base):
    printed = call(
        "--file", rows_file, "--estimate", "--provider", "openai", "--model", "gpt-4.1-mini-2025-04-14"
    ).stdout
    assert "Training examples: 24" in printed
    tokens, epochs, total = (
        int(n.replace(",", "")) for n in re.search(r"Tokens: ([\d,]+) an epoch × (\d+) .*= ([\d,]+)", printed).groups()
    )
    assert epochs == 4 and total == tokens * epochs, "24 rows: 100 // 24 epochs by OpenAI's rule"
    assert 24 * 20 < tokens < 24 * 200
    cost = float(re.search(r"Price: OpenAI gpt-4.1-mini: \$([\d.]+) \(\$5 a million", printed)[1])
    assert cost == pytest.approx(total * 5 / 1e6, abs=0.005)
    local = call("--file", rows_file, "--estimate", "--epochs", "1", "--model", "acme/any").stdout
    assert "OpenAI gpt-4.1-mini: $0." in printed.split("Asking, 1,000 requests of ")[1], "asking, too"
    assert re.search(r"your own [\w ]+: \$[\d.]+; \$[\d.]+ \(\d+ W at \$0.1 a kWh", printed)
    guide = call("--file", rows_file, "--estimate", "--provider", "openai", "--model", "gpt-4-turbo").stdout
    assert "not offered any more since 2026-10-23 (as of" in guide and "$10 in, $30 out a million" in guide
    assert (
        "it is your own machine" in local and "OpenAI gpt-4o-mini: $" in local and "Gemini 2.5 Flash-Lite: $" in local
    )
    assert "no price" not in call("--file", rows_file, "--estimate", "--model", base).stdout
    kimi = call("--file", rows_file, "--estimate", "--provider", "kimi").stdout
    assert "documents no fine-tuning" in kimi


def test_dry_run_prints_the_requests_and_sends_none(no_network, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Path("чаты.jsonl").write_bytes(rows(12))
    size = f"{Path('чаты.jsonl').stat().st_size:,}"
    words = ("--provider", "openai", "--file", "чаты.jsonl", "--epochs", "2", "--learning-rate-multiplier", "1.5")
    result = call(*words, "--suffix", "Наташа Щ", "--dry-run")
    printed = result.stdout
    assert KEY not in result.output and "Сколько будет" not in printed
    assert re.findall(r"^(?:GET|POST) .*", printed, re.MULTILINE) == [
        "POST https://api.openai.com/v1/files",
        "POST https://api.openai.com/v1/fine_tuning/jobs",
        "GET https://api.openai.com/v1/fine_tuning/jobs/JOB_ID",
        "GET https://api.openai.com/v1/fine_tuning/jobs/JOB_ID/events?limit=100",
        "POST https://api.openai.com/v1/chat/completions",
    ]
    assert "purpose: fine-tune" in printed and f"file: чаты.jsonl ({size} bytes)" in printed
    body = json.loads(re.search(r"/fine_tuning/jobs\n[^\n]*\n[^\n]*\n(\{.*?\n\})", printed, re.DOTALL)[1])
    hyperparameters = {"n_epochs": 2, "learning_rate_multiplier": 1.5}
    assert body == {
        "model": "gpt-4.1-mini-2025-04-14", "training_file": "FILE_ID", "suffix": "Natasha-Shch",
        "metadata": {"suffix": "Наташа Щ"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }  # fmt: skip
    assert not Path("logs").exists()
    local = call("--file", "чаты.jsonl", "--absolute-learning-rate", "1e-4", "--dry-run").stdout
    assert '"govor": {\n    "training": {\n      "learning_rate": 0.0001' in local and "127.0.0.1:8000" in local


def test_env_file(tmp_path):
    path = tmp_path / ".env"
    assert read_env(path) == {}
    text = "\ufeff# keys\n\nexport A=1\nB = \"two # three\"\r\nC='x' # y\nD=a#b # c\nE=\nno line\n1F=2\nG=a=b\n"
    path.write_text(text, encoding="utf-8")
    assert read_env(path) == {"A": "1", "B": "two # three", "C": "x", "D": "a#b", "E": "", "G": "a=b"}


def test_the_environment_counts_before_the_env_file(openai_stand_in, monkeypatch):
    Path(".env").write_text("OPENAI_API_KEY=from-the-file\nMOONSHOT_API_KEY=moon\n", encoding="utf-8")
    url = f"{openai_stand_in.url}/v1"
    call("--provider", "openai", "--list-jobs", "--base-url", url)
    assert openai_stand_in.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("OPENAI_API_KEY")
    call("--provider", "openai", "--list-jobs", "--base-url", url)
    assert openai_stand_in.requests[-1].headers["authorization"] == "Bearer from-the-file"
    call("--provider", "kimi", "--test", "kimi-k2.6", "--base-url", url)
    assert openai_stand_in.requests[-1].headers["authorization"] == "Bearer moon"
    monkeypatch.setenv("OPENAI_API_KEY", "ключ")
    assert "no key has" in call("--provider", "openai", "--list-jobs", "--base-url", url, exit_code=2).stderr


# Hosted providers, through the SDK to a stand-in


def test_openai_the_whole_way(openai_stand_in, rows_file):
    result = call("--provider", "openai", "--base-url", f"{openai_stand_in.url}/v1", "--file", rows_file, "--epochs", 3)
    printed = result.stdout
    assert "from none that is new to it" in result.stderr, "said before the first request"
    for word in ("File ID: file-1", "Job ID: ftjob-1", "Status: running", "Status: succeeded", "Trained tokens: 4,321"):
        assert word in printed
    steps = [int(step) for step in re.findall(r"^step (\d+)/250", printed, re.MULTILINE)]
    assert steps == [110, 220, 250], "the newest of each look; pages are followed to what is known"
    assert re.search(r"^step 220/250  loss 1\.120  ≈[\d,]+ tokens  30 s left", printed, re.MULTILINE)
    assert printed.count("Ответ на: ") == 5 and "Ответ на" not in logs() and KEY not in logs()
    upload, create, *_ = openai_stand_in.requests
    assert b'name="purpose"\r\n\r\nfine-tune' in upload.content and rows_file.read_bytes() in upload.content
    assert create.json()["training_file"] == "file-1" and "govor" not in create.json()
    system = json.loads(rows_file.read_text(encoding="utf-8").split("\n")[0])["messages"][0]
    assert system["role"] == "system"
    chats = [request.json() for request in openai_stand_in.requests if request.path == "/v1/chat/completions"]
    assert [chat["messages"][0] for chat in chats] == [system] * 5
    assert {chat["model"] for chat in chats} == {MODEL}


def test_upload_only(openai_stand_in, rows_file):
    printed = call(
        "--provider", "openai", "--base-url", f"{openai_stand_in.url}/v1", "--file", rows_file, "--upload-only"
    )
    assert "File ID: file-1" in printed.stdout
    assert [request.path for request in openai_stand_in.requests] == ["/v1/files"]


def test_a_failed_job_ends_with_the_servers_words(openai_stand_in):
    text = "The job failed due to an invalid training file. Example 3: Я устал"
    openai_stand_in.changes = {
        "status": "failed",
        "error": {"code": "invalid_training_file", "message": text, "param": None},
    }
    said = call(
        "--provider", "openai", "--base-url", f"{openai_stand_in.url}/v1", "--monitor", "ftjob-1", exit_code=1
    ).stderr
    assert said.strip() == f"error: job ftjob-1 failed: {text} (invalid_training_file)"
    assert "Я устал" not in logs() and "Status: failed" in logs()
    openai_stand_in.changes = {"status": "cancelled"}
    call("--provider", "openai", "--base-url", f"{openai_stand_in.url}/v1", "--monitor", "ftjob-1", exit_code=1)


def test_a_server_that_is_gone_for_a_while(openai_stand_in):
    """Watching goes on; a new job is asked for once, as hosted services do not know a repeated request."""
    failing, answer = [2], openai_stand_in.answer

    def sometimes(request: Request):
        if request.method == "GET" and request.path.endswith("ftjob-1") and failing[0]:
            failing[0] -= 1
            return 400 if failing[0] < 0 else 503, {"error": {"message": "overloaded", "code": None}}
        return answer(request)

    gone = StandIn(sometimes)
    there = ("--provider", "openai", "--base-url", f"{gone.url}/v1")
    assert "Status: succeeded" in call(*there, "--monitor", "ftjob-1").stdout
    gone.close()
    error = {"error": {"message": f"no: {KEY}", "code": None}}
    refusing = StandIn(lambda request: (500, error) if "jobs" in request.path else answer(request))
    Path("rows.jsonl").write_bytes(rows(12))
    there = ("--provider", "openai", "--base-url", f"{refusing.url}/v1")
    said = call(*there, "--file", "rows.jsonl", exit_code=2).stderr
    assert "whether the job was created is not known: --list-jobs" in said and KEY not in said
    assert [request.method for request in refusing.requests if request.path == "/v1/fine_tuning/jobs"] == ["POST"]
    refusing.close()


def test_a_model_that_is_being_loaded_is_waited_for(monkeypatch):
    """Longer than by the SDK, which asks three times: loading takes minutes. Others are not waited for."""
    monkeypatch.setattr(openai_api, "LONGEST_PAUSE", 0.01)
    envelope = {
        "error": {"message": "The model is being loaded.", "type": "x", "param": None, "code": "model_not_ready"}
    }
    refusals = 5
    server = OpenAi()

    def answer(request: Request):
        nonlocal refusals
        refusals -= 1
        return (
            (503, envelope, {"retry-after-ms": "1", "retry-after": "40"}) if refusals >= 0 else server.answer(request)
        )

    stand_in = StandIn(answer)
    try:
        asked = call("--test", MODEL, "--base-url", f"{stand_in.url}/v1")
        assert "Test 1: " in asked.stdout and asked.stdout.count("Response: Ответ на") == 5
        assert asked.stderr.count("waiting: The local server answers 503: The model is being loaded.") == 1
        refusals, words = 3, ("--provider", "openai", "--test", MODEL, "--base-url", f"{stand_in.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert "OpenAI answers 503" in call(*words, exit_code=2).stderr
        refusals = 10**6
        monkeypatch.setattr(openai_api, "LONGEST_LOAD", 0.1)
        assert (
            "The model is being loaded" in call("--test", MODEL, "--base-url", f"{stand_in.url}/v1", exit_code=2).stderr
        )
    finally:
        stand_in.close()
        server.close()


def test_what_is_no_api_at_all(monkeypatch):
    page = StandIn(lambda _: (200, "<html>hello</html>"))
    said = call("--base-url", page.url, "--list-jobs", exit_code=2).stderr
    assert "does not answer as OpenAI's API does" in said and "/v1" in said
    page.close()
    monkeypatch.setenv("KIMI_API_KEY", "k")
    unknown = {
        "code": 5,
        "error": "url.not_found",
        "message": "没找到对象",
        "method": "POST",
        "scode": "0x5",
        "status": False,
    }
    kimi = StandIn(lambda _: (404, unknown))
    said = call("--provider", "kimi", "--test", "m", "--base-url", f"{kimi.url}/v1", exit_code=2).stderr
    assert "Kimi has no /v1/chat/completions" in said
    kimi.close()


@pytest.mark.parametrize(
    ("method", "said", "command"),
    [
        ("GET", "Job ftjob-1 goes on", "--monitor ftjob-1"),
        ("POST", "Whether the job was created is not known", "--list-jobs"),
    ],
)
def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(openai_stand_in, method, said, command):
    """In the first question after the job was created, and before that is known."""
    at = threading.Event()

    def slowly(request: Request):
        if request.method == method and "/fine_tuning/jobs" in request.path:
            at.set()
            time.sleep(2)
        return openai_stand_in.answer(request)

    slow, script = StandIn(slowly), REPOSITORY / "scripts/upload_and_finetune.py"
    there = ["--provider", "openai", "--base-url", f"{slow.url}/v1"]
    Path("rows.jsonl").write_bytes(rows(12))
    process = subprocess.Popen(
        [sys.executable, script, *there, "--file", "rows.jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    assert at.wait(60)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "error" not in errors, errors
    assert said in printed and f"python {script} {' '.join(there)} {command}" in printed
    assert not any(request.path.endswith("cancel") for request in slow.requests)
    slow.close()


# Request bodies for those who send them by hand


def test_written_configs(no_network):
    Path("rows.jsonl").write_bytes(rows(12))
    words = ("--write-config", "--file", "rows.jsonl", "--epochs", "4", "--suffix", "natasha", "--bucket", "my-bucket")
    printed = call(*words, "--provider", "vertex", "--model", "gemini-2.5-flash", "--project-id", "p-1").stdout
    google, vertex, kimi = (
        json.loads(Path(f"{name}_finetune_config.json").read_text(encoding="utf-8"))
        for name in ("google", "vertex", "kimi")
    )
    uri = "gs://my-bucket/rows-gemini.jsonl"
    assert google == {
        "base_model": "gemini-2.5-flash", "training_dataset": {"gcs_uri": uri},
        "config": {"tuned_model_display_name": "natasha", "epoch_count": 4},
    }  # fmt: skip
    assert vertex == {
        "baseModel": "gemini-2.5-flash", "tunedModelDisplayName": "natasha",
        "supervisedTuningSpec": {"trainingDatasetUri": uri, "hyperParameters": {"epochCount": 4}},
    }  # fmt: skip
    assert kimi["training_file"] == "FILE_ID" and kimi["model"].startswith("kimi")
    assert kimi["method"]["supervised"]["hyperparameters"] == {"n_epochs": 4}
    assert (
        "projects/p-1/locations/us-central1/tuningJobs" in printed and "govor convert rows.jsonl --to gemini" in printed
    )
    before = Path("vertex_finetune_config.json").read_bytes()
    Path("google_finetune_config.json").unlink()
    assert "--force" in call(*words, exit_code=2).stderr
    assert (
        Path("vertex_finetune_config.json").read_bytes() == before and not Path("google_finetune_config.json").exists()
    )
    call(*words, "--force")
    assert json.loads(Path("vertex_finetune_config.json").read_bytes())["baseModel"] == PROVIDERS["vertex"].model
