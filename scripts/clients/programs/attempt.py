"""What the Python programs share: what they are told, and how they report each operation.

An operation is a function without arguments that returns what the model said, or anything JSON can hold that shows that
it worked. Its name is the column of the table; only the standard library is imported, since each client has an
environment of its own.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

URL = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
MODEL = os.environ["GOVOR_MODEL"]
OTHER_MODEL = os.environ["GOVOR_OTHER_MODEL"]
BASE = os.environ.get("GOVOR_BASE")
"""The name of a base that jobs may tune; None where the server takes no jobs."""
ROWS = os.environ["GOVOR_ROWS"]
"""A file of training rows."""
QUESTION = os.environ["GOVOR_QUESTION"]


def attempt(*operations: Callable[[], Any]) -> None:
    """Try each operation to its end, and print a line of JSON for it."""
    for operation in operations:
        report: dict[str, Any] = {"operation": operation.__name__.removesuffix("_")}
        try:
            report["said"] = operation()
        except Exception as error:
            report["error"] = f"{type(error).__name__}: {_whole(error)}"
        print("@@" + json.dumps(report, ensure_ascii=False, default=str), file=sys.stdout, flush=True)


def _whole(error: BaseException) -> str:
    """The error's text with those of the errors that it came from."""
    texts = []
    while error is not None and len(texts) < 5:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ← ".join(dict.fromkeys(texts))
