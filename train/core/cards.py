"""The CUDA cards that a process started now would see, asked of torch in a process of its own.

So the server that asks neither loads torch nor keeps a CUDA context, which takes some hundred MiB of a card.
"""

import subprocess
import sys
from functools import cache
from typing import NamedTuple


class CardMemory(NamedTuple):
    """Memory of a card, in bytes, as a process that has just begun to use it sees it."""

    free: int
    total: int


def card_count() -> int:
    """How many cards torch sees: those of CUDA_VISIBLE_DEVICES that exist, or all of them where it is not set."""
    answer = _ask_torch("torch.cuda.device_count()")
    return answer[0] if answer else 0


@cache
def has_accelerator(*, cuda: bool) -> bool:
    """Whether torch can train on something other than the CPU; `cuda`: on a CUDA card, which NF4 needs."""
    return bool((_ask_torch(f"torch.{'cuda' if cuda else 'accelerator'}.is_available()") or [0])[0])


def first_card_memory() -> CardMemory | None:
    """The memory of the first card that torch sees; None where it sees none."""
    answer = _ask_torch("*torch.cuda.mem_get_info()")
    return CardMemory(*answer) if answer else None


def _ask_torch(expression: str) -> list[int] | None:
    """The integers that an expression about torch gives; None where it fails, as it may without a card."""
    command = [sys.executable, "-P", "-c", f"import torch; print(*map(int, [{expression}]))"]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return [int(word) for word in asked.stdout.split()] if asked.returncode == 0 else None
