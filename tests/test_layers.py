"""The rooms of train/: which there are, what may import what, and no path left from before the modules moved there."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY

LAYERS = [
    {"core"},
    {"chats", "models"},
    {"encoding", "plan"},
    {"tuning", "merging", "evaluation"},
    {"sft", "dpo", "serving", "exports"},
    {"remote", "bot"},
    {"jobs"},
    {"studio"},
    {"cli"},
]
"""A module imports from its own room and from the layers before it."""
SUBFOLDERS = {
    "chats/telegram",
    "chats/privacy",
    "tuning/kernels",
    "exports/llamafactory",
    "exports/gguf",
    "exports/hub",
    "serving/in_engine",
}
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes"}
LIGHT_ROOMS = dict.fromkeys(("core", "chats", "remote", "bot", "studio"), HEAVY) | {"plan": HEAVY - {"transformers"}}
"""What these do without altogether; plan/ has transformers compile chat templates, which loads no torch."""
LATE = {"evaluation/cache.py": "train.evaluation.cache"}
"""File → name of modules that extend classes of the libraries."""
PACKAGE = REPOSITORY / "train"
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
MODULES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]

MOVED = {
    "": "analyze chat config drift encoding errors evaluate files fold generate launch merge merged model preview "
    "progress rendering report runs shards templates trainer",
    "chats": "addresses dialogues handles identifiers morphology names packed participants privacy sessions telegram",
    "exports": "convert folders gguf gguf_check lf_readme lf_rows lf_settings lf_templates llamafactory pretokenizer "
    "prompts quantize",
    "hub": "__init__ card contents facts licences objections push samples scan upload usage",
    "jobs": "answers catalogue change chats checking creation following metrics model_routes objects outcome processes "
    "recipe words",
    "kernels": "__init__ attention batches head lora norm trial",
    "serving": "app asked dialect engines envelope keeper models parity",
}
"""Where modules stood before 2026-11-29, by folder of train/. Nothing may name them by those paths."""


class Import(NamedTuple):
    importer: str
    """Path below train/."""
    room: str
    """The importer's entry in LAYERS."""
    module: str
    """Dotted name of what is imported."""
    runs_at_once: bool
    """Whether it runs when the module is imported: it stands in no function."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> Iterator[Import]:
    for path in MODULES:
        importer = path.relative_to(PACKAGE).as_posix()
        yield from imports_of(importer, room_of(path), ast.parse(path.read_text(encoding="utf-8")))


def imports_of(importer: str, room: str, tree: ast.AST, runs_at_once: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        names: list[str] = []
        match node:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(module=module, level=level, names=aliases):
                assert level == 0, f"{importer} line {node.lineno}: a relative import"
                names = [f"train.{alias.name}" for alias in aliases] if module == "train" else [module or ""]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names = [name]
        yield from (Import(importer, room, name, runs_at_once) for name in names)
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_of(importer, room, node, runs_at_once and not in_function)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", [("torch", True)]),
        ("def f():\n    import torch", [("torch", False)]),
        ("importlib.import_module('train.jobs.worker')", [("train.jobs.worker", True)]),
        ("class A:\n    from train import cli", [("train.cli", True)]),
    ],
)
def test_every_way_to_import_is_seen(source, found):
    assert [(one.module, one.runs_at_once) for one in imports_of("x.py", "core", ast.parse(source))] == found


def test_the_rooms_are_these():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__.py", "README.md", "README.ru.md"} == {
        f"{room}.py" if room in ("sft", "dpo", "cli") else room for room in LEVELS
    }
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in MODULES}
    assert {folder for folder in folders if "/" in folder} == SUBFOLDERS


def test_imports_go_down():
    upward = [
        f"{found.importer} imports {found.module}"
        for found in imports()
        if found.module.startswith("train.")
        for target in [found.module.split(".")[1]]
        if target != found.room and LEVELS[target] >= LEVELS[found.room]
    ]
    assert upward == []


def test_heavy_libraries_come_late():
    """Few in the light rooms; elsewhere inside functions, save in tuning/, which sft.py imports when it needs it, and
    in LATE, which are imported inside functions themselves.
    """
    assert not [found for found in imports() if found.runs_at_once and found.module in LATE.values()]
    early = [
        f"{found.importer} imports {found.module}"
        for found in imports()
        for library in [found.module.split(".")[0]]
        if (library in LIGHT_ROOMS.get(found.room, ()) and found.importer != "core/compat.py")  # lists what others use
        or (library in HEAVY and found.runs_at_once and found.room != "tuning" and found.importer not in LATE)
    ]
    assert early == []


def test_tuning_is_imported_when_it_is_needed():
    """Its modules import torch at once; processes.py, manifest.py, resume.py and save.py do not."""
    heavy = {
        "train." + found.importer.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for found in imports()
        if found.room == "tuning" and found.runs_at_once and found.module.split(".")[0] in HEAVY
    }
    assert "train.tuning.trainer" in heavy
    early = [
        f"{found.importer} imports {found.module}"
        for found in imports()
        if found.runs_at_once and found.room != "tuning" and found.module in heavy
    ]
    assert early == []


def test_train_never_imports_scripts_or_tests():
    names = {path.stem for folder in ("scripts", "tests") for path in (REPOSITORY / folder).iterdir()}
    assert [found for found in imports() if found.module.split(".")[0] in names | {"scripts", "tests"}] == []


def tracked_texts() -> dict[str, str]:
    """Every text file that git tracks, but the log of what was done and this list."""
    command = ["git", "ls-files", "-z"]
    output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    texts = {}
    for name in set(output.strip("\0").split("\0")) - {"LOG.md", "tests/test_layers.py"}:
        if (REPOSITORY / name).is_file() and not name.startswith("data/"):
            texts[name] = (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")
    return texts


def old_names() -> Iterator[str]:
    """Expressions for the ways in which a text could name a module by its old path."""
    folders = [REPOSITORY / name for name in ("train", "scripts", "tests")]
    files = [path.relative_to(REPOSITORY).as_posix() for folder in folders for path in folder.rglob("*.py")]
    for folder, names in MOVED.items():
        for name in names.split():
            inner = f"{folder}/{name}" if folder else name
            if not (PACKAGE / f"{inner}.py").exists():
                yield rf"train/{inner}\.py"
                if not (PACKAGE / inner).is_dir():
                    dotted = "train." + inner.replace("/", ".").removesuffix(".__init__")
                    yield rf"(?:\b(?:from|import|see|-m) |[\"'`]){re.escape(dotted)}\b"
            if not any(file.endswith(f"/{inner}.py") for file in files):  # as prose and docstrings name it
                yield rf"(?<![\w/]){inner}\.py"


def test_nothing_names_a_module_by_its_old_path():
    assert sum(len(names.split()) for names in MOVED.values()) == 85
    pattern = re.compile("|".join(sorted(set(old_names()))))
    left = [
        f"{name}:{number}: {match[0]}"
        for name, text in sorted(tracked_texts().items())
        for number, line in enumerate(text.splitlines(), 1)
        if "train" in line or ".py" in line  # the expression alone takes its time
        for match in pattern.finditer(line)
    ]
    names = {name for names in MOVED.values() for name in names.split()} - {"__init__"}
    bare = re.compile(rf"(?<![\w/])(?:{'|'.join(names)})\.py")  # right where such a file lies beside
    left += [
        f"{name}: {match[0]}"
        for name, text in sorted(tracked_texts().items())
        for match in bare.finditer(text)
        if not (REPOSITORY / name).with_name(match[0]).exists()
    ]
    assert left == []


@pytest.mark.parametrize(
    ("text", "is_old"),
    [
        ("from train.chat import talk", True),
        ("from train.chats import rows", False),
        ("""monkeypatch.setattr("train.kernels.trial.LENGTHS", (3,))""", True),
        ("import train.tuning.kernels.head", False),
        ("source.train.report.dropped + train.report.truncated", False),
        ("from train.encoding.rows import Encoding", False),
        ("kernels/trial.py", True),
        ("train/chats/privacy.py", True),
        ("train/serving/engine.py", False),
        ("scripts/finetuning/watch.py", False),
    ],
)
def test_old_paths_are_told_from_new_ones(text, is_old):
    assert bool(re.search("|".join(old_names()), text)) == is_old
