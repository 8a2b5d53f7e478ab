"""What the two READMEs say is so: commands, defaults, layout."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from train.cli import main
from train.core.config import Lora, Training, load_config

ENGLISH, RUSSIAN = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "README.ru.md"))


def blocks(text: str, kind: str = "sh") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language == kind]


def commands() -> list[str]:
    return [line for block in blocks(ENGLISH) for line in block.splitlines()]


def test_the_same_commands_in_both_languages():
    for kind in ("sh", "json"):
        assert blocks(ENGLISH, kind) == blocks(RUSSIAN, kind)
    names = [re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for text in (ENGLISH, RUSSIAN)]
    assert names[0] == names[1]


def test_the_first_result_stands_within_30_lines():
    lines = ENGLISH.splitlines()
    assert any("held-out loss:" in line for line in lines[:30])
    assert any(line.startswith("![") for line in lines[:30])


def test_every_verb_of_the_command_line_is_there_and_no_other():
    verbs = set(re.findall(r"^\| `govor (\w+)", ENGLISH, re.MULTILINE))
    assert verbs == set(main.commands)


@pytest.mark.parametrize("command", commands())
def test_commands_name_what_exists(command):
    words = shlex.split(command)
    for word in words:
        if re.match(r"(configs|data|train|scripts)/", word):
            assert (REPOSITORY / word).exists()
    if words[0] == "govor":
        assert words[1] in main.commands
    if words[:2] == ["govor", "train"]:
        load_config(REPOSITORY / words[2], [word for word in words[3:] if "=" in word])
    if words[0] == "make":
        subprocess.run(["make", "-n", words[1]], cwd=REPOSITORY, check=True, capture_output=True)


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
    del ours["training.fit"], ours["training.kernels"]  # no library has them
    differ = {name: (plain(ours[name]), plain(library[name])) for name in ours}
    differ = {name: values for name, values in differ.items() if values[0] != values[1]}
    table = re.findall(r"^\| `((?:lora|training)\.\w+)` \| (\S+) \| (\S+) \|", ENGLISH, re.MULTILINE)
    assert {name: (plain(mine), plain(theirs)) for name, mine, theirs in table} == differ


def test_layout_names_every_file():
    layout = blocks(ENGLISH, "")[-1]
    named = set(re.findall(r"^  (\w+(?:\.py|/))", layout, re.MULTILINE))
    there = {path.name + "/" * path.is_dir() for path in (REPOSITORY / "train").iterdir()}
    assert named == there - {"__init__.py", "__pycache__/"}
    for folder in ("train/chats", "scripts", "configs/accelerate"):
        assert (REPOSITORY / folder).is_dir()


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
