"""Invented names for real ones: of the same gender and in the same grammatical form, one for each person of a chat.

A diminutive becomes a diminutive: `Леночке` → `Ирочке`, `димон` → `колян`. What is typed in Latin letters stays so.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from train.chats.privacy.given_names import is_given, rows_of, to_cyrillic, to_latin
from train.chats.privacy.morphology import analyse, inflect, is_known, normalize_word
from train.chats.privacy.names import WORD, NameForm


class Given(NamedTuple):
    """An invented given name, as it is said formally, among friends, tenderly, and roughly."""

    full: str
    short: str
    tender: str
    rough: str
    man: str = ""
    """A diminutive that ends in a consonant, as many of men do."""


def _names(table: str) -> list[Given]:
    return [Given(*line.split()) for line in table.strip().splitlines()]


NAMES = {
    "woman": _names(
        """
        ирина ира ирочка ирка
        ольга оля оленька олька
        татьяна таня танечка танька
        людмила люда людочка людка
        екатерина катя катенька катька
        галина галя галочка галька
        анна аня анечка анька
        зинаида зина зиночка зинка
        """
    ),
    "woman in -ия": _names(
        """
        юлия юля юленька юлька
        мария маша машенька машка
        анастасия настя настенька настька
        виктория вика викуся вичка
        лидия лида лидочка лидка
        валерия лера лерочка лерка
        """
    ),
    "man": _names(
        """
        николай коля коленька колька колян
        павел паша пашенька пашка павлик
        владимир вова вовочка вовка вован
        юрий юра юрочка юрка юрик
        анатолий толя толенька толька толик
        борис боря боренька борька борис
        михаил миша мишенька мишка мишаня
        виктор витя витенька витька витёк
        """
    ),
    "man in -а": _names(
        """
        илья илюша илюшенька илюшка илюшик
        никита никита никитка никитка никитос
        """
    ),
    "either": _names(
        """
        женя женя женечка женька жендос
        валя валя валечка валька валик
        саша саша сашенька сашка шурик
        """
    ),
}
"""By gender and declension: forms that sound alike in one (`Марии`, of three cases) are alike in the other too."""
SURNAMES = ("соколов", "морозов", "лебедев", "панин", "егоров", "зуев", "гусев", "тихонов", "фомин", "белов")
ADJECTIVES = ("раевск", "сосновск", "левитск", "вишневск")
CONSONANTS = ("ковальчук", "савчук", "мельник", "кравчук")
UNCHANGING = ("бондаренко", "ткаченко", "савченко", "кравченко")
PATRONYMICS = ("андреев", "николаев", "сергеев", "алексеев", "павлов")
CASES = ("nomn", "gent", "datv", "accs", "ablt", "loct", "voct")


class Person(NamedTuple):
    """Who stands for somebody in one chat."""

    given: Given
    number: int
    """By which the surname and the patronymic are chosen."""

    def __str__(self) -> str:
        return self.given.full.capitalize()


class InventedNames:
    """The invented persons of one chat."""

    def __init__(self, is_taken: Callable[[str], bool]) -> None:
        """`is_taken`: whether a word, in lower case, already names somebody in the chat."""
        self._is_taken = is_taken
        self._persons: dict[str, Person] = {}

    def person(self, name: str) -> Person:
        """The invented person for a display name."""
        if name not in self._persons:
            used = {person.given for person in self._persons.values()}
            group = NAMES[_group(name)]
            free = [given for given in group if not any(map(self._is_taken, given))]
            unused = [given for given in free if given not in used]
            others = [given for given in group if given.full not in name.lower()]
            known = unused or free or others  # in a chat of many people several get one name
            self._persons[name] = Person(known[0 if unused else len(used) % len(known)], len(self._persons))
        return self._persons[name]

    def replace(self, name: str, written: str, form_of: Callable[[str], NameForm | None]) -> str:
        """The invented words for what was written of a person; `form_of` tells what each word is a form of."""
        person = self.person(name)

        def replaced(match: re.Match[str]) -> str:
            form = form_of(match[0])
            return match[0] if form is None else self._word(person, match[0], form)

        return WORD.sub(replaced, written)

    def _word(self, person: Person, written: str, form: NameForm) -> str:
        latin = written.isascii()
        original = to_cyrillic(written) or written.lower() if latin else written.lower()
        base = (to_cyrillic(form.word) or form.word) if form.word.isascii() else form.word
        if form.part == "patronymic":
            word = _swapped(original, "(?:[её]?в|и)(ич|н)", self._free(PATRONYMICS, person))
        elif form.part == "surname":
            word = self._surname(person, original, base)
        else:
            word = _inflected(_like(person.given, base), original, form, person.given)
        word = to_latin(word) if latin else word
        return (
            word.upper()
            if written.isupper() and len(written) > 1
            else word.capitalize()
            if written[0].isupper()
            else word
        )

    def _surname(self, person: Person, original: str, base: str) -> str:
        """A surname with the ending of the original: its stem alone is another."""
        stem = re.match(r"(.*(?:ов|ев|ёв|ин|ын))а?$", base)
        if stem:
            return self._free(SURNAMES, person) + original[len(stem[1]) :]
        stem = re.match(r"(.*(?:ск|цк))(?:ий|ой|ая)$", base)
        if stem:
            return self._free(ADJECTIVES, person) + original[len(stem[1]) :]
        if base[-1] in "аяеёиоуыэю" or base.endswith(("ых", "их")):
            return self._free(UNCHANGING, person)
        return self._free(CONSONANTS, person) + (original[len(base) :] if original.startswith(base) else "")

    def _free(self, stems: tuple[str, ...], person: Person) -> str:
        endings = ("", "а", "ий", "ая", "ич", "на")
        free = [stem for stem in stems if not any(self._is_taken(stem + ending) for ending in endings)] or stems
        return free[person.number % len(free)]


def _group(name: str) -> str:
    """In which of NAMES to look for somebody with this display name."""
    words = [to_cyrillic(word) or word.lower() if word.isascii() else word.lower() for word in WORD.findall(name)]
    given = next((word for word in words if is_given(word)), words[0] if words else "")
    rows = rows_of(given)
    women = {row.woman for row in rows}
    if len(women) != 1:
        rest = [word for word in words if word != given]
        women = {w for w in (_is_woman(word) for word in rest) if w is not None} or _by_dictionary(given)
    if women == {True, False}:
        return "either"
    full = normalize_word(rows[0].full if rows else given)
    if True in women:
        return "woman in -ия" if full.endswith("ия") else "woman"
    return "man in -а" if full in ("илья", "никита", "кузьма", "фома", "савва", "лука") else "man"


def _is_woman(word: str) -> bool | None:
    """What a surname or patronymic says of its bearer's gender; None where it says nothing."""
    if re.search(r"(?:ова|ева|ёва|ина|ына|ая|вна|ична)$", word):
        return True
    return False if re.search(r"(?:ов|ев|ёв|ин|ын|ий|ой|ич)$", word) else None


def _by_dictionary(given: str) -> set[bool]:
    """Whether the dictionary, or the ending, has it for a woman's name, a man's, or either."""
    names = [parse for parse in analyse(given) if {"Name", "nomn"} <= parse.tag.grammemes] if is_known(given) else []
    genders = {str(parse.tag.gender) for parse in names} or {"femn" if given[-1:] in ("а", "я") else "masc"}
    return {True, False} if "None" in genders or "ms-f" in genders else {gender == "femn" for gender in genders}


def _like(invented: Given, base: str) -> str:
    """That form of the invented name which is to it what the base is to the real one."""
    rows = rows_of(base)
    if rows and normalize_word(rows[0].full) == normalize_word(base):
        return invented.full
    if not rows and is_known(base) and is_given(base):
        return invented.full
    if base[-1:] not in ("а", "я"):
        return invented.man or invented.short
    if re.search(r"(?:[ое]чка|енька|онька|[ую]ша|[ую]ля|[ую]ся|ушка|юшка)$", base):
        return invented.tender
    return invented.rough if base.endswith(("ка", "ха")) else invented.short


def _inflected(word: str, original: str, form: NameForm, invented: Given) -> str:
    """The word in the grammatical form that the original has."""
    cases = [case for case in CASES if case in form.cases]
    if not cases:
        possessive = re.search(r"ин(?:а|о|ы|у|ого|ому|ым|ом|ой|ых|ыми)?$", original)
        return invented.short[:-1] + possessive[0] if possessive else word
    forms = inflect(word, first=True)
    alike = [each for each, (_, own) in forms.items() if cases[0] in own and not each.endswith(("ою", "ею"))]
    return next((each for each in alike if "ё" in each), alike[0] if alike else word)


def _swapped(original: str, joint: str, stem: str) -> str:
    """The original with another stem before the joint of stem and ending."""
    match = re.search(rf"{joint}\w*$", original)
    return stem + original[match.start(1) :] if match else original
