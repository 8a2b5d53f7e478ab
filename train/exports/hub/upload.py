"""Files into a repository of the Hub through its own client: one commit, which an interrupted upload takes up again.

What has reached the Hub's storage is not sent twice, neither whole files (LFS) nor chunks of them (Xet): running the
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

RETRY_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further try of what the client itself does not try again."""
LONGEST_PAUSE = 120.0
RETRY_HINT = "run it again: what has arrived is not sent twice"
TOKEN_PAGE = "https://huggingface.co/settings/tokens"
GIT_ATTRIBUTES = ".gitattributes"  # the Hub's own, in every new repository
T = TypeVar("T")


class HubError(GovorError):
    """The Hub cannot be reached or does not take the files."""


class RepoState(NamedTuple):
    """The state of a repository on the Hub when it was last read."""

    commit: str
    private: bool
    files: dict[str, tuple[int | None, str]]
    """Name → (size in bytes, sha256 of a file in the large storage or git's own hash of a small one)."""

    def holds(self, name: str, content: Path | bytes) -> bool:
        """Whether it has exactly this content under the name."""
        size, hash_ = self.files.get(name, (None, ""))
        length = len(content) if isinstance(content, bytes) else content.stat().st_size
        if not hash_ or size not in (None, length):
            return False
        if len(hash_) == 64:
            return hash_ == (hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content))
        data = content if isinstance(content, bytes) else content.read_bytes()
        return hash_ == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def holds_all(self, contents: Mapping[str, Path | bytes]) -> bool:
        return all(self.holds(name, content) for name, content in contents.items())


def connect() -> Any:
    """The Hub's client with a token that may write; HubError without such a token or while offline."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set: unset it to push (--dry-run needs no network)")
    token = get_token()
    if token is None:
        raise HubError(
            f"no Hugging Face token: run `hf auth login`, or set HF_TOKEN to one that may write ({TOKEN_PAGE})"
        )
    logging.getLogger(HUB_HTTP_LOGGER).addFilter(_without_signature)
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token)
    with one_line_hub_errors():
        me = with_retries(api.whoami)
    if (me.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"the token of {me['name']} may only read: make one that may write ({TOKEN_PAGE})")
    return api


def read_repo(api: Any, repo: str) -> RepoState | None:
    """The present state of the repository; None where there is none that this token may see."""
    try:
        info = with_retries(lambda: api.model_info(repo, files_metadata=True))
    except Exception as error:
        if _status(error) in (401, 404):
            return None
        raise
    files = {
        file.rfilename: (file.size, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or ()
        if file.rfilename != GIT_ATTRIBUTES
    }
    return RepoState(info.sha, bool(info.private), files)


def create_repo(api: Any, repo: str, *, private: bool) -> RepoState:
    """Create the repository and return its state; HubError where it exists and this token may not see it."""
    try:
        with_retries(lambda: api.create_repo(repo, private=private, repo_type="model"))
    except Exception as error:
        if _status(error) != 409:  # 409: made meanwhile, or by a try whose answer was lost
            raise
    created = read_repo(api, repo)
    if created is None:
        raise HubError(f"{repo} is there already and this token may not see it: choose another name")
    return created


def commit_files(
    api: Any, repo: str, contents: Mapping[str, Path | bytes], parent: str, removed: Sequence[str], message: str
) -> str:
    """Commit the contents over the commit `parent`, without the files `removed`; returns the id of the new commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def commit() -> str:
        state = read_repo(api, repo)
        if state and state.commit != parent and state.holds_all(contents):
            return state.commit  # an earlier try, whose answer was lost
        operations = [
            *(CommitOperationAdd(name, content) for name, content in contents.items()),
            *(CommitOperationDelete(name) for name in removed),
        ]
        try:
            commit_info = api.create_commit(
                repo, operations, commit_message=message, parent_commit=parent, num_threads=2
            )
        except Exception as error:
            if _status(error) in (409, 412):
                raise HubError(
                    f"{repo} has changed during the upload: look at it and push again (--force writes over it)"
                ) from None
            raise
        return str(commit_info.oid)

    return with_retries(commit)


def with_retries(call: Callable[[], T]) -> T:
    """The call's result; tried again where the Hub was busy or the connection broke off."""
    for default in RETRY_PAUSES:
        try:
            return call()
        except Exception as error:
            pause = _pause(error, default)
            if pause is None:
                raise
            print(f"{_description(error)}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    return call()


@contextmanager
def one_line_hub_errors() -> Iterator[None]:
    """Turn what the client raises into a HubError of one line that says what to do."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if warning.category is UserWarning:  # of the card's metadata
                print(f"the Hub: {_short(str(warning.message))}", file=sys.stderr, flush=True)
    except (GovorError, KeyboardInterrupt):
        raise
    except Exception as error:
        status = _status(error)
        if status == 401:
            raise HubError(f"the Hub does not take this token: `hf auth login` or HF_TOKEN, {TOKEN_PAGE}") from error
        if status in (402, 403):
            raise HubError(f"the Hub does not let this token do that: {_description(error)}") from error
        if status is not None and status < 500 and status not in (408, 429):
            raise HubError(f"the Hub refuses: {_description(error)}") from error
        if status is None and isinstance(error, ValueError):
            raise HubError(f"the Hub refuses: {_short(str(error))}") from error
        way = "; HF_HUB_DISABLE_XET=1 sends it without Xet" if "xet" in str(error) else ""
        raise HubError(f"{_description(error)}; {RETRY_HINT}{way}") from error


def _root(error: BaseException) -> BaseException:
    """The error behind the client's `Error while uploading …`."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer; None where there was none."""
    response = getattr(_root(error), "response", None)
    return None if response is None else int(response.status_code)


def _pause(error: BaseException, default: float) -> float | None:
    """Seconds to wait before another try; None where another try would end the same."""
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is None:
        return default if isinstance(_root(error), HTTPError) else None
    if status == 429:
        requested = _requested_pause(error)
        return None if requested is not None and requested > LONGEST_PAUSE else max(default, (requested or 0) + 1)
    return default if status == 408 or status >= 500 else None


def _requested_pause(error: BaseException) -> float | None:
    """Seconds that a busy Hub asks us to wait; None where it does not say."""
    headers = getattr(_root(error), "response").headers  # noqa: B009 (any library's response)
    retry_after = headers.get("retry-after", "")
    limit = re.search(r"\bt\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(retry_after) if retry_after.strip().isdigit() else float(limit[1]) if limit else None


def _description(error: BaseException) -> str:
    """What went wrong, in one line."""
    root = _root(error)
    status = _status(error)
    if status == 429:
        pause = _requested_pause(error)
        return "the Hub takes no more requests for now (429)" + (f", for {pause:.0f} s" if pause else "")
    if status is not None:
        message = getattr(root, "server_message", None)
        return f"the Hub answers {status}" + (f": {_short(message)}" if message else "")
    from huggingface_hub.errors import HTTPError

    what = "the connection to the Hub" if isinstance(root, HTTPError) else "the upload"
    return f"{what} broke off ({_short(str(root).strip() or type(root).__name__)})"


def _short(text: str) -> str:
    """The text on one line of at most 300 characters, without what follows the question mark of an address."""
    return re.sub(r"\?\S+", "?…", " ".join(text.split()))[:300]


def _without_signature(record: logging.LogRecord) -> bool:
    """The client logs addresses of its storage; what follows the question mark opens it."""
    record.msg, record.args = re.sub(r"\?\S+", "?…", record.getMessage()), ()
    return True
