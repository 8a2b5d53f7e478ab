"""The base's licence, and whether it lets a changed model be passed on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Of the base's folder: whoever passes its weights on passes these on."""
FREE = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|wtfpl|bsl-1\.0|ms-pl|artistic-2\.0|ecl-2\.0|postgresql|ncsa|afl-3\.0|"
    r"bsd(?:-[23]-clause(?:-clear)?)?|[al]?gpl(?:-[23]\.[01])?|mpl-2\.0|epl-[12]\.0|eupl-1\.[12]|osl-3\.0|ofl-1\.1|"
    r"cc0-1\.0|pddl|odc-by|cc-by(?:-sa)?-[234]\.[05]|cdla-permissive-[12]\.0|c-uda|openmdw(?:-1\.[01])?|"
    r"(?:bigscience-|creativeml-|bigcode-)?openrail(?:\+\+|-m)?|bigscience-bloom-rail-1\.0"
)
CONDITIONS = {
    r"cc-by-nc(?:-sa)?-[234]\.[05]": "no commercial use",
    r"llama[234](?:\.[0-9])?": "its agreement and policy go along, «Built with Llama» stands where it is offered, "
    "its name begins with Llama, and very large companies ask Meta first",
    r"gemma": "Google's terms and list of forbidden uses bind whoever takes it, too",
}
"""May be passed on, and under which conditions."""
NO_CHANGES = re.compile(r"cc-by(?:-nc)?-nd-[234]\.[05]")
TEXTS = {
    "apache-2.0": r"Apache License\s+Version 2\.0",
    "mit": r"Permission is hereby granted, free of charge, to any person obtaining a copy",
    "cc0-1.0": r"CC0 1\.0 Universal",
    "cc-by-nc-4.0": r"Attribution-NonCommercial 4\.0 International",
    "cc-by-4.0": r"Attribution 4\.0 International",
    "gemma": r"Gemma Terms of Use",
}
LLAMA = re.compile(r"LLAMA ([234](?:\.[0-9])?) (?:VERSION [^\n]{0,40})?COMMUNITY LICENSE", re.IGNORECASE)


class Licence(NamedTuple):
    id: str
    """As the Hub writes it: apache-2.0, cc-by-nc-4.0, other, …"""
    name: str | None = None
    """Of a licence that the Hub calls `other`."""
    link: str | None = None

    def __str__(self) -> str:
        return f"{self.name or self.id}" + (f" ({self.link})" if self.link else "")

    @property
    def condition(self) -> str | None:
        """What to heed when the model is passed on."""
        return next((said for pattern, said in CONDITIONS.items() if re.fullmatch(pattern, self.id)), None)

    @property
    def objection(self) -> str | None:
        """Why the model may not be passed on, as far as govor knows."""
        if FREE.fullmatch(self.id) or self.condition:
            return None
        if NO_CHANGES.fullmatch(self.id):
            return f"{self} forbids passing on a changed model"
        return f"{self} is not one that govor knows: read whether it lets a tuned model be passed on"


def licence_beside(base: Path) -> Licence | None:
    """Of a model folder: its card's metadata, else the wording of its licence file; None where neither tells."""
    card = base / "README.md"
    if card.is_file():
        found = licence_of_card(front_matter(card.read_text(encoding="utf-8", errors="replace")))
        if found:
            return found
    for file in sorted(file for pattern in LICENCE_FILES[:2] for file in base.glob(pattern) if file.is_file()):
        text = file.read_text(encoding="utf-8", errors="replace")
        if llama := LLAMA.search(text):
            return Licence(f"llama{llama[1]}")
        for name, wording in TEXTS.items():
            if re.search(wording, text):
                return Licence(name)
    return None


def licence_of_card(metadata: Mapping[str, Any]) -> Licence | None:
    """Of a model card's metadata; a list of several is none that govor can judge."""
    found = metadata.get("license")
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else ", ".join(map(str, found))
    if not found or found == "unknown":
        return None
    name, link = (metadata.get(f"license_{part}") for part in ("name", "link"))
    return Licence(str(found).lower(), str(name) if name else None, str(link) if link else None)


def front_matter(text: str) -> dict[str, Any]:
    """The metadata at the head of a model card; empty where there is none that can be read."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
