"""What goes to the Hub: the files of one kind, naming the base as the public knows it."""

import json
import re
from pathlib import Path

from train.core.errors import ConfigError, RunError
from train.core.files import read_note, sha256
from train.core.runs import Run
from train.exports.hub.card_facts import What
from train.models.save import GENERATION_FILE, TEMPLATE_FILE, TOKENIZER_FILES

ADAPTER = ("adapter_config.json", "adapter_model*.safetensors", *TOKENIZER_FILES, TEMPLATE_FILE, GENERATION_FILE)
MERGED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""What goes of a merged model, if govor wrote it."""
NEEDED = {
    "adapter": ("adapter_config.json", "adapter_model*.safetensors"),
    "merged": ("config.json", "*.safetensors", "tokenizer_config.json"),
}
BASE_NAMED_IN = ("adapter_config.json", "config.json", "tokenizer_config.json")
"""Files that may name the base by its folder here."""
NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)


def require_name(name: str, what: str) -> None:
    """ConfigError unless it is one that the Hub takes: owner/name."""
    owner, slash, rest = name.partition("/")
    if not slash or len(name) > 96 or rest.endswith(".git") or not (NAME.fullmatch(owner) and NAME.fullmatch(rest)):
        raise ConfigError(
            f"{what} {name!r} is no name on the Hub: write OWNER/NAME in Latin letters, digits, `-`, `_`, `.`, "
            "such as ivan/natasha"
        )


def files_of(run: Run, what: What) -> dict[str, Path]:
    """Name on the Hub → file; RunError where there is nothing of that kind."""
    if what == "gguf":
        return _gguf_files(run)
    folder = run.adapter if what == "adapter" else run.merged
    if not folder.exists():
        if what == "adapter":
            raise RunError(f"{run.path} was tuned whole and has no adapter: push it with --merged")
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    for pattern in NEEDED[what]:
        if not any(folder.glob(pattern)):
            raise RunError(f"{folder} has no {pattern}: it is damaged, make it again")
    patterns = ADAPTER if what == "adapter" else MERGED
    found = {file.name: file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    noted = read_note(folder)
    return found if noted is None else {name: file for name, file in found.items() if name in noted}


def _gguf_files(run: Run) -> dict[str, Path]:
    """Every GGUF that was exported, one of those that several folders hold."""
    found: dict[str, Path] = {}
    for file in sorted((run.path / "exports").rglob("*.gguf")):
        with file.open("rb") as handle:
            if handle.read(4) != b"GGUF":
                raise RunError(f"{file} is no GGUF file: export it again")
        if not same(file, found.setdefault(file.name, file)):
            raise RunError(f"{file} and {found[file.name]} differ but have one name: leave one of them")
    if not found:
        raise RunError(f"{run.path} has no GGUF file in exports/: govor export {run.path} --to gguf")
    return found


def base_folder(run: Run) -> Path | None:
    """Where the base lies on this machine; None where it is no longer here."""
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
    is_name = bool(slash and NAME.fullmatch(owner) and NAME.fullmatch(rest))
    return name if is_name and not Path(name).exists() and not _is_folder_of(run, name) else None


def _is_folder_of(run: Run, name: str) -> bool:
    """Whether the run found its base in a folder of that name, which may be gone by now."""
    manifest = run.manifest()["base"]
    path = Path(manifest.get("path") or "")
    return not manifest.get("revision") and path.parts[-2:] == Path(name).parts


def with_public_base(name: str, file: Path | bytes, run: Run, base: str | None) -> Path | bytes:
    """The file, or its text with the base's public name where it had a folder of this machine."""
    if name not in BASE_NAMED_IN or base is None or isinstance(file, bytes):
        return file
    before = after = file.read_text(encoding="utf-8")
    for folder in {run.config().model.name_or_path, run.manifest()["base"].get("path")} - {None, base}:
        for ascii_only in (True, False):
            after = after.replace(json.dumps(folder, ensure_ascii=ascii_only), json.dumps(base))
    return file if after == before else after.encode()


def same(content: Path | bytes, other: Path) -> bool:
    """Whether the other file exists and holds the same."""
    if isinstance(content, bytes) or not other.is_file() or other.stat().st_size != content.stat().st_size:
        return False
    return sha256(content) == sha256(other)
