"""The held-out rows of a run: read, encoded as in training, and compared with the prompts that a server makes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from train.chats.readers import read_rows
from train.chats.rows import Message, Row, trained_answers, without_weight
from train.core.runs import Run
from train.encoding.loss_mask import Encoded, encode_each


def held_out_rows(run: Run) -> list[Row]:
    """The rows that a run has held out; none where it held out nothing or the file was removed since."""
    if not run.manifest()["data"]["held_out"]["rows"] or not run.held_out_file.exists():
        return []
    return read_rows(run.held_out_file)


def encode_held_out(run: Run, tokenizer: Any, rows: Iterable[Row]) -> Iterator[Encoded]:
    """Each row with the ids and labels that training gave it: the run's date, stop ids and `assistant_only_loss`."""
    answers_only = run.config().training.assistant_only_loss
    stop, today = run.end_of_turn(), run.template_date()
    return encode_each(tokenizer, rows, assistant_only_loss=answers_only, stop=stop, today=today)


def prompt_differences(
    render: Callable[[list[Message], Any], list[int]],
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    decode: Callable[[list[int]], str],
) -> list[tuple[int, str]]:
    """(line, reason) of every row whose last trained answer is not served the prompt that it was trained after.

    `render(messages, tools)` gives the prompt's ids as a server makes them.
    """
    differences = []
    for row, trained_row in zip(rows, encoded, strict=True):
        last = trained_answers(row.messages)[-1]
        messages = [without_weight(message) for message in row.messages[:last]]
        trained, served = trained_row.input_ids[: trained_row.answers[-1][0]], render(messages, row.tools)
        if trained != served:
            pairs = enumerate(zip(trained, served, strict=False))
            at = next((at for at, (a, b) in pairs if a != b), min(len(trained), len(served)))
            texts = [decode(ids[max(0, at - 3) : at + 3]) for ids in (trained, served)]
            differences.append((row.line, f"token {at + 1} is another: trained {texts[0]!r}, served {texts[1]!r}"))
    return differences
