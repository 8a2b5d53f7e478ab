"""A base's files from the Hugging Face Hub or from ModelScope, by their own downloaders, and their hashes checked.

huggingface_hub goes on after a broken connection and compares sizes; hashes it leaves to whoever asks. What is checked
here is the sha256 of large files and git's hash of small ones, as the Hub's API gives them.
"""

import hashlib
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from train.core.errors import BaseError, MachineError
from train.core.files import format_bytes, require_disk_space, sha256
from train.core.progress import progress, track

WEIGHTS = "*.safetensors"
NO_WEIGHTS = "{} has no weights as safetensors: take a revision that has them, since pickled ones (.bin) are never read"
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""What goes with the weights. Whoever passes the weights on needs the last four."""
LEFT_OUT = ("consolidated*", "*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model")
"""The same weights in other forms, and what belongs to them."""


def fetch(name: str, *, modelscope: bool, endpoint: str | None, revision: str | None, code: bool) -> str:
    """Fetch a base, or what is missing of it, and check it; returns what to write into the config, in a line."""
    if modelscope:
        return f"write into the config: model.name_or_path: {_from_modelscope(name, revision, code=code)}"
    folder = fetch_from_hub(name, revision, code=code, endpoint=endpoint, check_all=True)
    more = f", model.revision: {revision}" if revision else ""
    return f"{name} is in {folder}, its hashes are right; write into the config: model.name_or_path: {name}{more}"


def fetch_from_hub(
    name: str, revision: str | None, *, code: bool, endpoint: str | None = None, check_all: bool = False
) -> Path:
    """The base's folder in huggingface_hub's cache, after what is missing of it was fetched and its hashes compared.

    `code`: with the repository's Python files. `endpoint`: address of a mirror, which is sent no token. `check_all`:
    compare the hashes of files that were here before, too. BaseError where the base cannot be had, or where a file is
    not what the Hub says; it is then removed if this call has fetched it.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    wanted: dict[str, Any] = {"allow_patterns": [WEIGHTS, *BESIDE, *["*.py"] * code], "ignore_patterns": [*LEFT_OUT]}
    asked: dict[str, Any] = {"revision": revision, "endpoint": endpoint, "token": False if endpoint else None}
    try:
        listed = _listed(HfApi(endpoint=endpoint, token=asked["token"]), name, revision)
        if isinstance(listed, Exception):
            try:
                return Path(snapshot_download(name, **asked, **wanted, local_files_only=True))
            except LocalEntryNotFoundError:
                if isinstance(listed, HfHubHTTPError):
                    raise listed from None
                raise
        names = [file.rfilename for file in listed.siblings]
        if not any(filter_repo_objects(names, allow_patterns=WEIGHTS, ignore_patterns=[*LEFT_OUT])):
            raise BaseError(NO_WEIGHTS.format(name))
        files = list(filter_repo_objects(listed.siblings, **wanted, key=lambda file: file.rfilename))
        cache = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        missing = [file for file in files if not (cache / "snapshots" / listed.sha / file.rfilename).exists()]
        if missing:
            size = sum(file.size or 0 for file in missing)
            require_disk_space(cache, size, name)
            print(f"{name}: {len(missing)} of {len(files)} files, {format_bytes(size)}", file=sys.stderr, flush=True)
        with _shown(f"fetching {name} from the Hub"):
            folder = Path(snapshot_download(name, **asked, **wanted))
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise BaseError(
            f"{name} is not in the local cache and {reason}: run govor fetch {name} where there is a network "
            "(--endpoint for a mirror, --from modelscope), or give a local folder as model.name_or_path"
        ) from None
    except (BaseError, MachineError):
        raise
    except Exception as error:  # repository not found, gated, revision unknown, no room, cut off, …
        summary = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise BaseError(
            f"{name} could not be fetched from the Hub: {summary}; govor fetch {name} goes on with the files that are "
            "not here yet"
        ) from None
    checked = files if check_all else missing
    for file in track(checked, f"checking {name}", len(checked)) if checked else ():
        _require_hash(folder / file.rfilename, file, remove=file in missing)
    return folder


def _listed(api: Any, name: str, revision: str | None) -> Any:
    """The Hub's list of the base's files with sizes and hashes, or the error where there is no answer: it may be here.

    Raises where the answer is that there is no such base.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.model_info(name, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # no network, a proxy that refuses, a Hub that is down
        return error


def _shown(task: str) -> Any:
    """A line on a long download where huggingface_hub draws no bar of its own."""
    from huggingface_hub.utils import are_progress_bars_disabled

    return progress(task) if are_progress_bars_disabled() or not sys.stderr.isatty() else nullcontext()


def _require_hash(path: Path, file: Any, *, remove: bool) -> None:
    """BaseError where a file is not what the Hub's entry says.

    `remove`: take it out of the cache, since this call has fetched it; what was there before is somebody's.
    """
    if file.lfs:
        kind, expected, found = "sha256", file.lfs.sha256, sha256(path)
    else:
        content = path.read_bytes()
        kind, expected = "git's hash", file.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != expected:
        wrong = f"{path.name}: its {kind} is {found[:12]}…, the Hub says {expected[:12]}…"
        stored = path.resolve()  # in the cache the name is a link
        if not remove:
            raise BaseError(f"{wrong}: it was there before; remove {stored} and fetch it again")
        for one in {path, stored}:
            one.unlink(missing_ok=True)
        raise BaseError(f"{wrong}: it was damaged on the way or by the mirror, and is removed; fetch it again")


def _from_modelscope(name: str, revision: str | None, *, code: bool) -> str:
    """The folder into which ModelScope's own downloader has put the base; it checks hashes itself. Not tried yet."""
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise MachineError("the package modelscope is not installed: pip install 'govor[modelscope]'") from None
    patterns = [WEIGHTS, *BESIDE, *["*.py"] * code]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=[*LEFT_OUT]))
    except Exception as error:  # no such model, no network, no room
        summary = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise BaseError(f"{name} could not be fetched from ModelScope: {summary}") from None
    return str(folder)
