"""The bases that clients may name, from catalogue.yaml: public name → base, recipe, overrides."""

import math
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from train.core.bounded_yaml import BoundedLoader
from train.core.cards import has_accelerator
from train.core.config import Config, config_class, dump_config, load_config
from train.core.errors import BaseError, ConfigError, GovorError
from train.models.base import chat_template_source, local_folder
from train.models.fetch import WEIGHTS

LOOK_EVERY = 2.0
"""Seconds between two looks at which bases are on this machine: a millisecond, which many clients may ask for."""
DEFAULT_CATALOGUE = Path(__file__).with_name("catalogue.yaml")


class BaseEntry(BaseModel):
    """What the catalogue's file says of one base."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    base: str | None = None
    recipe: Path | None = None
    overrides: dict[str, dict[str, Any] | None] = {}
    aliases: tuple[str, ...] = ()
    resources: dict[str, float] = {}


class Base(BaseModel):
    """A base whose folder is there, or that the Hub may have."""

    name: str
    """The name by which clients ask for it."""
    reference: str
    """Folder or Hub id as the catalogue writes it."""
    path: str
    """Absolute path of the folder, or the Hub id."""
    tree: dict[str, Any]
    """Sections of the config that its jobs begin with."""
    resources: dict[str, float] = {}
    """What each of its jobs takes of a node of a Ray cluster, by Ray's names; empty: as its recipe needs."""

    @cached_property
    def config(self) -> Config:
        """The config that its jobs begin with; its name and its rows stand for nothing."""
        return config_class().model_validate({**self.tree, "name": "x", "data": {"train_file": "x"}})

    def folder(self) -> Path | None:
        """The folder on this machine from which it can answer; None where weights or a chat template are not there."""
        try:
            model = self.config.model
            folder = local_folder(model)
            if folder is None or next(folder.glob(WEIGHTS), None) is None:
                return None
            return folder if model.chat_template or chat_template_source(folder) else None
        except GovorError:  # what is damaged there, a job says
            return None

    def why_not_here(self) -> str | None:
        """Why no job of this base can run on this machine, in a clause; None where nothing is known against it."""
        from huggingface_hub import constants

        nf4 = self.config.model.load_in_4bit
        if not self.config.training.use_cpu and not has_accelerator(cuda=nf4):
            return f"it wants {'a CUDA GPU for its 4-bit weights' if nf4 else 'a GPU'}, and this machine shows none"
        if constants.HF_HUB_OFFLINE and not _is_here(self.config):
            return f"{self.reference} is not in the local cache and HF_HUB_OFFLINE is set: govor fetch {self.reference}"
        return None


class Catalogue:
    """The bases that clients may name, with their aliases."""

    def __init__(self, bases: dict[str, Base], aliases: dict[str, str], missing: dict[str, str]) -> None:
        self.bases = bases
        self.missing = missing
        """Bases whose folder is not there: public name → folder."""
        self.trains_elsewhere = False
        """Whether jobs run on other machines, so that what this one has says nothing about them."""
        self._aliases = aliases
        self._here: list[str] = []
        self._looked_at = -math.inf

    def find(self, name: str) -> Base | None:
        """The base of that name or alias; None where there is none."""
        return self.bases.get(self._aliases.get(name, name))

    def here(self) -> list[str]:
        """Names of the bases that can answer from this machine's files, as they were at most LOOK_EVERY seconds ago."""
        if time.monotonic() - self._looked_at > LOOK_EVERY:
            self._here = [name for name, base in self.bases.items() if base.folder()]
            self._looked_at = time.monotonic()
        return self._here

    def why_not_here(self, name: str) -> str | None:
        """Why jobs of the base of that name or alias cannot run on this machine, in a sentence that says what can."""
        base = self.find(name)
        why = base and base.why_not_here()
        if base is None or why is None or self.trains_elsewhere:
            return None
        what = name if name == base.name else f"{name} stands for {base.name} on this server and"
        others = ", ".join(other.name for other in self.bases.values() if other.why_not_here() is None) or "none"
        return (
            f"{what} cannot be tuned here: {why}. Bases that can: {others}; or start the server with a --catalogue in "
            "which the name stands for one of yours"
        )


def load_catalogue(file: Path = DEFAULT_CATALOGUE) -> Catalogue:
    """Read the catalogue of a YAML file; ConfigError names what is wrong in it."""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), BoundedLoader)  # a SafeLoader
        entries = TypeAdapter(dict[str, BaseEntry | None]).validate_python(tree or {})
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such catalogue") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{file}: {'; '.join(problems)}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    bases, aliases, missing = {}, {}, {}
    for name, entry in entries.items():
        entry = entry or BaseEntry()
        for name_or_alias in (name, *entry.aliases):
            if not name_or_alias or ":" in name_or_alias or name_or_alias in aliases:
                raise ConfigError(f"{file}: {name}: {name_or_alias!r} is empty, holds `:` or stands there twice")
            aliases[name_or_alias] = name
        reference = entry.base or name
        path = _locate(reference)
        if path is None:
            missing[name] = reference
            continue
        tree_of_base = _config_tree(file, name, entry, path)
        bases[name] = Base(name=name, reference=reference, path=path, tree=tree_of_base, resources=entry.resources)
    return Catalogue(bases, aliases, missing)


def _is_here(config: Config) -> bool:
    try:
        return local_folder(config.model) is not None
    except BaseError:
        return False


def merge_sections(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay sections over sections: mappings are merged key by key, any other value replaces the one below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_sections(merged[key], value) if both else value
    return merged


def _locate(base: str) -> str | None:
    """Absolute path of the folder, or the Hub id; None for a folder that holds no model."""
    folder = Path(base)
    if (folder / "config.json").is_file():
        return str(folder.absolute())
    if folder.is_dir() or folder.is_absolute() or base.startswith(".") or base.count("/") != 1:
        return None
    return base


def _config_tree(file: Path, name: str, entry: BaseEntry, path: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if entry.recipe is not None:
        recipe = yaml.safe_load(dump_config(load_config(file.parent / entry.recipe)))
        tree = {key: recipe[key] for key in ("model", "lora", "training", "generation")}
    tree = merge_sections(tree, merge_sections(entry.overrides, {"model": {"name_or_path": path}}))
    try:
        config_class().model_validate({**tree, "name": "x", "data": {"train_file": "x"}})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{file}: {name}: {'; '.join(problems)}") from None
    return tree
