"""collect, scrub, analyze, inspect and convert as a person uses them."""

import csv
import json
import stat
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, govor
from train.chats.checks import check_file
from train.chats.readers import read_rows

ROWS = str(REPOSITORY / "data/natasha.jsonl")


def message(number: int, who: str, name: str, text: str, hours: float, **more) -> dict:
    seconds = 1_700_000_000 + int(hours * 3600)
    return {"id": number, "type": "message", "date_unixtime": str(seconds), "date": "2023-11-14T22:13:20",
            "from": name, "from_id": who, "text": text, "text_entities": [], **more}  # fmt: skip


@pytest.fixture
def export() -> Path:
    """Two chats of Наташа (user1): twelve dialogues with Ольга, each a day apart, and one with nobody's answer."""
    talk = []
    for day in range(12):
        asked = f"Наташа, это Ольга. Мой номер 8 916 123-45-{day:02}. Что делать?"
        answer = f"Тебе сколько лет? Ответь Ольге внутри {day}."
        talk += [message(3 * day + 1, "user2", "Ольга Петрова", asked, 24 * day),
                 message(3 * day + 2, "user1", "Наташа", answer, 24 * day + 1),
                 message(3 * day + 3, "user2", "Ольга Петрова", "Спасибо", 24 * day + 2)]  # fmt: skip
    chats = [
        {"name": "Ольга Петрова", "type": "personal_chat", "id": 2, "messages": talk},
        {"name": "Пусто", "type": "personal_chat", "id": 3,
         "messages": [message(1, "user3", "Игорь", "Есть кто?", 0), {"id": 2, "type": "service", "action": "pin"}]},
    ]  # fmt: skip
    path = Path("result.json")
    path.write_text(json.dumps({"chats": {"list": chats}}, ensure_ascii=False), encoding="utf-8")
    return path


class TestCollect:
    def test_rows_dialogues_table_and_account(self, export):
        result = govor("collect", str(export), "--persona", "Наташа", "-o", "out", "--system", "Ты Наташа.")
        assert result.exit_code == 0, result.output
        assert "2 channels, 38 messages read" in result.stdout
        assert "24 kept (63%) in 12 dialogues, 12 rows" in result.stdout
        assert "14 left out: after_last_answer 12, " in result.stdout
        written = sorted(path.name for path in Path("out").iterdir())
        assert len(written) == 4
        rows_file = next(Path("out").glob("Наташа_finetuning_*.jsonl"))
        assert check_file(rows_file).errors == []
        rows = read_rows(rows_file)
        assert rows[0].messages[0] == {"role": "system", "content": "Ты Наташа."}
        text = rows_file.read_text(encoding="utf-8")
        assert "Ольг" not in text
        assert "916" not in text
        assert "<ТЕЛЕФОН_1>" in text
        assert "Наташа, это Ирина" in text and "Ответь Ирине" in text, "the persona's own name stays"
        assert "ИМЯ" not in text

    def test_the_table_of_what_was_replaced_is_private_and_beside(self, export):
        govor("collect", str(export), "--persona", "user1", "-o", "out", "--placeholders")
        table = next(Path("out").glob("*_replaced.csv"))
        lines = table.read_text(encoding="utf-8").splitlines()
        rows = {row["placeholder"]: row for row in csv.DictReader(lines)}
        assert rows["<ТЕЛЕФОН_3>"]["original"] == "8 916 123-45-02"
        assert rows["<ТЕЛЕФОН_3>"]["lines"] == "3"
        assert rows["<ИМЯ_1>"]["lines"] == " ".join(map(str, range(1, 13)))
        assert stat.S_IMODE(table.stat().st_mode) == 0o600
        for path in Path("out").iterdir():
            path.unlink() if path != table else path.write_text("mine")
        result = govor("collect", str(export), "--persona", "user1", "-o", "out")
        assert result.stderr == f"error: {table} is there already: --force replaces it\n"
        assert table.read_text() == "mine" and list(Path("out").iterdir()) == [table], "nothing is half done"

    def test_unscrubbed_where_asked(self, export):
        govor("collect", str(export), "--persona", "user1", "-o", "out", "--no-scrub")
        assert len(list(Path("out").iterdir())) == 3
        assert "8 916 123-45-00" in next(Path("out").glob("*_finetuning_*")).read_text(encoding="utf-8")

    def test_it_does_not_overwrite(self, export):
        first = govor("collect", str(export), "--persona", "user1", "-o", "out")
        assert first.exit_code == 0
        again = govor("collect", str(export), "--persona", "user1", "-o", "out")
        assert again.exit_code == 2
        assert "--force" in again.stderr
        assert govor("collect", str(export), "--persona", "user1", "-o", "out", "--force").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("nowhere.json", "--persona", "а"), "nowhere.json"),
            (("result.json", "--persona", "Пётр"), "Ольга Петрова"),
            (("result.json", "--persona", "user3"), "answers nobody"),
            (("result.json", "--persona", "user1", "--gap-hours", "0"), "gap"),
        ],
    )
    def test_wrong_use(self, export, arguments, message):
        result = govor("collect", *arguments)
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith("error: ")
        assert message in result.stderr

    def test_the_rows_can_be_analyzed_by_channel(self, export):
        govor("collect", str(export), "--persona", "user1", "-o", "out")
        rows_file = next(Path("out").glob("*_finetuning_*.jsonl"))
        result = govor("analyze", str(rows_file), "-o", "out")
        assert result.exit_code == 0, result.output
        stats = json.loads(Path("out/dataset_stats.json").read_bytes())
        assert sum(share["rows"] for share in stats["channels"].values()) == 12


class TestScrub:
    def test_writes_rows_and_a_private_table(self):
        answer = {"role": "assistant", "content": "Да"}
        asked = [{"role": "user", "content": f"Пишите Ивану: ivan{n}@mail.ru"} for n in range(10)]
        rows = [{"messages": [question, answer]} for question in asked]
        Path("my.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
        result = govor("scrub", "my.jsonl", "--name", "Иван", "--placeholders")
        assert result.exit_code == 0, result.output
        assert "my_scrubbed.jsonl: 10 rows, 20 places replaced" in result.stdout
        text = Path("my_scrubbed.jsonl").read_text(encoding="utf-8")
        assert "Пишите <ИМЯ_1>: <ПОЧТА_10>" in text
        assert stat.S_IMODE(Path("my_scrubbed_replaced.csv").stat().st_mode) == 0o600
        assert govor("scrub", "my.jsonl", "--name", "Иван").exit_code == 2
        govor("scrub", "my.jsonl", "--name", "Иван", "-o", "invented.jsonl")
        assert "Пишите Николаю: <ПОЧТА_10>" in Path("invented.jsonl").read_text(encoding="utf-8")
        Path("my_scrubbed.jsonl").unlink()
        Path("my_scrubbed_replaced.csv").write_text("mine")
        result = govor("scrub", "my.jsonl")
        assert result.stderr == "error: my_scrubbed_replaced.csv is there already: --force replaces it\n"
        assert Path("my_scrubbed_replaced.csv").read_text() == "mine" and not Path("my_scrubbed.jsonl").exists()

    def test_shipped_rows_hold_nothing_personal(self):
        result = govor("scrub", ROWS, "-o", "clean.jsonl")
        assert "321 rows, 0 places replaced" in result.stdout
        assert [row.messages for row in read_rows(Path("clean.jsonl"))] == [
            row.messages for row in read_rows(Path(ROWS))
        ]


class TestAnalyze:
    def test_tables_json_and_page(self, base):
        topics = str(REPOSITORY / "train/chats/topics.yaml")
        result = govor("analyze", ROWS, "-o", "out", "--base", str(base), "--max-length", "600", "--topics", topics)
        assert result.exit_code == 0, result.output
        assert "вопросы к себе" in result.stdout
        stats = json.loads(Path("out/dataset_stats.json").read_bytes())
        assert stats["rows"] == 321
        assert stats["tokens"]["max_length"] == 600
        page = Path("out/dataset_stats.html").read_text(encoding="utf-8")
        assert "<svg" in page
        assert govor("analyze", ROWS, "-o", "out").exit_code == 2

    def test_max_length_needs_a_base(self):
        assert "give --base" in govor("analyze", ROWS, "--max-length", "10").stderr


class TestInspect:
    def test_trained_tokens_are_marked(self, write_config, rows_file):
        result = govor("inspect", str(write_config()), "--row", "2")
        answers = [m["content"] for m in read_rows(rows_file)[1].messages if m["role"] == "assistant"]
        assert result.exit_code == 0, result.output
        for answer in answers:
            assert f"⟦{answer}<|im_end|>⟧" in result.stdout

    def test_json_is_ids_labels_and_tokens(self, write_config):
        found = json.loads(govor("inspect", str(write_config()), "--json").stdout)
        assert found.keys() == {"rows"}
        assert len(found["rows"]) == 24
        row = found["rows"][0]
        assert row.keys() == {"row", "input_ids", "labels", "tokens"}
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["tokens"])
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))

    def test_row_that_is_not_there(self, write_config):
        result = govor("inspect", str(write_config()), "--row", "99")
        assert result.exit_code == 2
        assert "it has 24 rows" in result.stderr
