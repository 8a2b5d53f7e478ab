"""Files of rows in the studio: paged, searched, decided on, and written anew."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY, govor
from tests.studio.studio_server import StudioServer
from train.chats.checks import check_file
from train.core.errors import DataError, GovorError
from train.remote.review import read_decisions
from train.studio.rows_file import (
    alike_groups,
    decide,
    decisions_of,
    describe_line,
    find_files,
    index_of,
    read_lines,
    search,
    write_kept,
)


def row(question: str, answer: str, **more) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


@pytest.fixture
def rows(tmp_path) -> Path:
    """Twelve rows with a blank line, one that is no JSON, one with escaped letters and one without its break."""
    lines = [row(f"Вопрос {n}?", f"Ответ {n}.") for n in range(10)]
    lines[3] = "\r"
    lines[5] = '{"messages": [{"role": "user", "content": "оборвано'
    lines.append(json.dumps(json.loads(row('Скажи "ЁЖ"', "Ёж!"))))
    lines.append(json.dumps({"messages": [{"role": "user", "content": "одна"}, {"role": "user", "content": "две"},
                                          {"role": "assistant", "content": "три, +7 912 345-67-89"}]}))  # fmt: skip
    path = tmp_path / "data/rows.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class TestPaging:
    def test_each_line_is_found_by_its_physical_number(self, rows):
        index = index_of(rows)
        assert list(index.numbers) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
        lines = read_lines(rows, range(len(index.numbers)))
        text = rows.read_bytes().split(b"\n")
        assert [line.raw for line in lines] == [text[line.number - 1] for line in lines]

    def test_a_file_that_has_changed_is_indexed_anew(self, rows):
        before = len(index_of(rows).starts)
        with rows.open("a") as file:
            file.write("\n" + row("ещё", "да") + "\n")
        assert len(index_of(rows).starts) == before + 1

    @pytest.mark.parametrize(
        ("words", "numbers"),
        [
            ("ответ 7", [8]),
            ("ОТВЕТ 7", [8]),
            ('скажи "ёж"', [11]),
            ("оборвано", [6]),
            ("нет такого", []),
            ("три,", [12]),
        ],
    )
    def test_search(self, rows, words, numbers):
        index = index_of(rows)
        assert [index.numbers[place] for place in search(rows, words)] == numbers

    def test_what_is_said_of_a_line_is_what_validate_says(self, rows):
        report = check_file(rows)
        lines = [describe_line(line, {}) for line in read_lines(rows, range(11))]
        errors = [(line["line"], text) for line in lines for text in line["errors"]]
        warnings = [(line["line"], text) for line in lines for text in line["warnings"]]
        assert errors == [(problem.line, problem.message) for problem in report.errors if problem.line]
        assert warnings == [(p.line, p.message) for p in report.warnings if p.line and p.kind != "blank_line"]
        personal = lines[-1]["messages"][2]
        assert [personal["text"][each["start"] : each["end"]] for each in personal["personal"]] == ["+7 912 345-67-89"]

    @pytest.mark.slow
    def test_a_hundred_thousand_rows(self, tmp_path):
        path = tmp_path / "many.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(row(f"Вопрос {n}, и довольно длинный", "Ответ. " * 60) + "\n" for n in range(100_000))
        began = time.process_time()
        index = index_of(path)
        indexed = time.process_time()
        found = search(path, "вопрос 99999,")
        searched = time.process_time()
        lines = read_lines(path, range(99_990, 100_000))
        paged = time.process_time()
        assert (len(index.starts), found, lines[-1].number) == (100_000, [99_999], 100_000)
        assert paged - searched < 0.1
        assert indexed - began < 1, indexed - began
        assert searched - indexed < 3, searched - indexed


class TestDecisions:
    def test_kept_dropped_and_edited(self, rows):
        before = rows.read_bytes()
        decide(rows, 2, "n", None)
        decide(rows, 3, "edit", " Иначе. ")
        decide(rows, 6, "n", None)  # the one that is no JSON: dropping it mends the file
        decide(rows, 7, "n", None)
        decide(rows, 7, None, None)  # taken back
        decide(rows, 1, "y", None)
        told = write_kept(rows, "kept.jsonl")
        assert (told["rows"], told["dropped"], told["edited"]) == (9, 2, 1)
        assert rows.read_bytes() == before
        kept = rows.with_name("kept.jsonl").read_bytes().splitlines()
        old = before.split(b"\n")
        assert [line for line in old if line.strip() and line not in (old[1], old[2], old[5])] == [
            line for line in kept if "Иначе." not in line.decode()
        ]
        edited = next(json.loads(line) for line in kept if "Иначе." in line.decode())
        assert edited == {
            "messages": [{"role": "user", "content": "Вопрос 2?"}, {"role": "assistant", "content": "Иначе."}]
        }
        assert check_file(rows.with_name("kept.jsonl")).error_count == 1  # fewer than ten rows

    def test_nothing_is_overwritten(self, rows):
        rows.with_name("kept.jsonl").write_text("mine")
        with pytest.raises(GovorError, match="there already"):
            write_kept(rows, "kept.jsonl")
        with pytest.raises(GovorError, match="there already"):
            write_kept(rows, rows.name)
        assert rows.with_name("kept.jsonl").read_text() == "mine"

    @pytest.mark.parametrize("name", ["../x.jsonl", "/tmp/x.jsonl", "x", ".x.jsonl", "x.review.jsonl", "a/b.jsonl", ""])
    def test_a_new_file_lies_beside_the_old_one(self, rows, name):
        with pytest.raises(GovorError, match="expected a file's name"):
            write_kept(rows, name)

    def test_they_are_those_of_govor_review(self, rows):
        decide(rows, 2, "n", None)
        with rows.with_name("rows.review.jsonl").open("a+") as log:
            log.write('{"row": "half')  # a kill in the middle of a line
        decide(rows, 1, "y", None)
        with rows.with_name("rows.review.jsonl").open("a+") as log:
            assert sorted(entry["said"] for entry in read_decisions(log).values()) == ["n", "y"]
        assert sorted(entry["said"] for entry in decisions_of(rows).values()) == ["n", "y"]

    @pytest.mark.parametrize(
        ("line", "said", "text"), [(4, "n", None), (99, "y", None), (6, "edit", "x"), (1, "edit", " ")]
    )
    def test_what_cannot_be_decided(self, rows, line, said, text):
        with pytest.raises(DataError):
            decide(rows, line, said, text)
        assert decisions_of(rows) == {}

    def test_near_duplicates(self, rows):
        with rows.open("a") as file:
            for _ in range(2):
                file.write("\n" + row("Расскажи мне о море и о ветре", "Море шумит, и ветер поёт о своём."))
        assert [13, 14] in alike_groups(rows)


class TestFiles:
    def test_links_never_lead_out(self, tmp_path, rows):
        (tmp_path / "secret.jsonl").write_text("{}")
        (rows.parent / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
        rows.with_name("rows.review.jsonl").write_text("")
        rows.with_name("rows.provenance.jsonl").write_text("")
        assert find_files([tmp_path]) == {"rows.jsonl": rows, "secret.jsonl": tmp_path / "secret.jsonl"}


@pytest.mark.slow
def test_as_the_model_sees_them(write_config, rows_file, working_folder):
    """Over HTTP, by the same code and with the same counts as `govor inspect`."""
    (working_folder / "data").mkdir()
    (working_folder / "data/rows.jsonl").write_bytes(rows_file.read_bytes())
    write_config()
    longest = len(json.loads(govor("inspect", "x.yaml", "--row", "2", "--json").output)["rows"][0]["input_ids"]) - 5
    write_config(training={"max_length": longest}, data={"too_long": "drop"})
    inspected = json.loads(govor("inspect", "x.yaml", "--row", "2", "--json").output)["rows"][0]
    with StudioServer(working_folder) as server:
        assert "x.yaml" in server.get("/studio/rows")["configs"]
        told = server.get("/studio/rows/rows.jsonl/seen?config=x.yaml&lines=2")["lines"][0]
        part = told["parts"][0]
        assert part["tokens"] == len(inspected["input_ids"])
        assert part["trained"] == sum(label != -100 for label in inspected["labels"])
        assert part["cut"] == len(inspected["input_ids"]) - longest == 5 and part["stretches"][-1][0] == "cut"
        trained = "".join(text for kind, text in part["stretches"] if kind == "trained")
        assert trained and "".join(text for _, text in part["stretches"]) == "".join(inspected["tokens"])
        assert server.ask("GET", "/studio/rows/rows.jsonl/seen?config=../x.yaml&lines=2").status_code == 404
        assert server.ask("GET", "/studio/rows/..%2fx.yaml").status_code == 404
        posted = server.ask("POST", "/studio/rows/rows.jsonl/decide", json={"line": 2, "said": "n"})
        assert posted.json() == {"said": "n"}
        assert server.get("/studio/rows/rows.jsonl?start=1&count=1")["lines"][0]["decision"]["said"] == "n"
        assert server.ask("POST", "/studio/rows/rows.jsonl/write", json={"name": "../k.jsonl"}).status_code == 400
        viewers = psutil.Process(server.process.pid).children(recursive=True)
        assert viewers
        server.kill()
        assert psutil.wait_procs(viewers, timeout=30)[1] == [], "the process that shows rows ends with the server"


def test_the_shipped_rows():
    rows = REPOSITORY / "data/natasha.jsonl"
    assert len(index_of(rows).starts) == check_file(rows).examples
    assert not os.path.lexists(rows.with_name("natasha.review.jsonl"))
