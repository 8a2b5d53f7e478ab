"""What the READMEs say is so: commands, messages, defaults, layout, links, the picture; in both languages."""

import ast
import dataclasses
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import draw_way
import pytest

from tests.conftest import REPOSITORY
from train.chats.checks import validate
from train.cli import main
from train.core.config import Lora, Training, load_config
from train.jobs.job_errors import MIN_EXAMPLES, file_problem

FOLDERS = "configs", "data", "scripts", "tests", "train"
FOUND = [
    *REPOSITORY.glob("README*.md"),
    *(path for name in FOLDERS for path in (REPOSITORY / name).rglob("README*.md")),
]
READMES = [path for path in FOUND if "made_by_" not in str(path.relative_to(REPOSITORY))]
"""All but those of folders that an earlier version made, which are test data."""
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in sorted(READMES)}
GUIDE = TEXTS["train/README.md"]
PAIRS = [(name, name.replace(".md", ".ru.md")) for name in ("README.md", "train/README.md", "train/bot/README.md")]
NOT_RUSSIAN = {
    r"уход": "расхождение",
    r"учим(?:ы|ый|ая|ое|ого)\b": "обучаемые",
    r"подсказ": "промпты",
    r"личн\w+ данн": "персональные данные",
    r"чек-?по[йи]нт": "контрольные точки",
    r"пачк": "батч",
}
"""What a text in Russian does not say, and what it says instead."""


def blocks(text: str, kind: str = "sh") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language == kind]


def first_cells(text: str) -> list[str]:
    """The code that begins a row of a table: commands, configs, options with their values."""
    rows = re.findall(r"^\| (`.*?`) \|(.*)", text, re.MULTILINE)
    return [f"{name} {' '.join(more.split('|')[:2])}" if name[1:5] in ("trai", "lora") else name for name, more in rows]


@pytest.mark.parametrize(("english", "russian"), PAIRS)
class TestBothLanguages:
    @pytest.mark.parametrize("kind", ["sh", "json", "python", "text", ""])
    def test_the_same_blocks(self, english, russian, kind):
        assert blocks(TEXTS[english], kind) == blocks(TEXTS[russian], kind)

    def test_the_same_tables(self, english, russian):
        assert first_cells(TEXTS[english]) == first_cells(TEXTS[russian])

    def test_the_same_sections(self, english, russian):
        for level in ("##", "###"):
            numbers = [len(re.findall(rf"^{level} ", TEXTS[name], re.MULTILINE)) for name in (english, russian)]
            assert numbers[0] == numbers[1]

    @pytest.mark.parametrize("word", NOT_RUSSIAN)
    def test_words(self, english, russian, word):
        found = re.search(word, TEXTS[russian], re.IGNORECASE)
        assert found is None, f"{found[0]}: say {NOT_RUSSIAN[word]}"


@pytest.mark.parametrize("name", PAIRS[0])
def test_the_front_page_is_short_and_begins_with_a_result(name):
    lines = TEXTS[name].splitlines()
    assert len(lines) <= 170
    assert any("held-out loss:" in line for line in lines[:30])
    assert any(line.startswith("![") for line in lines[:30])


@pytest.mark.parametrize("name", PAIRS[1])
def test_pictures_of_the_studio_are_small(name):
    named = re.findall(r"!\[.+?\]\(\.\./(data/studio-\w+\.\w+\.png)\)", TEXTS[name])
    assert len(named) == 2 and all((REPOSITORY / path).stat().st_size <= 100_000 for path in named)


def test_the_picture_is_what_the_script_draws(tmp_path):
    drawn = tmp_path / "way.svg"
    subprocess.run([sys.executable, draw_way.__file__, drawn], check=True, capture_output=True)
    assert drawn.read_bytes() == (REPOSITORY / "data/way.svg").read_bytes()
    verbs = {verb for card in draw_way.CARDS for line in card.verbs for verb in line.split(" · ")}
    assert verbs == set(main.commands) - {"jobs"}  # it has a line of its own


def test_every_verb_of_the_command_line_is_there_and_no_other():
    verbs = set(re.findall(r"^\| `govor (\w+)", GUIDE, re.MULTILINE))
    assert verbs == set(main.commands)


# Commands


def commands() -> list[str]:
    return sorted({line for text in TEXTS.values() for block in blocks(text) for line in block.splitlines()})


@pytest.mark.parametrize("command", commands())
def test_commands_name_what_exists(command):
    words = shlex.split(command, comments=True)
    for word in words:
        if re.match(r"(configs|data|train|scripts|tests)/", word):
            assert (REPOSITORY / word).exists()
    if words[0] == "govor":
        verb = main.commands[words[1]]
        verb = verb.commands[words[2]] if isinstance(verb, click.Group) else verb
        known = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
        ours = words[: words.index("--")] if "--" in words else words
        assert {word for word in ours if word.startswith("-")} <= known
    if words[:2] == ["govor", "train"]:
        load_config(REPOSITORY / words[2], [word for word in words[3:] if "=" in word])
    if words[0] == "python":
        script = REPOSITORY / words[1]
        source = "".join(path.read_text() for path in ([script] if script.is_file() else sorted(script.glob("*.py"))))
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    if words[0] == "make":
        assert words[1] in targets()


@cache
def targets() -> set[str]:
    """What the Makefile makes."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[1].split())


@pytest.mark.parametrize("name", TEXTS)
def test_commands_within_the_text_exist(name):
    prose = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if found := re.match(r"govor (\w+)", code):
            assert found[1] in main.commands, code
        elif found := re.match(r"make ([\w-]+)", code):
            assert found[1] in targets(), code
        elif found := re.match(r"python (scripts/\S+)", code):
            assert (REPOSITORY / found[1]).exists(), code


# Messages


def test_messages_of_troubleshooting_are_those_of_the_code():
    """Line by line; … and numbers stand for what differs from case to case."""
    for line in "".join(blocks(GUIDE, "text")).splitlines():
        if not line.startswith("The job failed due to"):  # the next test makes that one
            for part in re.split(r"…| and |\d+|http://", line):
                assert len(part.strip(" :")) < 4 or any(part.strip(" :") in constant for constant in literals()), line


@cache
def literals() -> frozenset[str]:
    """Every string in the code, implicit concatenation carried out, f-strings in parts."""
    files = [path for name in ("train", "scripts/finetuning") for path in (REPOSITORY / name).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_the_message_of_a_file_that_failed(tmp_path, capsys):
    rows = tmp_path / "jobs/job/train.jsonl"
    rows.parent.mkdir(parents=True)
    turns = [{"role": "user", "content": "Привет"}, {"role": "asistant", "content": "Привет"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    assert not validate((rows,), as_json=True)
    message = file_problem(json.loads(capsys.readouterr().out), "training", rows.parent).message
    shown = next(line for line in "".join(blocks(GUIDE, "text")).splitlines() if line.startswith("The job failed"))
    assert message.startswith(shown.removesuffix("…"))
    assert f"at least {MIN_EXAMPLES} examples" in GUIDE


# Links


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert target.exists(), link
        assert not anchor or anchor in headings(target.read_text(encoding="utf-8")), link


def test_every_readme_is_linked_from_the_front_page():
    linked = set(re.findall(r"\]\(([^)\s#]+)", TEXTS["README.md"]))
    assert set(TEXTS) - {"README.md"} <= linked


# Defaults and layout


@pytest.mark.slow
def test_defaults_that_differ():
    """The table says ours and the library's; and it has every default of ours that differs."""
    from peft import LoraConfig
    from trl import SFTConfig

    def plain(value: object) -> object:
        text = str(value).lower()
        try:
            return float(text)
        except ValueError:
            return "false" if text == "none" else text

    library = {f"training.{field.name}": field.default for field in dataclasses.fields(SFTConfig)}
    library["training.activation_checkpointing"] = library["training.gradient_checkpointing"]
    library |= {f"lora.{field.name}": field.default for field in dataclasses.fields(LoraConfig)}
    ours = {f"training.{name}": field.default for name, field in Training.model_fields.items()}
    ours |= {f"lora.{name}": field.default for name, field in Lora.model_fields.items()}
    del ours["training.fit"], ours["training.kernels"], ours["lora.start_from"]  # no library has them
    differ = {name: (plain(ours[name]), plain(library[name])) for name in ours}
    differ = {name: values for name, values in differ.items() if values[0] != values[1]}
    table = re.findall(r"^\| `((?:lora|training)\.\w+)` \| (\S+) \| (\S+) \|", GUIDE, re.MULTILINE)
    assert {name: (plain(mine), plain(theirs)) for name, mine, theirs in table} == differ


def test_layout_names_every_file():
    layout = next(block for block in blocks(GUIDE, "") if block.startswith("train/\n"))
    named = set(re.findall(r"^  ([\w.]+(?:\.py|\.md|/)) ", layout, re.MULTILINE))
    there = {path.name + "/" * path.is_dir() for path in (REPOSITORY / "train").iterdir()}
    assert named == there - {"__init__.py", "__pycache__/"}
    for folder in re.findall(r"^(\w+)/", layout, re.MULTILINE):
        assert (REPOSITORY / folder).is_dir()


@pytest.mark.long
def test_the_demo_goes_the_whole_way(tmp_path):
    """The commands of `make demo`, one after another, with few steps."""
    for name in ("configs", "data", "scripts", "train"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/notes.txt").write_text("mine", encoding="utf-8")
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "-f", REPOSITORY / "Makefile", "-o", ".venv/installed", "demo",
         f"BIN={Path(sys.executable).parent}"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(recipe) == 4
    printed = ""
    for line in recipe:
        short = "configs/tiny.yaml training.max_steps=4 generation.max_new_tokens=8"
        command = line.replace("configs/tiny.yaml", short)
        result = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        printed += result.stdout
    assert "✅ Validation passed: 321 training examples" in printed
    before, after = map(float, re.search(r"held-out loss: ([\d.]+) before, ([\d.]+) after", printed).groups())
    assert after < before
    assert printed.count("  tuned: ") == 2
    assert (tmp_path / "runs/tiny-2/report.html").is_file()
    assert (tmp_path / "runs/tiny-2/merged/model.safetensors").is_file()
    assert (tmp_path / "runs/tiny-2/samples.md").read_text(encoding="utf-8").count("**Tuned**") == 5
    assert [path.name for path in (tmp_path / "runs/tiny").iterdir()] == ["notes.txt"]
