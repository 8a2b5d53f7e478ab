"""The CUDA cards that a process started now would see, asked of torch in a process of its own.

So the server that asks neither loads torch nor keeps a CUDA context, which takes some hundred MiB of a card.
"""

import subprocess
import sys


def card_count() -> int:
    """How many cards torch sees: those of CUDA_VISIBLE_DEVICES that exist, or all of them where it is not set."""
    answer = _ask_torch("torch.cuda.device_count()")
    return answer[0] if answer else 0


def _ask_torch(expression: str) -> list[int] | None:
    """The integers that an expression about torch gives; None where it fails, as without a driver."""
    command = [sys.executable, "-P", "-c", f"import torch; print(*[{expression}])"]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return [int(word) for word in asked.stdout.split()] if asked.returncode == 0 else None
