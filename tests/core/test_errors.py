"""What reaches a user is one true line."""

import errno
import sqlite3

import pytest
from safetensors import SafetensorError

from train.core.errors import one_line_errors

FULL = "no room left on disk while writing"


def line_of(capsys, fail) -> str:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        fail()
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def raising(error: Exception):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "runs/x/metrics.jsonl"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0: PytorchStreamWriter failed"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk(error, capsys):
    assert line_of(capsys, raising(error)).startswith(f"error: {FULL}")


def test_a_full_disk_as_torch_says_it(capsys):
    import torch

    assert line_of(capsys, lambda: torch.save(torch.ones(200_000), "/dev/full")).startswith(f"error: {FULL}")


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.60 GiB …"),
            "tried to allocate 2.00 GiB",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"), "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "CUBLAS_STATUS"),
    ],
)
def test_a_full_card(error, what, capsys):
    """In eval and chat, say; training and merge say more."""
    line = line_of(capsys, raising(error))
    assert line.startswith("error: the GPU has no memory left for this (") and what in line
    assert "unexpected" not in line


def test_another_mistake_is_named_as_ours(capsys):
    assert "(unexpected: GOVOR_TRACEBACK=1" in line_of(capsys, raising(ValueError("so\nand so")))
