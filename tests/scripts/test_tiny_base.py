"""scripts/make_tiny_base.py: small, offline, the same bytes for the same seed."""

import hashlib
from pathlib import Path

from click.testing import CliRunner
from make_tiny_base import main, make_tiny_base

from tests.conftest import REPOSITORY

ROWS = REPOSITORY / "data/natasha.jsonl"


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("[!.]*")}


def test_same_seed_same_bytes_and_size():
    sizes = [make_tiny_base(Path(name), ROWS, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert 2_000_000 <= sizes[0] <= 6_000_000
    assert digests(Path("a")) == digests(Path("b"))
    assert digests(Path("a"))["model.safetensors"] != digests(Path("c"))["model.safetensors"]


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("Ёжик, «привет» — 12,5 %", "hello world", "🙂👩‍👩‍👧 漢字 \t x\n\n y", "да)))"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_does_not_overwrite():
    arguments = ["taken", "--rows", str(ROWS), "--vocab-size", "600", "--layers", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "taken is there already: --force replaces it" in result.output
