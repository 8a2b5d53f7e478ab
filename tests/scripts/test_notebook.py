"""scripts/govor_t4.ipynb: every cell of code runs, in order and unchanged, on a CPU with the tiny base."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CELLS = json.loads((REPOSITORY / "scripts/govor_t4.ipynb").read_bytes())["cells"]
SHELL = "import subprocess\n\ndef shell(line):\n    subprocess.run(line, shell=True, check=True)\n"


def program() -> str:
    """The cells as one program; a line with ! runs in a shell, {names} replaced, as IPython does it."""
    lines = [line for cell in CELLS if cell["cell_type"] == "code" for line in "".join(cell["source"]).split("\n")]
    return SHELL + "\n".join(re.sub(r"^( *)!(.*)", lambda found: f"{found[1]}shell(f{found[2]!r})", x) for x in lines)


def telegram_export(path: Path) -> None:
    messages = []
    for number in range(24):
        for sender, text in (
            ("Иван", f"Что такое {number * number}?"),
            ("Наташа", f"Это {number}, взятое {number} раз."),
        ):
            id_, minute = len(messages), len(messages) % 2
            messages.append(
                {
                    "id": id_, "type": "message", "date": f"2026-10-{1 + number:02}T12:{minute:02}:00",
                    "from": sender, "from_id": f"user{sender == 'Наташа'}", "text": text,
                }
            )  # fmt: skip
    path.write_text(
        json.dumps({"name": "Иван", "type": "personal_chat", "id": 2, "messages": messages}, ensure_ascii=False),
        encoding="utf-8",
    )


@pytest.mark.long
def test_the_cells_run(working_folder):
    """With an export; without one the rows are the shipped ones, which `make demo` trains on."""
    telegram_export(working_folder / "result.json")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "GOVOR_SOURCE": REPOSITORY.as_uri(),
        "GOVOR_INSTALL": "govor --version",  # it is installed here
        "GOVOR_CONFIG": "configs/tiny.yaml",
        "GOVOR_OPTIONS": "training.max_steps=2 training.eval_strategy=no generation.max_new_tokens=8",
        "GOVOR_EXPORT": "result.json",
        "GOVOR_PERSONA": "Наташа",
    }
    Path("cells.py").write_text(program(), encoding="utf-8")
    result = subprocess.run([sys.executable, "cells.py"], env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    run = working_folder / "govor/runs/t4"
    manifest = json.loads((run / "manifest.json").read_bytes())
    assert (manifest["status"], manifest["steps"]) == ("finished", 2)
    assert (run / "samples.md").exists()
    assert "chats/mine_finetuning_" in (run / "config.yaml").read_text(encoding="utf-8")
    assert 'ROWS = "data/natasha.jsonl"' in program() and (working_folder / "govor/data/natasha.jsonl").exists()
    assert (working_folder / "adapter.zip").stat().st_size > 10_000


def test_it_holds_no_output_and_both_languages():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
    for cell in CELLS:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            assert re.search("[а-я]{3}", text) and re.search("[a-z]{3}", text)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
