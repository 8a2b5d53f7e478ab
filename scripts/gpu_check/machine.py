"""The machine that is measured, and how long something takes on it."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 2**30
BASES_BYTES = 45e9
"""What two bases of random weights and all that is made of them take on a disk."""


def has_cuda() -> bool:
    """Whether a card is there and may be used; a rehearsal hides it, and need not load torch to know."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    import torch

    return bool(torch.cuda.is_available())


def device() -> str:
    return "cuda" if has_cuda() else "cpu"


def card_bytes() -> int:
    """Memory of the card."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def sixteen_bits() -> Any:
    """The 16-bit type that the card computes in by itself: a torch.dtype."""
    import torch

    emulated = has_cuda() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def median_seconds(call: Callable[[], Any], *, repeat: int = 10, warm: int = 3) -> float:
    """Median duration of `repeat` calls, after `warm` calls that do not count."""
    import torch

    def now() -> float:
        if has_cuda():
            torch.cuda.synchronize()
        return time.perf_counter()

    durations = []
    for _ in range(warm + repeat):
        started = now()
        call()
        durations.append(now() - started)
    return statistics.median(durations[warm:])


def end_with_children(pid: int) -> None:
    """Kill a process and all that it has started: torch's launcher gives each of its own a group of its own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def default_work_folder() -> Path:
    """A folder in memory where the bases fit there, else among the temporary files; one for each user."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > BASES_BYTES
    return (memory if in_memory else Path(tempfile.gettempdir())) / f"govor-gpu-check-{os.getuid()}"
