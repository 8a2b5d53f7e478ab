"""The files that go to the Hub, naming the base as the public knows it."""

import json
import re
from pathlib import Path

from train.core.errors import ConfigError, RunError
from train.core.files import read_note, sha256
from train.core.runs import Run
from train.exports.hub.card_facts import Artifact
from train.models.base import read_json
from train.models.save import GENERATION_FILE, TEMPLATE_FILE, TOKENIZER_FILES

ADAPTER_FILES = ("adapter_config.json", "adapter_model*.safetensors", *TOKENIZER_FILES, TEMPLATE_FILE, GENERATION_FILE)
MERGED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""Patterns of the files of a merged model that go, if govor wrote them."""
REQUIRED_FILES = {
    "adapter": ("adapter_config.json", "adapter_model*.safetensors"),
    "merged": ("config.json", "*.safetensors", "tokenizer_config.json"),
}
"""Artifact → patterns of which each must fit a file."""
BASE_KEY = "base_model_name_or_path"
BASE_NAMING_FILES = ("adapter_config.json", "config.json", "tokenizer_config.json")
"""Files that may name the base by its folder on this machine."""
NAME_PART = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)


def require_name(name: str, option: str) -> None:
    """ConfigError unless the option's value is a name that the Hub takes: owner/name."""
    owner, slash, rest = name.partition("/")
    if (
        not slash
        or len(name) > 96
        or rest.endswith(".git")
        or not (NAME_PART.fullmatch(owner) and NAME_PART.fullmatch(rest))
    ):
        raise ConfigError(
            f"{option} {name!r} is no name on the Hub: write OWNER/NAME in Latin letters, digits, `-`, `_`, `.`, "
            "such as ivan/natasha"
        )


def artifact_files(run: Run, artifact: Artifact) -> dict[str, Path]:
    """Name on the Hub → file; RunError where the run has no such artifact."""
    if artifact == "gguf":
        return _gguf_files(run)
    folder = run.adapter if artifact == "adapter" else run.merged
    if not folder.exists():
        if artifact == "adapter":
            raise RunError(f"{run.path} was tuned whole and has no adapter: push it with --merged")
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    for pattern in REQUIRED_FILES[artifact]:
        if not any(folder.glob(pattern)):
            raise RunError(f"{folder} has no {pattern}: it is damaged, make it again")
    patterns = ADAPTER_FILES if artifact == "adapter" else MERGED_FILES
    files = {file.name: file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    noted = read_note(folder)
    return files if noted is None else {name: file for name, file in files.items() if name in noted}


def _gguf_files(run: Run) -> dict[str, Path]:
    """Name → GGUF file of every export; of equal files in several folders, the first."""
    files: dict[str, Path] = {}
    for file in sorted((run.path / "exports").rglob("*.gguf")):
        with file.open("rb") as handle:
            if handle.read(4) != b"GGUF":
                raise RunError(f"{file} is no GGUF file: export it again")
        if not same_content(file, files.setdefault(file.name, file)):
            raise RunError(f"{file} and {files[file.name]} differ but have one name: leave one of them")
    if not files:
        raise RunError(f"{run.path} has no GGUF file in exports/: govor export {run.path} --to gguf")
    return files


def base_folder(run: Run) -> Path | None:
    """The base's folder on this machine; None where it is no longer here."""
    for name in (run.manifest()["base"].get("path"), run.config().model.name_or_path):
        if name and (Path(name) / "config.json").is_file():
            return Path(name)
    return None


def public_base(run: Run, stated: str | None) -> str | None:
    """The base's name on the Hub: as stated, as the config has it, or as the Hub's cache here files it."""
    if stated:
        require_name(stated, "--base")
        return stated
    name = run.config().model.name_or_path
    for part in (*Path(name).parts, *Path(run.manifest()["base"].get("path") or "").parts):
        if part.startswith("models--") and part.count("--") == 2:
            return part.removeprefix("models--").replace("--", "/")
    owner, slash, rest = name.partition("/")
    is_name = bool(slash and NAME_PART.fullmatch(owner) and NAME_PART.fullmatch(rest))
    return name if is_name and not Path(name).exists() and not _is_folder_of(run, name) else None


def _is_folder_of(run: Run, name: str) -> bool:
    """Whether the run found its base in a folder of that name, which may be gone by now."""
    manifest = run.manifest()["base"]
    path = Path(manifest.get("path") or "")
    return not manifest.get("revision") and path.parts[-2:] == Path(name).parts


def with_public_base(name: str, file: Path | bytes, run: Run, base: str | None) -> Path | bytes:
    """The file, or its text with the base's public name where it had a folder of this machine.

    An adapter names its base in a key of its own, whose text is replaced whatever it is.
    """
    if name not in BASE_NAMING_FILES or base is None or isinstance(file, bytes):
        return file
    try:
        before = after = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{file}: damaged, not UTF-8: {error.reason}") from None
    if name == "adapter_config.json":
        settings = read_json(file)
        if settings.get(BASE_KEY) != base:
            after = json.dumps({**settings, BASE_KEY: base}, ensure_ascii=False, indent=2)
    for folder in {run.config().model.name_or_path, run.manifest()["base"].get("path")} - {None, base}:
        for ascii_only in (True, False):
            after = after.replace(json.dumps(folder, ensure_ascii=ascii_only), json.dumps(base))
    return file if after == before else after.encode()


def same_content(content: Path | bytes, other: Path) -> bool:
    """Whether the other file exists and has the same content; False for bytes."""
    if isinstance(content, bytes) or not other.is_file() or other.stat().st_size != content.stat().st_size:
        return False
    return sha256(content) == sha256(other)
