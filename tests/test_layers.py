"""The layering of train/: a module imports only from layers below its own; heavy libraries from `rendering` upward."""

import ast
from pathlib import Path

LAYERS = [
    {"errors"},
    {"config", "files", "shards"},
    {"runs", "chats", "launch"},
    {"plan"},
    {"rendering", "report"},
    {"templates"},
    {"token_cache"},
    {"encoding"},
    {"model", "kernels"},
    {"generate", "trainer", "progress", "fold", "drift"},
    {"merged"},
    {"sft", "evaluate", "merge", "chat", "serving", "exports", "hub", "analyze", "preview"},
    {"jobs"},
    {"cli"},
]
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes"}
PACKAGE = Path(__file__).resolve().parents[1] / "train"
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    """The name a file has in LAYERS: its own, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """(module relative to train/, whether at the top level) for our own imports; full names for others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["train", *path.relative_to(PACKAGE).parts[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            if names == ["train"]:
                yield from ((f"train.{alias.name}", top) for alias in node.names)
            else:
                yield ".".join(names), top


def test_every_room_has_a_layer():
    assert {room(path) for path in FILES} == set(LEVEL)


def test_imports_go_down():
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        for name, _ in imports(path)
        if name.startswith("train.")
        for target in [name.split(".")[1]]
        if target != room(path) and LEVEL[target] >= LEVEL[room(path)]
    ]
    assert upward == []


def test_heavy_libraries_come_late():
    early = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        for name, top in imports(path)
        if name.split(".")[0] in HEAVY
        and (top or LEVEL[room(path)] < LEVEL["rendering"])
        and room(path) not in ("kernels", "trainer", "progress")  # sft.py imports them when it needs them
    ]
    assert early == []


def test_train_never_imports_scripts():
    assert [name for path in FILES for name, _ in imports(path) if name.split(".")[0] in ("scripts", "tests")] == []
