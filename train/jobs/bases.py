"""The bases that clients may name: public name → base, recipe, overrides."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from train.core.config import config_class, dump_config, load_config
from train.core.errors import ConfigError

DEFAULT = Path(__file__).with_name("catalogue.yaml")


class Entry(BaseModel):
    """One base of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    base: str | None = None
    recipe: Path | None = None
    overrides: dict[str, dict[str, Any] | None] = {}
    aliases: tuple[str, ...] = ()


class Base(BaseModel):
    """A base that is there, or that the Hub may have."""

    name: str
    """Public name."""
    shown: str
    """As the catalogue writes it."""
    path: str
    """Absolute folder, or Hub id."""
    tree: dict[str, Any]
    """Sections of the config that a job begins with."""


class Catalogue:
    """Names → bases."""

    def __init__(self, bases: dict[str, Base], aliases: dict[str, str], missing: dict[str, str]) -> None:
        self.bases = bases
        self.missing = missing
        """Entries whose folder is not there: public name → folder."""
        self._aliases = aliases

    def find(self, name: str) -> Base | None:
        """The base of that name or alias."""
        return self.bases.get(self._aliases.get(name, name))


def load_catalogue(file: Path = DEFAULT) -> Catalogue:
    """The catalogue of a YAML file; ConfigError with every entry that is wrong."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        entries = TypeAdapter(dict[str, Entry | None]).validate_python(tree or {})
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such catalogue") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{file}: {'; '.join(found)}") from None
    bases, aliases, missing = {}, {}, {}
    for name, entry in entries.items():
        entry = entry or Entry()
        for word in (name, *entry.aliases):
            if not word or ":" in word or word in aliases:
                raise ConfigError(f"{file}: {name}: {word!r} is empty, holds `:` or stands there twice")
            aliases[word] = name
        shown = entry.base or name
        path = _find(shown)
        if path is None:
            missing[name] = shown
            continue
        bases[name] = Base(name=name, shown=shown, path=path, tree=_tree(file, name, entry, path))
    return Catalogue(bases, aliases, missing)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections laid over sections; a section that is no mapping replaces the one below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _find(base: str) -> str | None:
    """Absolute folder or Hub id; None for a folder that holds no model."""
    folder = Path(base)
    if (folder / "config.json").is_file():
        return str(folder.absolute())
    if folder.is_dir() or folder.is_absolute() or base.startswith(".") or base.count("/") != 1:
        return None
    return base


def _tree(file: Path, name: str, entry: Entry, path: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if entry.recipe is not None:
        recipe = yaml.safe_load(dump_config(load_config(file.parent / entry.recipe)))
        tree = {key: recipe[key] for key in ("model", "lora", "training", "generation")}
    tree = merge(tree, merge(entry.overrides, {"model": {"name_or_path": path}}))
    try:
        config_class().model_validate({**tree, "name": "x", "data": {"train_file": "x"}})
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{file}: {name}: {'; '.join(found)}") from None
    return tree
