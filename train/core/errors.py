"""The only exceptions that a user sees: one line each, saying what, where and how to mend it.

GovorError        exit 2: wrong use or environment
├── ConfigError   an option is unknown, missing or wrong
├── RunError      the run folder is taken, unfinished or not a run
├── BaseError     the base model is not there or does not fit the job
├── MachineError  no GPU, no room on disk, a library that is missing
├── DivergedError the loss or its gradient is not finite
├── Stopped       exit 130: training was asked to stop and has saved
└── DataError     exit 1: the rows cannot be trained on
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class GovorError(Exception):
    """Whatever a user can mend; the message is complete, nothing else is printed."""

    exit_code = 2


class ConfigError(GovorError):
    """An option is unknown, missing or wrong."""


class RunError(GovorError):
    """The run folder is taken, unfinished or not a run."""


class BaseError(GovorError):
    """The base model is not there or does not fit the job."""


class MachineError(GovorError):
    """No GPU, no room on disk, a library that is missing."""


class DivergedError(GovorError):
    """The loss or its gradient is not finite: what was trained on would be spoiled."""


class Stopped(GovorError):  # noqa: N818 (no error: it was asked for)
    """Training was asked to stop, and has saved what it had."""

    exit_code = 130


class DataError(GovorError):
    """The rows cannot be trained on."""

    exit_code = 1


DISK_FULL = re.compile(
    r"No space left on device|os error 28\b|Disk quota exceeded|disk is full|PytorchStreamWriter failed"
    r"|unexpected pos \d+ vs \d+",
    re.IGNORECASE,
)
"""How libraries say it that do not pass the system's error on: safetensors, SQLite, torch."""

NO_GPU_MEMORY = re.compile(r"(CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
"""How torch and CUDA's libraries say that a card is full."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every error that leaves the block into one line on stderr and an exit code.

    A mistake of ours is named as such; GOVOR_TRACEBACK=1 shows where it happened.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except BrokenPipeError:  # `govor … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except GovorError as error:
        _leave(str(error), error.exit_code)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _leave(f"no room left on disk while writing {error.filename or 'a file'}: free some and run it again", 2)
        _leave(f"{error.filename or 'system'}: {error.strerror or error}", 2)
    except Exception as error:
        if any(DISK_FULL.search(str(one)) for one in (error, error.__cause__, error.__context__) if one):
            _leave("no room left on disk while writing a file: free some and run it again", 2)
        summary = str(error).strip().split("\n", 1)[0]
        if full := NO_GPU_MEMORY.search(str(error)):
            tried = re.search(r"Tried to allocate [\d.]+ \w+", str(error))
            what = tried[0][0].lower() + tried[0][1:] if tried else full[0]
            _leave(
                f"the GPU has no memory left for this ({what}): end what else uses it, as nvidia-smi shows, or take a "
                "smaller base; govor plan CONFIG says what each verb needs",
                2,
            )
        _leave(f"{type(error).__name__}: {summary} (unexpected: GOVOR_TRACEBACK=1 shows where)", 2)


def _leave(message: str, exit_code: int) -> None:
    if os.environ.get("GOVOR_TRACEBACK") == "1":
        traceback.print_exc()
    rank = os.environ.get("RANK", "0")
    print(f"error: {message}" if rank == "0" else f"error (process {rank}): {message}", file=sys.stderr, flush=True)
    raise SystemExit(exit_code)
