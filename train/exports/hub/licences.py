"""The base's licence, and whether it lets a changed model be passed on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from train.core.bounded_yaml import BoundedLoader

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of the base's folder that whoever passes its weights on must pass on too."""
FREE_LICENCES = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|wtfpl|bsl-1\.0|ms-pl|artistic-2\.0|ecl-2\.0|postgresql|ncsa|afl-3\.0|"
    r"bsd(?:-[23]-clause(?:-clear)?)?|[al]?gpl(?:-[23]\.[01])?|mpl-2\.0|epl-[12]\.0|eupl-1\.[12]|osl-3\.0|ofl-1\.1|"
    r"cc0-1\.0|pddl|odc-by|cc-by(?:-sa)?-[234]\.[05]|cdla-permissive-[12]\.0|c-uda|openmdw(?:-1\.[01])?|"
    r"(?:bigscience-|creativeml-|bigcode-)?openrail(?:\+\+|-m)?|bigscience-bloom-rail-1\.0"
)
LICENCE_CONDITIONS = {
    r"cc-by-nc(?:-sa)?-[234]\.[05]": "no commercial use",
    r"llama[234](?:\.[0-9])?": "its agreement and policy go along, «Built with Llama» stands where it is offered, "
    "its name begins with Llama, and very large companies ask Meta first",
    r"gemma": "Google's terms and list of forbidden uses bind whoever takes it, too",
}
"""Licence under which a tuned model may be passed on → under which condition."""
NO_DERIVATIVES = re.compile(r"cc-by(?:-nc)?-nd-[234]\.[05]")
LICENCE_WORDING = {
    "apache-2.0": r"Apache License\s+Version 2\.0",
    "mit": r"Permission is hereby granted, free of charge, to any person obtaining a copy",
    "cc0-1.0": r"CC0 1\.0 Universal",
    "cc-by-nc-4.0": r"Attribution-NonCommercial 4\.0 International",
    "cc-by-4.0": r"Attribution 4\.0 International",
    "gemma": r"Gemma Terms of Use",
}
"""Licence → wording by which its text is recognised."""
LLAMA_LICENCE = re.compile(r"LLAMA ([234](?:\.[0-9])?) (?:VERSION [^\n]{0,40})?COMMUNITY LICENSE", re.IGNORECASE)


class Licence(NamedTuple):
    """A licence as the Hub names it."""

    id: str
    """apache-2.0, cc-by-nc-4.0, other, …"""
    name: str | None = None
    """The name of a licence that the Hub calls `other`."""
    link: str | None = None

    def __str__(self) -> str:
        return f"{self.name or self.id}" + (f" ({self.link})" if self.link else "")

    @property
    def condition(self) -> str | None:
        """What to heed when the model is passed on; None where nothing is known."""
        return next(
            (condition for pattern, condition in LICENCE_CONDITIONS.items() if re.fullmatch(pattern, self.id)), None
        )

    @property
    def objection(self) -> str | None:
        """Why the model may not be passed on, as far as govor knows; None where it may."""
        if FREE_LICENCES.fullmatch(self.id) or self.condition:
            return None
        if NO_DERIVATIVES.fullmatch(self.id):
            return f"{self} forbids passing on a changed model"
        return f"{self} is not one that govor knows: read whether it lets a tuned model be passed on"


def licence_beside(base: Path) -> Licence | None:
    """The licence in a model folder: by its card, else by its licence file; None where neither tells."""
    card = base / "README.md"
    if card.is_file():
        licence = licence_of_card(front_matter(card.read_text(encoding="utf-8", errors="replace")))
        if licence:
            return licence
    for file in sorted(file for pattern in LICENCE_FILES[:2] for file in base.glob(pattern) if file.is_file()):
        text = file.read_text(encoding="utf-8", errors="replace")
        if llama := LLAMA_LICENCE.search(text):
            return Licence(f"llama{llama[1]}")
        for name, wording in LICENCE_WORDING.items():
            if re.search(wording, text):
                return Licence(name)
    return None


def licence_of_card(metadata: Mapping[str, Any]) -> Licence | None:
    """The licence in a model card's metadata; several are joined into one that govor cannot judge."""
    id_ = metadata.get("license")
    if isinstance(id_, list):
        id_ = id_[0] if len(id_) == 1 else ", ".join(map(str, id_))
    if not id_ or id_ == "unknown":
        return None
    name, link = (metadata.get(f"license_{part}") for part in ("name", "link"))
    return Licence(str(id_).lower(), str(name) if name else None, str(link) if link else None)


def front_matter(text: str) -> dict[str, Any]:
    """The metadata at the head of a model card; empty where there is none that can be read."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        metadata = yaml.load(match[1], BoundedLoader) if match else None
    except (yaml.YAMLError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
