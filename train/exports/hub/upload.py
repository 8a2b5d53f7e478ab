"""Files into a repository of the Hub through its own client: one commit, which an interrupted upload takes up again.

Artifact has reached the Hub's storage is not sent twice, neither whole files (LFS) nor chunks of them (Xet): running the
same push again goes on where it broke off. The commit is made over the state that was looked at, or not at all.
"""

import hashlib
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from train.core.compat import HUB_HTTP_LOGGER
from train.core.errors import GovorError
from train.core.files import sha256

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further try of what the client itself does not try again."""
LONGEST_PAUSE = 120.0
AGAIN = "run it again: what has arrived is not sent twice"
TOKENS = "https://huggingface.co/settings/tokens"
ATTRIBUTES = ".gitattributes"  # the Hub's own, in every new repository
T = TypeVar("T")


class HubError(GovorError):
    """The Hub cannot be reached or does not take the files."""


class Remote(NamedTuple):
    """A repository as it is."""

    commit: str
    private: bool
    files: dict[str, tuple[int | None, str]]
    """Name → (size, sha256 of a file in the large storage or git's own hash of a small one)."""

    def holds(self, name: str, content: Path | bytes) -> bool:
        """Whether it has just this content under the name."""
        size, known = self.files.get(name, (None, ""))
        length = len(content) if isinstance(content, bytes) else content.stat().st_size
        if not known or size not in (None, length):
            return False
        if len(known) == 64:
            return known == (hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content))
        data = content if isinstance(content, bytes) else content.read_bytes()
        return known == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def holds_all(self, contents: Mapping[str, Path | bytes]) -> bool:
        return all(self.holds(name, content) for name, content in contents.items())


def connect() -> Any:
    """The client, as somebody who may write; HubError where that cannot be."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set: unset it to push (--dry-run needs no network)")
    token = get_token()
    if token is None:
        raise HubError(f"no Hugging Face token: run `hf auth login`, or set HF_TOKEN to one that may write ({TOKENS})")
    logging.getLogger(HUB_HTTP_LOGGER).addFilter(_without_signature)
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token)
    with one_line():
        me = patiently(api.whoami)
    if (me.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"the token of {me['name']} may only read: make one that may write ({TOKENS})")
    return api


def look(api: Any, repo: str) -> Remote | None:
    """The repository now; None where there is none that this token may see."""
    try:
        info = patiently(lambda: api.model_info(repo, files_metadata=True))
    except Exception as error:
        if _status(error) in (401, 404):
            return None
        raise
    files = {
        file.rfilename: (file.size, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or ()
        if file.rfilename != ATTRIBUTES
    }
    return Remote(info.sha, bool(info.private), files)


def create(api: Any, repo: str, *, private: bool) -> Remote:
    """A new repository."""
    try:
        patiently(lambda: api.create_repo(repo, private=private, repo_type="model"))
    except Exception as error:
        if _status(error) != 409:  # 409: made meanwhile, or by a try whose answer was lost
            raise
    made = look(api, repo)
    if made is None:
        raise HubError(f"{repo} is there already and this token may not see it: choose another name")
    return made


def commit_files(
    api: Any, repo: str, contents: Mapping[str, Path | bytes], parent: str, gone: Sequence[str], message: str
) -> str:
    """Commit the contents over the commit `parent`, and take away the files `gone`; returns the new commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def commit() -> str:
        now = look(api, repo)
        if now and now.commit != parent and now.holds_all(contents):
            return now.commit  # an earlier try, whose answer was lost
        operations = [
            *(CommitOperationAdd(name, content) for name, content in contents.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]
        try:
            made = api.create_commit(repo, operations, commit_message=message, parent_commit=parent, num_threads=2)
        except Exception as error:
            if _status(error) in (409, 412):
                raise HubError(
                    f"{repo} has changed during the upload: look at it and push again (--force writes over it)"
                ) from None
            raise
        return str(made.oid)

    return patiently(commit)


def patiently(call: Callable[[], T]) -> T:
    """The call's result; tried again where the Hub was busy or the connection broke off."""
    for usual in PAUSES:
        try:
            return call()
        except Exception as error:
            pause = _pause(error, usual)
            if pause is None:
                raise
            print(f"{_said(error)}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    return call()


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what the client raises into a HubError of one line that says what to do."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in (one for one in caught if one.category is UserWarning):  # of the card's metadata
            print(f"the Hub: {_flat(str(warning.message))}", file=sys.stderr, flush=True)
    except (GovorError, KeyboardInterrupt):
        raise
    except Exception as error:
        status = _status(error)
        if status == 401:
            raise HubError(f"the Hub does not take this token: `hf auth login` or HF_TOKEN, {TOKENS}") from error
        if status in (402, 403):
            raise HubError(f"the Hub does not let this token do that: {_said(error)}") from error
        if status is not None and status < 500 and status not in (408, 429):
            raise HubError(f"the Hub refuses: {_said(error)}") from error
        if status is None and isinstance(error, ValueError):
            raise HubError(f"the Hub refuses: {_flat(str(error))}") from error
        way = "; HF_HUB_DISABLE_XET=1 sends it without Xet" if "xet" in str(error) else ""
        raise HubError(f"{_said(error)}; {AGAIN}{way}") from error


def _root(error: BaseException) -> BaseException:
    """Artifact is behind the client's `Error while uploading …`."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """Of the Hub's answer; None where there was none."""
    response = getattr(_root(error), "response", None)
    return None if response is None else int(response.status_code)


def _pause(error: BaseException, usual: float) -> float | None:
    """Seconds to wait before another try; None where it would end the same."""
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is None:
        return usual if isinstance(_root(error), HTTPError) else None
    if status == 429:
        asked = _asked_pause(error)
        return None if asked is not None and asked > LONGEST_PAUSE else max(usual, (asked or 0) + 1)
    return usual if status == 408 or status >= 500 else None


def _asked_pause(error: BaseException) -> float | None:
    """Seconds that a busy Hub asks for."""
    headers = getattr(_root(error), "response").headers  # noqa: B009 (any library's response)
    asked = headers.get("retry-after", "")
    limit = re.search(r"\bt\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(asked) if asked.strip().isdigit() else float(limit[1]) if limit else None


def _said(error: BaseException) -> str:
    """Artifact went wrong, in one line."""
    root = _root(error)
    status = _status(error)
    if status == 429:
        asked = _asked_pause(error)
        return "the Hub takes no more requests for now (429)" + (f", for {asked:.0f} s" if asked else "")
    if status is not None:
        said = getattr(root, "server_message", None)
        return f"the Hub answers {status}" + (f": {_flat(said)}" if said else "")
    from huggingface_hub.errors import HTTPError

    lost = isinstance(root, HTTPError)
    kind = "the connection to the Hub broke off" if lost else "the upload broke off"
    return f"{kind} ({_flat(str(root).strip() or type(root).__name__)})"


def _flat(text: str) -> str:
    return re.sub(r"\?\S+", "?…", " ".join(text.split()))[:300]


def _without_signature(record: logging.LogRecord) -> bool:
    """The client logs addresses of its storage; what follows the question mark opens it."""
    record.msg, record.args = re.sub(r"\?\S+", "?…", record.getMessage()), ()
    return True
