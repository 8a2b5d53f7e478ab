"""Rows that were encoded before are read back, and only those."""

import json

import pytest

import train.encoding.rows
from train.chats.readers import read_rows
from train.chats.rows import Row, row_from_openai
from train.core.config import load_config
from train.core.errors import DataError
from train.core.runs import TOKEN_CACHE
from train.encoding.loss_mask import encode_row
from train.encoding.rows import encoder, kept_encoder
from train.models.load import load_tokenizer

LONG = {"messages": [{"role": role, "content": "слово " * 40} for role in ("user", "assistant") * 4]}


@pytest.fixture
def encoded(base, rows_file, write_config, monkeypatch):
    """Call it with changes of the config and rows: (what comes out, rows that were encoded anew)."""

    def run(name="x", rows=None, **sections):
        config = load_config(write_config(name=name, **sections))
        calls = []
        counted = lambda *more, **named: calls.append(1) or encode_row(*more, **named)  # noqa: E731
        monkeypatch.setattr(train.encoding.rows, "encode_row", counted)
        found = rows or read_rows(rows_file)
        made = kept_encoder(config, load_tokenizer(base), base)(found)
        kept = len(calls)
        assert made == encoder(config, load_tokenizer(base), base)(found)
        return made, kept

    return run


def test_the_same_rows_are_encoded_once(encoded):
    first, anew = encoded()
    again, none = encoded(name="another", training={"learning_rate": 1.0})
    assert anew == len(first.rows) > 0 == none
    assert again == first


@pytest.mark.parametrize("too_long", ["drop", "truncate", "split"])
def test_rows_that_are_cut_come_back_as_cut(too_long, encoded, rows_file):
    with rows_file.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file][:3]
    rows = [row_from_openai(number, record) for number, record in enumerate([*lines, LONG], 1)]
    sections = {"data": {"too_long": too_long}, "training": {"max_length": 400}}
    first, anew = encoded(rows=rows, **sections)
    assert (first.report.dropped or first.report.truncated or first.report.split) and anew
    assert encoded(rows=rows, **sections) == (first, 0)


@pytest.mark.parametrize(
    "change", [{"training": {"assistant_only_loss": False}}, {"training": {"max_length": 500}}, "rows", "base", "code"]
)
def test_whatever_decides_the_ids_is_in_the_fingerprint(change, encoded, rows_file, base, monkeypatch, tmp_path):
    encoded()
    if change == "rows":
        rows = read_rows(rows_file)
        rows[0] = rows[0]._replace(messages=[{"role": "user", "content": "А?"}, *rows[0].messages[1:]])
        assert encoded(rows=rows)[1] == len(rows)
    elif change == "base":
        file = base / "tokenizer_config.json"
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        try:
            assert encoded()[1]
        finally:
            file.write_bytes(before)
    elif change == "code":
        monkeypatch.setattr(train.encoding.cache, "CODE", (*train.encoding.cache.CODE, "preview.py"))
        assert encoded()[1]
    else:
        assert encoded(**change)[1]


def test_a_damaged_file_is_made_anew(encoded):
    first, _ = encoded()
    (file,) = TOKEN_CACHE.glob("*.npz")
    for damage in (b"", b"PK\x03\x04", file.read_bytes()[:-40]):
        file.write_bytes(damage)
        again, anew = encoded()
        assert again == first and anew
    assert encoded()[1] == 0


def test_nothing_is_kept_of_rows_that_are_refused(encoded):
    untrained = Row(7, [{"role": "user", "content": "А?"}, {"role": "assistant", "content": "Б.", "weight": 0}])
    with pytest.raises(DataError, match="line 7"):
        encoded(rows=[untrained])
    assert not list(TOKEN_CACHE.glob("*.npz"))


def test_the_folder_stays_small(encoded, monkeypatch):
    monkeypatch.setattr(train.encoding.cache, "NEWEST", 2)
    for length in (500, 501, 502):
        encoded(training={"max_length": length})
    assert len(list(TOKEN_CACHE.iterdir())) == 2
    assert encoded(training={"max_length": 502})[1] == 0


def test_a_template_with_the_date_is_not_kept(encoded, base, monkeypatch):
    dated = lambda *more, **named: encode_row(*more, **named)._replace(dated=True)  # noqa: E731
    config_rows, _ = encoded()
    TOKEN_CACHE.joinpath(next(TOKEN_CACHE.glob("*.npz")).name).unlink()
    from train.encoding.cache import remembered

    with remembered(lambda row: dated(load_tokenizer(base), row), "key", assistant_only_loss=True) as encode:
        encode(config_rows.rows[0])
    assert not list(TOKEN_CACHE.glob("*.npz"))
