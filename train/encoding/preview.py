"""Rows as the model sees them: tokens, which of them are trained, what the chat template added."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from train.chats.pairs import read_pairs
from train.chats.readers import read_rows
from train.chats.rows import Row, text_of
from train.core.config import Config
from train.core.errors import DataError, GovorError
from train.encoding.chosen_template import load_base_tokenizer
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.encoding.rows import Encoding, encoder
from train.models.base import find_base
from train.models.load import quiet_libraries

CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
"""Control characters drawn as symbols: a row must not steer the terminal."""


class Shown(NamedTuple):
    """One row after the chat template and the tokenizer."""

    row: int
    """Physical line in the file, from 1."""
    input_ids: list[int]
    labels: list[int]
    """Equal to input_ids where trained, -100 elsewhere; same length."""
    tokens: list[str]
    """The text of each token; joined they are the whole.

    A character that spans tokens stands in its last, the others are empty.
    """
    trained: int
    """Tokens the loss counts."""
    last_turn_only: bool
    """The template rewrites earlier turns, so only the last one is trained."""
    truncated: int
    """Tokens beyond training.max_length of a row that training refuses or leaves out."""
    fate: str
    """What training does with a row that is longer than max_length, if it does not refuse it."""
    added: int
    """Tokens that hold nothing of any message's text: the template's own, tools and calls among them."""


def inspect(config: Config, row: int | None, *, as_json: bool) -> None:
    """Print the row at that line of the training file; without `row` the first three, as JSON all of them."""
    rows = preview(config, row, None if as_json else 3)
    console = Console()
    if as_json:
        print(json.dumps(rows_to_json(rows), ensure_ascii=False))
        return
    for shown in rows:
        if console.is_terminal:
            console.print(to_terminal(shown), end="\n\n")
        else:
            print(to_plain(shown), end="\n\n")


def preview(config: Config, row: int | None, limit: int | None) -> list[Shown]:
    """The row at that line of the training file, or the first `limit` rows (None: all). Loads no weights."""
    file = config.data.train_file
    rows = [row for pair in read_pairs(file) for row in pair] if config.dpo else read_rows(file)
    if row is None:
        chosen = rows[:limit]
    else:
        chosen = [r for r in rows if r.line == row]
        if not chosen:
            last = f", the last at line {rows[-1].line}" if rows[-1].line != len(rows) else ""
            raise GovorError(f"{file} has no row at line {row}: it has {len(rows)} rows{last}")
    see = viewer(config)
    return [shown for r in chosen for shown in see(r)]


def viewer(config: Config) -> Callable[[Row], Iterator[Shown]]:
    """What shows a row as the config's base would be trained on it; the row may become several. Loads no weights."""
    quiet_libraries()
    base = find_base(config.model)
    tokenizer = load_base_tokenizer(config.model, base)
    encode = encoder(config, tokenizer, base)
    return lambda row: _parts(tokenizer, row, encode, config)


def to_terminal(shown: Shown) -> Text:
    """The row in colours under a line of counts."""
    legend = [("trained", "green"), ("  context", "dim"), ("  beyond max_length", "red strike")]
    text = Text.assemble((_counts(shown), "bold"), "\n", *legend[: 3 if shown.truncated else 2], "\n\n")
    for trained, cut, piece in stretches(shown):
        text.append(piece, "red strike" if cut else "green" if trained else "dim")
    return text


def to_plain(shown: Shown) -> str:
    """The row under its counts; ⟦…⟧ encloses what is trained, ✂ stands where max_length ends."""
    parts, cut_before = [], False
    for trained, cut, piece in stretches(shown):
        if cut and not cut_before:
            parts.append("✂")
        cut_before = cut
        parts.append(f"⟦{piece}⟧" if trained else piece)
    legend = "⟦trained⟧ context" + (" ✂ beyond max_length" if shown.truncated else "")
    return f"{_counts(shown)}\n{legend}\n\n{''.join(parts)}"


def rows_to_json(rows: Sequence[Shown]) -> dict[str, Any]:
    """The rows for programs: line, ids, labels and texts of the tokens."""
    keys = ("row", "input_ids", "labels", "tokens")
    return {"rows": [{key: getattr(shown, key) for key in keys} for shown in rows]}


def _parts(tokenizer: Any, row: Row, encode: Callable[..., Encoding], config: Config) -> Iterator[Shown]:
    """The row as training takes it: whole, cut, or several."""
    limit, too_long = config.training.max_length, config.data.too_long
    whole = encode([row], max_length=sys.maxsize)
    for part, encoded in zip(whole.rows, whole.encoded, strict=True):
        length = len(encoded.input_ids)
        beyond = max(0, length - limit)
        if not beyond:
            yield _show(tokenizer, part, encoded)
            continue
        try:
            kept = encode([part], max_length=limit, too_long=too_long)
        except DataError:
            fate = "" if too_long == "error" else "training leaves the row out"
            yield _show(tokenizer, part, encoded, beyond, fate)
            continue
        fate = f"{len(kept.rows)} such made" if too_long == "split" else "cut"
        if kept.report.dropped:
            fate += f" and {len(kept.report.dropped)} answers left out"
        for shorter, fitting in zip(kept.rows, kept.encoded, strict=True):
            yield _show(tokenizer, shorter, fitting, fate=f"{fate} of a row of {length} tokens")


def _show(tokenizer: Any, row: Row, encoded: Encoded, truncated: int = 0, fate: str = "") -> Shown:
    tokens = list(_pieces(tokenizer, encoded.input_ids))
    return Shown(
        row=row.line,
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        tokens=tokens,
        trained=sum(label != IGNORE_INDEX for label in encoded.labels),
        last_turn_only=encoded.last_turn_only,
        truncated=truncated,
        fate=fate,
        added=_added(tokens, [text_of(message) for message in row.messages]),
    )


def _pieces(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """The text that each token adds, decoded after the tokens before it; empty within a character."""
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    start = end = 0  # ids[start:end]: the last tokens that gave whole characters, kept for the decoder's spacing
    before = ""
    for index in range(len(ids)):
        text = decode(ids[start : index + 1])
        if text.endswith("\ufffd"):  # the character is not whole yet
            yield ""
            continue
        yield text[len(before) :]
        start, end = end, index + 1
        before = decode(ids[start:end])


def _added(tokens: Sequence[str], contents: Sequence[str]) -> int:
    """Tokens that overlap none of the contents, which stand in the joined tokens in this order.

    Templates trim contents and drop thinking from their beginning, so the longest end that is there counts.
    """
    text = "".join(tokens)
    covered = bytearray(len(text) + 1)  # a character each: 1 where it is a message's
    at = 0
    for content in contents:
        lines = content.splitlines(keepends=True)
        for first in range(len(lines)):
            part = "".join(lines[first:]).strip()
            found = text.find(part, at)
            if found >= 0:
                at = found + len(part)
                covered[found:at] = b"\1" * len(part)
                break
    count = start = 0
    for token in tokens:
        end = start + len(token)
        count += not any(covered[start : max(end, start + 1)])
        start = end
    return count


def stretches(shown: Shown) -> Iterator[tuple[bool, bool, str]]:
    """(trained, beyond max_length, text) of neighbouring tokens alike in both."""
    kept = len(shown.tokens) - shown.truncated
    marked = zip(shown.labels, range(len(shown.tokens)), shown.tokens, strict=True)
    kinds = ((label != IGNORE_INDEX, index >= kept, token) for label, index, token in marked)
    for (trained, cut), group in groupby(kinds, key=lambda kind: kind[:2]):
        yield trained, cut, "".join(token for *_, token in group).translate(CONTROLS)


def _counts(shown: Shown) -> str:
    parts = [
        f"row {shown.row}: {len(shown.input_ids)} tokens",
        f"{shown.trained} trained",
        f"{shown.added} added by the chat template",
    ]
    if shown.last_turn_only:
        parts.append("the template rewrites earlier turns, so only the last one is trained")
    if shown.truncated:
        parts.append(f"{shown.truncated} beyond training.max_length: {shown.fate or 'training refuses the row'}")
    elif shown.fate:
        parts.append(shown.fate)
    return ", ".join(parts)
