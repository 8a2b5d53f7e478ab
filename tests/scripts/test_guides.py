"""Every command block of five guides, as written, with a server of one's own in the provider's place.

What trains is asked of a stand-in for the server, since each training takes seconds; test_upload_script.py goes the
whole way with a guide's script and a real server of ours.
"""

import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import simple_finetuning_generator
import upload_and_finetune
from finetuning import providers

from tests.conftest import REPOSITORY
from tests.jobs.jobs_server import rows
from tests.scripts.guides_text import DIALOGUES, FOREIGN, GUIDES, ROWS
from tests.scripts.test_upload_script import KEYS, OpenAi
from train.chats.provenance import row_hash
from train.chats.readers import read_rows
from train.core.errors import ConfigError, DataError

KEY = "sk-of-the-test"


class OwnServer(OpenAi):
    """A server of one's own: what it creates it first checks, and it serves what the guides call their tuned model."""

    def answer(self, request):
        if request.method == "POST" and request.path == "/v1/fine_tuning/jobs":
            self.looks = 0
            return 200, {**self.job(), "status": "validating_files", "model": "acme/tiny"}
        return super().answer(request)


@pytest.fixture
def own_server():
    server = OwnServer()
    server.steps = 3
    yield server
    server.close()


@pytest.fixture
def followed(own_server, working_folder, monkeypatch):
    """A folder as somebody has it who follows the guides; the commands' keys and addresses in the environment."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOVOR_BASE_URL", f"{own_server.url}/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{own_server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("KIMI_API_KEY", KEY)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(upload_and_finetune, "LOCAL_INTERVAL", 0.02)
    data = working_folder / "data"
    data.mkdir()
    shutil.copy(REPOSITORY / "data/natasha.jsonl", ROWS)
    turns = [{"speaker": "other-1", "role": "user", "text": "Ты где?", "time": "2025-11-25"},
             {"speaker": "persona", "role": "assistant", "text": "Да дома я.", "time": "2025-11-25"}]  # fmt: skip
    dialogue = {"channel": "Чат", "chat_type": "private_group", "date": "2025-11-25", "turns": turns,
                "participants": [{"label": "persona", "role": "persona"}]}  # fmt: skip
    Path(DIALOGUES).write_text(json.dumps([dialogue] * 3, ensure_ascii=False), encoding="utf-8")
    programs = working_folder / "bin"
    programs.mkdir()
    for name in FOREIGN:
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return working_folder


def run_block(block: str, monkeypatch, capsys) -> str:
    """What the commands of a block print, one after another; AssertionError where one fails."""
    if block.startswith(("from ", "import ")):
        exec(compile(block, "guide", "exec"), {})
        return capsys.readouterr().out
    printed = ""
    commands = re.sub(r"\\\n", " ", block).splitlines()
    for command in (line for line in commands if line.strip() and not line.startswith("#")):
        words = shlex.split(command)
        if words[0] in ("python", "python3") and words[1].endswith(".py"):
            script = words[1] if "/" in words[1] else f"scripts/{words[1]}"  # the last guide stands in its folder
            monkeypatch.setattr(sys, "argv", words[1:])
            with pytest.raises(SystemExit) as left:
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            captured = capsys.readouterr()
            assert left.value.code in (0, None), (command, captured)
            printed += captured.out
        elif words[0] == "cd":
            continue  # the folder that git would have made
        else:
            command = command.replace("<job_id>", "ftjob-1")
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 or "| bash" in command, (command, done)  # a stand-in's words are no program
            printed += done.stdout
    return printed


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_block_of_the_guide(guide, followed, own_server, monkeypatch, capsys):
    """With names in the place of the guides' xxx, and one's own address in the place of the provider's."""
    if guide == "data set":
        export(followed)
    for block, promised in GUIDES[guide]:
        own_server.looks = 3 if "--monitor" in block else 0
        block = re.sub(r"ftjob-xxx|JOB_ID(?=$| )", "ftjob-1", block)
        block = block.replace("https://api.moonshot.cn/v1", f"{own_server.url}/v1")
        printed = run_block(block, monkeypatch, capsys)
        at = 0
        for line in promised:
            at = printed.find(line, at)
            assert at >= 0, (block, line, printed)
    logs = {"OpenAI": "finetune_natasha.log", "Kimi": "finetune_kimi.log", "Vertex AI": "finetune_vertex.log"}
    if guide in logs:
        log = Path("logs", logs[guide]).read_text(encoding="utf-8")
        assert "ftjob-1" in log and KEY not in log and "Ответ на" not in log
        created = [r.json() for r in own_server.requests if r.method == "POST" and r.path == "/v1/fine_tuning/jobs"]
        assert all("learning_rate_multiplier" in job["method"]["supervised"]["hyperparameters"] for job in created)
        assert not any("govor" in job for job in created), "a multiplier, never a rate"


def export(folder: Path) -> None:
    """A small export of Telegram's, in which the persona answers."""
    said = [("user2", "Игорь", "Наташа, ты дома?"), ("user1", "Наташа", "Да, сижу дома, пью чай и жду тебя.")] * 2
    messages = [
        {
            "id": n, "type": "message", "date": f"2025-01-01T00:0{n}:00", "date_unixtime": str(1735700000 + 60 * n),
            "from": name, "from_id": id_, "text": text, "text_entities": [{"type": "plain", "text": text}],
        }
        for n, (id_, name, text) in enumerate(said, 1)
    ]  # fmt: skip
    (folder / "ChatExport_2025-11-25").mkdir()
    chat = {"name": "Игорь", "type": "personal_chat", "id": 2, "messages": messages}
    (folder / "ChatExport_2025-11-25/result.json").write_text(json.dumps(chat, ensure_ascii=False), encoding="utf-8")


SAID = {
    "natasha": "OpenAI tunes no gpt-4-turbo any more (shut down on 2026-10-23): --model gpt-4.1-mini-2025-04-14",
    "kimi": "Kimi documents no fine-tuning API",
    "vertex": "Google Vertex AI tunes no gemini-1.5-pro-002 any more (retired in September 2025)",
    "google": "Google's Gemini API tunes no models since May 2025",
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_provider_no_longer_does_is_said_with_what_does_it(name, followed, monkeypatch, capsys):
    """Without a server of one's own: nothing is sent, and the rows are checked first."""
    monkeypatch.delenv("GOVOR_BASE_URL")
    monkeypatch.setattr(providers, "today", lambda: date(2026, 11, 29))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    monkeypatch.setattr(sys, "argv", ["x", "--project-id", "p", "--bucket", "bucket"] if name == "vertex" else ["x"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(REPOSITORY / f"scripts/analysis/upload_and_finetune_{name}.py"), run_name="__main__")
    captured = capsys.readouterr()
    assert left.value.code == 2 and captured.out == "✅ Validation passed: 321 training examples\n"
    assert SAID[name] in captured.err and "GOVOR_BASE_URL=http://127.0.0.1:8000/v1" in captured.err


def test_the_newest_rows_are_taken_else_those_of_the_repository(followed, monkeypatch, capsys):
    from finetuning.guides import newest_rows

    Path("data/natasha_finetuning_2026-11-29.jsonl").write_bytes(rows(12))
    os.utime(ROWS, (1, 1))
    assert newest_rows() == Path("data/natasha_finetuning_2026-11-29.jsonl")
    for path in Path("data").glob("natasha_finetuning_*"):
        path.unlink()
    assert newest_rows() is None
    Path("data/natasha.jsonl").write_bytes(rows(12))
    assert newest_rows() == Path("data/natasha.jsonl")
    Path("data/natasha.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(REPOSITORY / "scripts/analysis/upload_and_finetune_kimi.py"), run_name="__main__")
    assert "data/ here holds no natasha_finetuning_*.jsonl" in capsys.readouterr().err


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_generated_medical_rows_are_counted_under_their_model():
    Path("all.jsonl").write_bytes((REPOSITORY / "data/medical.jsonl").read_bytes())
    more = {
        "instruction": "手被热水烫红了，先做什么？",
        "input": "",
        "output": "先用流动的凉水冲二十分钟，不要涂牙膏。",
    }
    with Path("all.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(more, ensure_ascii=False) + "\n")
    origin = {"row": row_hash(read_rows(Path("all.jsonl"))[-1]), "source": "generated", "model": "kimi-k2.6"}
    sidecar = Path("more.provenance.jsonl")
    sidecar.write_text(json.dumps({**origin, "reviewed": None}), encoding="utf-8")
    arguments = (Path("all.jsonl"), None, "qwen3_nothink", Path("out"))
    with pytest.raises(DataError, match="1 generated rows that nobody has reviewed"):
        simple_finetuning_generator.generate(*arguments, force=False)
    sidecar.write_text(json.dumps({**origin, "reviewed": "seen"}), encoding="utf-8")
    simple_finetuning_generator.generate(*arguments, force=False)
    stats = json.loads(Path("out/dataset_stats.json").read_text(encoding="utf-8"))
    assert stats["sources"] == {"govor, invented": 28, "generated, kimi-k2.6": 1}


def test_medical_rows_for_llamafactory(working_folder):
    config = "finetuning_output/llamafactory_config"
    lines = simple_finetuning_generator.generate(
        REPOSITORY / "data/medical.jsonl", None, "qwen3_nothink", Path("finetuning_output"), force=False
    )
    assert lines[-1] == f"next: llamafactory-cli train {config}.yaml"
    parts = {
        part: json_lines(Path(f"finetuning_output/medical_finetune_{part}.jsonl")) for part in ("train", "val", "all")
    }
    assert [len(records) for records in parts.values()] == [22, 6, 28]
    given = json_lines(REPOSITORY / "data/medical.jsonl")
    assert [{key: record[key] for key in given[0]} for record in parts["all"]] == given
    ids = {part: {record["id"] for record in records} for part, records in parts.items()}
    assert ids["train"] | ids["val"] == ids["all"] and not ids["train"] & ids["val"]
    settings = json.loads(Path(f"{config}.json").read_text(encoding="utf-8"))
    assert settings["dataset"] == "medical_finetune_train" and settings["learning_rate"] == 2e-4
    info = json.loads(Path("finetuning_output/dataset_info.json").read_text(encoding="utf-8"))
    assert {settings["dataset"], settings["eval_dataset"]} <= info.keys()
    stats = json.loads(Path("finetuning_output/dataset_stats.json").read_text(encoding="utf-8"))
    assert (stats["total_samples"], stats["sources"]) == (28, {"govor, invented": 28})
    with pytest.raises(Exception, match="--force"):
        simple_finetuning_generator.generate(
            REPOSITORY / "data/medical.jsonl", None, "qwen3_nothink", Path("finetuning_output"), force=False
        )


def test_alpaca_rows_without_input_and_too_few_to_hold_any_out():
    """`input` is left out where there is none, or null; LLaMA-Factory breaks off over an empty file to evaluate on."""
    lines = [
        '{"instruction": "Кто ты?", "output": "Врач."}',
        '{"instruction": "Где?", "input": null, "output": "Тут."}',
    ]
    Path("rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    Path("one.jsonl").write_text(lines[0], encoding="utf-8")
    for name, held_out in (("rows", True), ("one", False)):
        folder = Path(name)
        simple_finetuning_generator.generate(Path(f"{name}.jsonl"), None, "qwen3_nothink", folder, force=False)
        assert {record["input"] for record in json_lines(folder / "medical_finetune_all.jsonl")} == {""}
        settings = json.loads((folder / "llamafactory_config.json").read_text(encoding="utf-8"))
        assert ("eval_dataset" in settings) == held_out == (settings.get("eval_strategy", "no") != "no")
    with pytest.raises(ConfigError, match=r"-o one\.jsonl: a file, expected a folder"):
        simple_finetuning_generator.generate(Path("one.jsonl"), None, "qwen3_nothink", Path("one.jsonl"), force=False)
