"""govor chat in the terminal; against a served model it is tested in test_serve.py."""

import gzip
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import govor
from tests.scripts.stand_in import Request, StandIn
from train.chats.checks import check_file
from train.chats.readers import read_rows
from train.core.runs import Run
from train.merging.merge import merge


def greedy(run: Run) -> None:
    config = run.config_file.read_text(encoding="utf-8").replace("do_sample: true", "do_sample: false")
    run.config_file.write_text(config, encoding="utf-8")


def rows(path: str) -> list[list[dict]]:
    return [json.loads(line)["messages"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


class TestConversation:
    def test_save_makes_training_rows(self, run):
        """History, a new system message and /reset show in what is saved; a second row goes behind the first."""
        greedy(run)
        typed = "Кто я?\nА ты кто?\n/save talks.jsonl\n/system Ты Пётр.\n/reset\nПривет\n/save talks.jsonl\n/exit\n"
        result = govor("chat", str(run.path), "--system", "Ты Наташа.", input=typed)
        assert result.exit_code == 0
        assert "saved as row 1 of talks.jsonl" in result.stderr
        assert "saved as row 2 of talks.jsonl" in result.stderr
        first, second = rows("talks.jsonl")
        assert [message["role"] for message in first] == ["system", "user", "assistant", "user", "assistant"]
        assert [first[0]["content"], first[1]["content"], first[3]["content"]] == ["Ты Наташа.", "Кто я?", "А ты кто?"]
        assert [message["content"] for message in second[:2]] == ["Ты Пётр.", "Привет"]
        shown = result.stdout.split("› ")[1:]
        assert first[2]["content"] == shown[0].strip()
        assert second[2]["content"] == shown[5].strip()
        assert len(read_rows(Path("talks.jsonl"))) == 2
        assert [problem.kind for problem in check_file(Path("talks.jsonl")).errors] == ["too_few_examples"]

    def test_answers_see_the_history(self, run):
        """Greedy: the same question answered alone and after another."""
        greedy(run)
        result = govor("chat", str(run.path), input="Я устал.\nКто я?\n/save a\n/reset\nКто я?\n/save b\n")
        assert result.exit_code == 0
        alone = govor("chat", str(run.path), "--prompt", "Кто я?").stdout.strip()
        assert rows("b")[0][-1]["content"] == alone
        assert len(rows("a")[0]) == len(rows("b")[0]) + 2

    def test_no_system_message(self, run):
        govor("chat", str(run.path), input="/system\nКто я?\n/save a\n")
        assert [message["role"] for message in rows("a")[0]] == ["user", "assistant"]

    def test_save_touches_nothing_else(self, run):
        notes = "мои заметки\n"
        Path("notes.txt").write_text(notes, encoding="utf-8")
        Path("folder").mkdir()
        typed = "/save a\nКто я?\n/save\n/save notes.txt\n/save folder\n/save nowhere/a\n"
        result = govor("chat", str(run.path), input=typed)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert errors == [
            "error: there is nothing to save yet",
            "error: /save needs the name of a file: /save talks.jsonl",
            "error: notes.txt is there already and holds no training rows: choose another name",
            "error: folder is there already and holds no training rows: choose another name",
            "error: nowhere/a: No such file or directory",
        ]
        assert Path("notes.txt").read_text(encoding="utf-8") == notes

    def test_save_adds_and_rewrites_nothing(self, run):
        """Line ends, mode and links of a file stay as they are; what is no plain JSONL is refused."""
        row = '{"messages": [{"role": "user", "content": "А?"}, {"role": "assistant", "content": "Б."}]}'
        Path("private.jsonl").write_bytes(f"{row}\r\n{row}".encode())
        Path("private.jsonl").chmod(0o600)
        Path("link.jsonl").symlink_to("private.jsonl")
        Path("array.json").write_text(f"[{row}]", encoding="utf-8")
        Path("packed.jsonl.gz").write_bytes(gzip.compress(f"{row}\n".encode()))
        Path("wide.jsonl").write_bytes(row.encode("utf-16"))
        before = {name: Path(name).read_bytes() for name in ("array.json", "packed.jsonl.gz", "wide.jsonl")}
        result = govor(
            "chat", str(run.path), input="Кто я?\n/save link.jsonl\n" + "".join(map("/save {}\n".format, before))
        )
        assert "saved as row 3 of link.jsonl" in result.stderr and result.stderr.count("error: ") == 3
        assert Path("private.jsonl").read_bytes().startswith(f"{row}\r\n{row}\n{{".encode())
        assert Path("link.jsonl").is_symlink() and Path("private.jsonl").stat().st_mode & 0o777 == 0o600
        assert {name: Path(name).read_bytes() for name in before} == before

    def test_help_and_what_is_no_command(self, run):
        result = govor("chat", str(run.path), input="/help\n/what\n")
        assert result.stderr.count("/save FILE") == 3, "at the start too"


class TestServedSystemMessage:
    def test_it_is_the_server_s_until_another_is_typed(self, monkeypatch):
        """Saved with the rows; `/system` alone asks the server for none, which else would put in its own."""
        asked = []

        def create(*, messages, **_):
            asked.append(messages)
            delta = SimpleNamespace(content="Да.")
            return nullcontext([SimpleNamespace(choices=[SimpleNamespace(delta=delta)])])

        model = SimpleNamespace(id="natasha", metadata={"system_message": "Ты Наташа."})
        client = SimpleNamespace(
            models=SimpleNamespace(list=lambda: SimpleNamespace(data=[model])),
            chat=SimpleNamespace(completions=SimpleNamespace(create=create)),
        )
        monkeypatch.setattr("train.serving.chat._client", lambda url, key: nullcontext(client))
        typed = "Кто я?\n/save own\n/reset\n/system\nКто я?\n/save none\n/system Ты Пётр.\nКто я?\n"
        govor("chat", "http://127.0.0.1:1/v1", input=typed)
        openings = [(messages[0]["role"], messages[0]["content"]) for messages in asked]
        assert openings == [("system", "Ты Наташа."), ("system", ""), ("system", "Ты Пётр.")]
        assert [message["content"] for message in rows("own")[0]] == ["Ты Наташа.", "Кто я?", "Да."]
        assert [message["content"] for message in rows("none")[0]] == ["Кто я?", "Да."]


def test_a_served_model_that_is_being_loaded_is_waited_for(monkeypatch):
    """Longer than by the SDK, which asks three times."""
    monkeypatch.setattr("train.serving.chat.LONGEST_PAUSE", 0)
    loading = {
        "error": {"message": "The model is being loaded.", "type": "x", "param": None, "code": "model_not_ready"}
    }
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Да."}}]}
    left = 5

    def answer(request: Request):
        nonlocal left
        if request.path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "natasha", "object": "model", "created": 1}]}
        left -= 1
        if left >= 0:
            return 503, loading, {"retry-after-ms": "1", "retry-after": "40"}
        return 200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"

    server = StandIn(answer)
    try:
        result = govor("chat", f"{server.url}/v1", "--prompt", "Кто я?")
    finally:
        server.close()
    assert (result.exit_code, result.stdout) == (0, "Да.\n")
    assert result.stderr == f"({server.url}/v1: The model is being loaded.)\n"


class TestTargets:
    def test_merged_folder_of_a_run(self, run):
        merge(run)
        by_name = govor("chat", str(run.merged), "--prompt", "Кто я?")
        assert by_name.exit_code == 0
        assert by_name.stdout == govor("chat", str(run.path), "--merged", "--prompt", "Кто я?").stdout

    def test_model_folder_away_from_its_run(self, run):
        """It carries its template, its stop tokens and its settings."""
        greedy(run)
        merge(run)
        system = run.manifest()["data"]["system_message"] or ""
        expected = govor("chat", str(run.path), "--prompt", "Кто я?")
        shutil.move(run.merged, "model")
        got = govor("chat", "model", "--prompt", "Кто я?", "--system", system)
        assert (got.exit_code, got.stdout) == (0, expected.stdout)

    def test_neither(self):
        Path("folder").mkdir()
        assert "folder is not a run folder" in govor("chat", "folder").stderr

    @pytest.mark.parametrize(
        ("contents", "said"), [("{", "not valid JSON"), ('{"temperature": "hot"}', "temperature: Input should be")]
    )
    def test_its_damaged_settings_are_named(self, contents, said, run):
        merge(run)
        shutil.move(run.merged, "model")
        Path("model/generation_config.json").write_text(contents, encoding="utf-8")
        result = govor("chat", "model", "--prompt", "Кто я?")
        assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith(
            f"error: model/generation_config.json: {said}"
        )
