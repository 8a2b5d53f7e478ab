"""Given names and what people make of them: which words name one person, in Cyrillic and in Latin letters."""

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from train.chats.privacy.morphology import analyse, endings_of, is_known, normalize_word
from train.core.latin import LATIN as TO_LATIN


class GivenName(NamedTuple):
    """A row of diminutives.yaml."""

    full: str
    """In lower case."""
    woman: bool
    diminutives: tuple[str, ...]


@cache
def _rows_by_word() -> dict[str, list[GivenName]]:
    """Every name and diminutive → the rows that it stands in, with е for ё."""
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("diminutives.yaml").read_text(encoding="utf-8"))
    rows: dict[str, list[GivenName]] = {}
    for group, names in table.items():
        for full, words in names.items():
            row = GivenName(full.lower(), group == "women", tuple(dict.fromkeys(words.split())))
            for word in dict.fromkeys([row.full, *row.diminutives]):
                own = rows.setdefault(normalize_word(word), [])
                own.insert(0, row) if word == row.full else own.append(row)
    return rows


def rows_of(word: str) -> list[GivenName]:
    """The names that a word is or is short for; of one that is a name itself, that one alone."""
    rows = _rows_by_word().get(normalize_word(word), [])
    return rows[:1] if rows and normalize_word(rows[0].full) == normalize_word(word) else rows


def other_words_for(word: str) -> list[str]:
    """What else the person is called whose name or diminutive this is: Елена → лена, леночка, …; Лена → елена, …"""
    own = normalize_word(word)
    words = [each for row in rows_of(word) for each in (row.full, *row.diminutives)]
    return list(dict.fromkeys(each for each in words if normalize_word(each) != own))


TENDER = (
    "{u}ся {u}ська {u}сик {u}сенька {u}ля {u}лька {u}ленька {u}лечка {u}лёк {u}ня {u}нька {u}нчик {u}ша "
    "{u}шка {u}шенька {u}ха {u}шечка"
)
ROUGH = "ик чик {k}чик {u}шик {a}н {a}нчик {a}с {a}сик ос он ыч {o}нок {k}ка {e}чка {e}ньк{ja} ища"
"""Endings of diminutives after the stem of a short name: `лен-уся`, `дим-он`; letters in braces are softened."""


@lru_cache(maxsize=2_000)
def tender_forms(word: str) -> tuple[tuple[str, str, frozenset[str]], ...]:
    """(form, diminutive, cases) by rule for what the table lacks: Мария → манюня, манюней, …; Дмитрий → димасик.

    Only of names that the table has, and no form that the dictionary knows as a word (катушка, томик).
    """
    found: dict[str, tuple[str, set[str]]] = {}
    for row in rows_of(word):
        short = [
            each
            for each in row.diminutives
            if re.fullmatch("[а-яё]{2,4}[ая]", each) and not re.search("[кшх]а$|ся$", each[2:])
        ]
        for base in dict.fromkeys(
            [
                *short[:3],
                *(
                    each
                    for each in row.diminutives
                    if each in ("маша", "паша", "саша", "даша", "миша", "гоша", "лёша", "наташа", "андрюша")
                ),
            ]
        ):
            soft = base.endswith("я")
            letters = (
                {"u": "ю", "a": "я", "o": "ё", "k": "ь", "e": "е", "ja": "а"}
                if soft
                else {"u": "у", "a": "а", "o": "о", "k": "", "e": "о", "ja": "а"}
            )
            for ending in f"{TENDER} {ROUGH}".split():
                made = base[:-1] + ending.format(**letters)
                if is_known(made):
                    continue
                for form, case in [(made, "nomn"), *endings_of(made, possessive=False, whole=True)]:
                    if case != "None" and not is_known(form):
                        found.setdefault(normalize_word(form), (made, set()))[1].add(case)
    return tuple((form, made, frozenset(cases)) for form, (made, cases) in found.items())


def is_patronymic(word: str) -> bool:
    """Whether the word is a father's name: Сергеевна, Ильич."""
    return bool(re.search(r"(?:[ое]вич|ильич|[ое]вна|ична)$", word.lower()))


def is_given(word: str) -> bool:
    """Whether the table or the dictionary has the word as a given name."""
    return bool(rows_of(word)) or any({"Name", "nomn"} <= parse.tag.grammemes for parse in analyse(word))


LETTERS = {
    "shch": "щ", "sch": "щ", "sh": "ш", "ch": "ч", "zh": "ж", "kh": "х", "ts": "ц", "ya": "я", "ia": "я", "ja": "я",
    "yu": "ю", "iu": "ю", "ju": "ю", "yo": "е", "jo": "е", "ye": "е", "ie": "е", "ck": "к", "ph": "ф", "th": "т",
    "x": "кс", "a": "а", "b": "б", "v": "в", "w": "в", "g": "г", "d": "д", "e": "е", "z": "з", "i": "и", "y": "и",
    "j": "и", "k": "к", "c": "к", "q": "к", "l": "л", "m": "м", "n": "н", "o": "о", "p": "п", "r": "р", "s": "с",
    "t": "т", "u": "у", "f": "ф", "h": "х", "'": "",
}  # fmt: skip
"""Latin letters, the longest first → what they stand for, ё, й and ы as е and и."""
LATIN = re.compile("|".join(LETTERS))


@lru_cache(maxsize=50_000)
def sounds(word: str) -> str:
    """A key that is equal for a name in Cyrillic and in any usual spelling with Latin letters: юлия, Julia, yuliya."""
    word = LATIN.sub(lambda match: LETTERS[match[0]], word.lower()) if word.isascii() else normalize_word(word)
    for letters, plain in (("й", "и"), ("ы", "и"), ("ь", ""), ("ъ", ""), ("э", "е"), ("ия", "я"), ("иа", "я")):
        word = word.replace(letters, plain)
    return re.sub("(.)\\1+", "\\1", word)


def to_latin(word: str) -> str:
    """The word as it is typed on a keyboard without Cyrillic letters."""
    return "".join(TO_LATIN.get(letter, letter) for letter in word.lower())


@cache
def _by_sound() -> dict[str, str]:
    return {sounds(word): word for word in reversed(list(_rows_by_word()))}


def to_cyrillic(word: str) -> str | None:
    """The name of the table that a word in Latin letters is, or a surname by its ending; None for any other."""
    name = _by_sound().get(sounds(word))
    if (
        name is None
        and re.search(r"(?:[oe]v|in|sk(?:iy|y|ii|i)|ova|eva|ina|skaya|enko|chuk)$", word.lower())
        and len(word) > 4
    ):
        name = LATIN.sub(lambda match: LETTERS[match[0]], word.lower())
        name = re.sub(r"ски{1,2}$", "ский", name)
    return name
