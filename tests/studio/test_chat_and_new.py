"""Chat with the studio's servers and what is kept of it; trainings and rows that the page begins."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sample_exports import claude

from tests.conftest import REPOSITORY
from tests.studio.openai_server import openai_server
from tests.studio.studio_server import StudioServer
from train.chats.formats import FORMATS
from train.core.config import load_config
from train.studio.new_run import NewRun, config_text

ASKED = [{"role": "system", "content": "Ты Наташа."}, {"role": "user", "content": "Кто ты?"}]


@pytest.mark.slow
def test_chat_and_feedback(tmp_path):
    (tmp_path / "data").mkdir()
    with (
        openai_server({"a": "Я Наташа.", "b": "Я модель."}) as (url, asked),
        StudioServer(tmp_path, "--server", url) as server,
    ):
        listed = server.get("/studio/chat/models")["servers"]
        assert listed == [{"server": url, "problem": None, "models": [
            {"id": name, "system": f"Ты {name}."} for name in ("a", "b")]}]  # fmt: skip
        body = {"server": url, "model": "a", "messages": ASKED, "temperature": 0.5}
        answer = server.ask("POST", "/studio/chat/answer", json=body)
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Я Наташа."
        assert asked == [{"model": "a", "messages": ASKED, "temperature": 0.5, "stream": True}]

        refused = server.ask("POST", "/studio/chat/answer", json={**body, "server": "http://169.254.169.254"})
        assert refused.status_code == 403 and "--server URL" in refused.json()["error"]["message"]
        unknown = server.ask("POST", "/studio/chat/answer", json={**body, "model": "c"})
        assert unknown.status_code == 502 and "no such model" in unknown.json()["error"]["message"]
        assert len(asked) == 2

        for said in (
            {"answer": "Я Наташа.", "worse": "Я модель."},
            {"answer": "Я модель.", "liked": False},
            {"answer": "Я Наташа.", "liked": True},
        ):
            kept = server.ask("POST", "/studio/chat/feedback", json={"messages": ASKED, **said})
            assert kept.status_code == 200
        rows = [json.loads(line) for line in Path(tmp_path / "data/feedback.jsonl").read_text().splitlines()]
        assert rows[0] == {
            "input": {"messages": ASKED},
            "preferred_output": [{"role": "assistant", "content": "Я Наташа."}],
            "non_preferred_output": [{"role": "assistant", "content": "Я модель."}],
        }
        assert [row["liked"] for row in rows[1:]] == [False, True]
        assert rows[1]["messages"] == [*ASKED, {"role": "assistant", "content": "Я модель."}]


@pytest.mark.slow
def test_a_server_that_is_gone_is_said(tmp_path):
    with StudioServer(tmp_path, "--server", "http://127.0.0.1:9") as server:
        told = server.get("/studio/chat/models")["servers"][0]
        assert told["models"] == [] and "127.0.0.1:9" in told["problem"]
        body = {"server": "http://127.0.0.1:9", "model": "a", "messages": ASKED}
        assert server.ask("POST", "/studio/chat/answer", json=body).status_code == 502


def test_the_config_says_what_the_form_says(tmp_path):
    form = {"name": "ночь", "rows": "x", "base": "Qwen/Qwen3-0.6B", "learning_rate": 1e-4, "prompts": ["Кто ты?"]}
    path = tmp_path / "c.yaml"
    for method, four_bits, adapter in (("lora", False, True), ("qlora", True, True), ("full", False, False)):
        path.write_text(config_text(NewRun(**form, method=method), tmp_path / "data/x.jsonl", tmp_path))
        config = load_config(path)
        assert (config.model.load_in_4bit, config.lora is not None) == (four_bits, adapter)
        assert (config.name, config.training.learning_rate) == ("ночь", 1e-4)
        assert config.data.train_file == Path("data/x.jsonl") and config.prompts[0][0].content == "Кто ты?"


@pytest.mark.long
def test_a_run_that_the_page_begins(base, rows_file, working_folder):
    """Planned, begun, watched to its end and listed; nothing is overwritten, no path leads out."""
    (working_folder / "data").mkdir()
    (working_folder / "configs").mkdir()
    (working_folder / "data/rows.jsonl").write_bytes(rows_file.read_bytes())
    (working_folder / "data/base").symlink_to(base)
    form = {"name": "new", "rows": "rows.jsonl", "base": "data/base", "max_steps": 2, "max_length": 512, "r": 4,
            "use_cpu": True, "learning_rate": 0.01}  # fmt: skip
    with StudioServer(working_folder) as server:
        assert server.get("/studio/new")["bases"][0] == "data/base"
        planned = server.ask("POST", "/studio/new/plan", json=form)
        assert planned.status_code == 200, planned.text
        assert planned.json()["plan"]["steps"] == 2 and planned.json()["command"] == "govor plan CONFIG --json"
        for wrong in ({"base": "/etc"}, {"base": "../x"}, {"rows": "../x.jsonl"}, {"name": "../x"}, {"r": 0}):
            assert server.ask("POST", "/studio/new/start", json={**form, **wrong}).status_code in (400, 404), wrong
        assert not list((working_folder / "configs").iterdir())
        begun = server.ask("POST", "/studio/new/start", json=form)
        assert begun.json()["command"] == "govor train configs/new.yaml", begun.text
        assert yaml.safe_load((working_folder / "configs/new.yaml").read_text())["training"]["max_steps"] == 2
        again = server.ask("POST", "/studio/new/start", json=form)
        assert again.status_code == 400 and "there already" in again.json()["error"]["message"]
        deadline = time.monotonic() + 600
        while (told := server.get("/studio/commands")["commands"][0])["exit_code"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert told["exit_code"] == 0, told["output"]
        run = server.get("/studio/runs/new")
        assert (run["run"]["state"], run["run"]["step"], run["run"]["rows"]) == ("finished", 2, 22)
        changed = {one["option"]: one["value"] for one in run["options"]}
        assert changed["training.max_steps"] == 2 and changed["lora.r"] == 4 and "training.seed" not in changed
        assert run["data"]["train"]["rows"] == 22 and run["parity"]["differing"] == []
        assert run["merge"] is None and run["evaluated"] is None


def wait_for(seconds: float, what):
    """The first result of `what` that is not None."""
    deadline = time.monotonic() + seconds
    while (found := what()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.mark.long
def test_a_training_is_stopped_and_resumed(write_config, working_folder):
    """One that was begun in a terminal: the page stops it, which saves, and resumes it, which ends it."""
    write_config(
        training={"max_steps": 40, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1}, prompts=[]
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "train.cli", "train", "x.yaml"]
    elsewhere = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with StudioServer(working_folder) as server:

        def run() -> dict:
            return server.get("/studio/runs")["runs"][0]

        def ended() -> int | None:
            return server.get("/studio/commands")["commands"][0]["exit_code"]

        wait_for(300, lambda: (server.get("/studio/runs")["runs"] and run()["step"]) or None)
        assert "stopped" in server.ask("POST", "/studio/runs/x/stop", json={}).json()
        elsewhere.wait(300)
        stopped = run()
        assert (stopped["state"], len(stopped["checkpoints"])) == ("stopped", 1) and 0 < stopped["step"] < 40
        begun = server.ask("POST", "/studio/runs/x/resume", json={})
        assert begun.json()["command"] == "govor train runs/x/config.yaml --resume", begun.text
        assert wait_for(600, ended) == 0, server.get("/studio/commands")
        assert (run()["state"], run()["step"]) == ("finished", 40)
        entries = map(json.loads, Path("runs/x/metrics.jsonl").read_text().splitlines())
        steps = [entry["step"] for entry in entries if "loss" in entry]
        assert steps == sorted(set(steps)) == list(range(1, 41))


def test_the_page_names_every_program_whose_chats_are_read():
    texts = (REPOSITORY / "train/studio/static/texts.js").read_text(encoding="utf-8")
    aid = texts[texts.index("  drop_aid:") : texts.index("  reading_export:")]
    for form in FORMATS:
        if form.read_chats:
            assert aid.count(form.name.partition("'")[0]) == 2, form.name


@pytest.mark.slow
def test_chats_that_are_dropped_on_the_page(tmp_path):
    (tmp_path / "data").mkdir()
    lines = []
    for number in range(30):
        who, text = ("Маша", f"А что сегодня {number}?") if number % 2 == 0 else ("Наташа", f"Сегодня снег, {number}.")
        lines.append(f"{1 + number // 10:02}.03.2026, 10:{number:02} - {who}: {text}")
    chat = "\n".join(lines).encode()
    binary = {"content-type": "application/octet-stream"}
    with StudioServer(tmp_path) as server:
        sent = server.ask("POST", "/studio/new/export?name=../Чат WhatsApp с Наташа.txt", content=chat, headers=binary)
        assert sent.status_code == 200, sent.text
        people = {one["name"]: one for one in sent.json()["people"]}
        assert people.keys() == {"Маша", "Наташа"} and people["Наташа"]["messages"] == 15
        claudes = server.ask("POST", "/studio/new/export?name=conversations.json", content=claude(), headers=binary)
        assert {one["id"] for one in claudes.json()["people"]} == {"human", "assistant"}, claudes.text
        form = {"content-type": "text/plain"}
        assert server.ask("POST", "/studio/new/export?name=x", content=chat, headers=form).status_code == 415
        body = {"upload": sent.json()["upload"], "persona": people["Наташа"]["id"]}
        assert server.ask("POST", "/studio/new/collect", json={**body, "upload": ".."}).status_code == 400
        assert server.ask("POST", "/studio/new/collect", json=body).status_code == 200
        deadline = time.monotonic() + 300
        while (told := server.get("/studio/commands")["commands"][0])["exit_code"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert told["exit_code"] == 0, told["output"]
        assert "30 messages read" in told["output"]
        assert [one["id"] for one in server.get("/studio/rows")["files"]] != []
