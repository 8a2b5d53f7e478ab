"""Reads HTML pages of exports as a stream: elements of one class, one after another, in the memory of one."""

import re
from collections.abc import Iterator
from typing import Any

from train.chats.sources import Sample, Source, open_unpacked
from train.core.errors import GovorError

Element = Any  # lxml has no public name for the type
CHARSET = re.compile(rb"<meta[^>]*charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)


def is_html(sample: Sample) -> bool:
    return (
        sample.start.startswith("<") and re.match(r"<(?:!doctype html|html|head|meta)", sample.start, re.I) is not None
    )


def elements(source: Source, *wanted: str, tag: str | None = None) -> Iterator[Element]:
    """Every element that has one of the classes, when it ends, as it stands; what came before it is forgotten.

    `tag`: that of all of them, which is faster.
    """
    from lxml import etree

    names = frozenset(wanted)
    with open_unpacked(source) as file:
        charset = CHARSET.search(file.read(4096))
        file.seek(0)
        encoding = charset[1].decode().lower() if charset else "utf-8"
        depth = 0
        try:
            events = etree.iterparse(
                file, events=("start", "end"), tag=tag, html=True, encoding=encoding, huge_tree=True
            )
            for event, element in events:
                if not names.intersection((element.get("class") or "").split()):
                    continue
                depth += 1 if event == "start" else -1
                if event == "start" or depth:  # one within another is part of it
                    continue
                yield element
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        except (etree.LxmlError, LookupError) as error:
            raise GovorError(f"{source}: not a whole HTML page: {error}: export it again") from None


def has_class(element: Element, name: str) -> bool:
    return name in (element.get("class") or "").split()


def by_class(element: Element) -> dict[str, list[Element]]:
    """The elements inside, in their order, by class."""
    found: dict[str, list[Element]] = {}
    for inner in element.iterdescendants():
        for name in (inner.get("class") or "").split() if isinstance(inner.tag, str) else ():
            found.setdefault(name, []).append(inner)
    return found


def first(element: Element, name: str) -> Element | None:
    """The first element inside that has the class."""
    return next((inner for inner in element.iterdescendants() if has_class(inner, name)), None)


def text_of_element(element: Element | None, without: str = "") -> str:
    """The text inside, a line break for each <br>, without what has the class `without`."""
    if element is None:
        return ""
    from lxml import etree

    pieces: list[str] = []
    left_out = None
    for event, node in etree.iterwalk(element, events=("start", "end", "comment")):
        if event == "start" and left_out is None:
            if without and has_class(node, without):
                left_out = node
            else:
                pieces.append("\n" if node.tag == "br" else node.text or "")
        elif event != "start":
            left_out = None if node is left_out else left_out
            if left_out is None and node is not element:
                pieces.append(node.tail or "")
    return "".join(pieces).strip()
