"""Russian word forms: pymorphy3's readings of a word, and every form of a person's name."""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

NAME_TAGS = {"Name", "Surn", "Patr"}


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


ORDINARY = word_set(
    """
    вера надежда любовь роман лев левый марка маркий свет слава роза лилия виктория май поле пол полый рай том тот
    милый миля ген ад жена женить кость петь лук лука март август рад рада сани дань тьма колея коли коль валить
    варить вить витой пахать махать таить таять никой никто любой лить лён лен на улей юла эль тон ларь динар карп
    тихоня софа мир кот сей лад лада златой заря воля эра мина сон мечта радость ангел тема толика
    толь лень сени сено лес леса нате алло пах мишка галка серый
    """
)
"""Everyday words, in their dictionary form, that are spelled like some form of a given name."""


@cache
def _morph() -> Any:
    from pymorphy3 import MorphAnalyzer

    return MorphAnalyzer()


@lru_cache(maxsize=50_000)
def analyse(word: str) -> list[Any]:
    """pymorphy3's readings of a word, the likeliest first."""
    return list(_morph().parse(word.lower()))


def is_known(word: str) -> bool:
    """Whether the dictionary has the word; readings of others are guesses."""
    return bool(_morph().word_is_known(word.lower()))


def is_part_of_speech(word: str, parts: set[str]) -> bool:
    """Whether the likeliest reading of the word is one of these parts of speech."""
    return str(analyse(word)[0].tag.POS) in parts


def is_counted(after: str) -> bool:
    """Whether what follows a number is what it counts: a noun in the genitive, `120 квартир`, `2 аварии`."""
    noun = re.match(r"\s?([а-яё]{3,})(?![\w-])", after.lower())
    return (
        noun is not None
        and "NOUN" in (best := analyse(noun[1])[0].tag)
        and (str(best.case) == "gent" or "Fixd" in best)
    )


def normalize_word(word: str) -> str:
    """The word as words are compared: in lower case, with е for ё."""
    return word.lower().replace("ё", "е")


@lru_cache(maxsize=5_000)
def inflect(word: str, first: bool) -> dict[str, tuple[bool, frozenset[str]]]:
    """Every form of one word of a display name → whether it is an ordinary word too, and the cases it can be.

    Forms stand with ё and without. `first`: the word is the first of the display name.

    The first word of a display name is a name where the dictionary can read it as one or has only oblique cases of
    something else (Толик: of `толика`); a later one (`Саша из работы`) is then an ordinary word.
    """
    word = word.lower()
    if len(word) < 2:
        return {}
    if not re.fullmatch("[а-яё]+", word):
        return {word: (False, frozenset())}
    base = [p for p in analyse(word) if "Fixd" in p.tag or (p.tag.case == "nomn" and p.tag.number != "plur")]
    names = [p for p in base if NAME_TAGS & p.tag.grammemes]
    given = [p for p in names if "Name" in p.tag]
    known = is_known(word)
    if known and not names and not is_part_of_speech(word, {"NOUN", "ADJF"}):
        return {}  # `из`, `мой`
    chosen = given or names or [p for p in base if known and p.tag.POS in ("NOUN", "ADJF")]
    cases: dict[str, set[str]] = {word: {"nomn"}}
    for parse in chosen:
        for form in parse.lexeme:
            another = "Patr" in form.tag and form.tag.gender != parse.tag.gender  # Сергеевич is not Сергеевна
            if not another and (form.tag.number != "plur" or {"Surn", "Patr"} & form.tag.grammemes):
                cases.setdefault(form.word, set()).add(str(form.tag.case))
    for ending, case in endings_of(word, possessive=bool(given), whole=not chosen):
        cases.setdefault(ending, set()).add(case)
    if given and word[-1] in "ая" and len(word) > 3 and word[-2] not in "аеёиоуыэюя":
        called = word[:-1] + ("ь" if word[-1] == "я" else "")
        if called not in cases:
            cases[called] = {"voct"}
    for spelled in [form for form in cases if "ё" in form]:
        cases.setdefault(normalize_word(spelled), set()).update(cases[spelled])
    common = known and not names and (bool(chosen) or not first)
    surname = bool(names) and not given
    return {
        form: (form != "любови" and (common or _is_ordinary(form, of, surname)), frozenset(of))
        for form, of in cases.items()
    }


def _is_ordinary(form: str, cases: set[str], surname: bool) -> bool:
    """Whether a form of a name is an everyday word too: for a given name by the list, for others by the dictionary."""
    if not is_known(form):
        return False
    other = [p for p in analyse(form) if not (NAME_TAGS | {"Geox", "Poss", "Abbr", "ADJS"}) & p.tag.grammemes]
    if surname or cases <= {"voct", "None"}:
        return bool(sum(parse.score for parse in other) > 0.15)
    return any(parse.score > 0.05 and parse.normal_form in ORDINARY and parse.tag.POS != "GRND" for parse in other)


def endings_of(word: str, possessive: bool, whole: bool) -> Iterator[tuple[str, str]]:
    """(form, case) that the dictionary lacks: `Светин …` of a given name; all forms of a name that it does not know."""
    stem, last = word[:-1], word[-1]
    if last in "ая" and (possessive or whole):
        for ending in ("", "а", "о", "ы", "у", "ого", "ому", "ым", "ом", "ой", "ых", "ыми"):
            yield f"{stem}ин{ending}", "None"
    if not whole:
        return
    surname = re.fullmatch("(.{2,}(?:ов|ев|ёв|ин|ын))а?", word)
    if surname:
        for ending in ("", "а", "у", "ым", "е", "ой", "ы", "ых", "ыми"):
            yield surname[1] + ending, "None"
    soft = stem[-1:] in "гкхжшчщ"
    tables = {
        "а": {"gent": "и" if soft else "ы", "datv": "е", "accs": "у", "ablt": "ой ей" if soft else "ой", "voct": " "},
        "я": {"gent": "и", "datv": "и е" if stem.endswith("и") else "е", "accs": "ю", "ablt": "ей", "voct": "ь"},
        "ь": {"gent": "и я", "datv": "и ю", "accs": "я", "ablt": "ью ем"},
        "й": {"gent": "я", "datv": "ю", "ablt": "ем", "loct": "е и"},
    }
    if last in tables:
        for case, endings in tables[last].items():
            yield from ((stem + ending, case) for ending in endings.strip().split(" "))
    elif last not in "аеёиоуыэюя":
        for case, endings in {"gent": "а", "datv": "у", "ablt": "ом ем", "loct": "е"}.items():
            yield from ((word + ending, case) for ending in endings.split(" "))
