"""The held-out rows of a run, and whether their prompts are served as they were trained."""

from collections.abc import Callable, Sequence
from typing import Any

from train.chats.rows import Message, Row, is_trained
from train.encoding.loss_mask import Encoded


def parity(
    render_ids: Callable[[list[Message], Any], list[int]],
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    decode: Callable[[list[int]], str],
) -> list[tuple[int, str]]:
    """(line, reason) of every row whose last trained answer is not served the prompt that it was trained after.

    `render_ids(messages, tools)`: the prompt's ids as a server makes them.
    """
    differing = []
    for row, one in zip(rows, encoded, strict=True):
        last = max(index for index, message in enumerate(row.messages) if is_trained(message))
        messages = [{k: v for k, v in message.items() if k != "weight"} for message in row.messages[:last]]
        trained, served = one.input_ids[: one.answers[-1][0]], render_ids(messages, row.tools)
        if trained != served:
            pairs = enumerate(zip(trained, served, strict=False))
            at = next((at for at, (a, b) in pairs if a != b), min(len(trained), len(served)))
            one_side, other = (decode(ids[max(0, at - 3) : at + 3]) for ids in (trained, served))
            differing.append((row.line, f"token {at + 1} is another: trained {one_side!r}, served {other!r}"))
    return differing
