"""Finds the given persons' names in a text: every form and diminutive, any letter case, Latin letters too.

Most names are replaced wherever they stand. A form that is an ordinary word too (Вера, Роман, Света: `света`; surnames
such as Кузнецов; any word of a display name that is no name, as in `Саша Работа`) counts as the person only where the
text shows it. It is capitalised within a sentence; or it stands at a sentence start or in lower case, and

- it is addressed: `Света, привет`, `спасибо, вера!`, `привет роман`;
- a word of kin or trade agrees with it (`тётя надежда`), a surname or patronymic follows, a participant is next to it;
- it does what people do (`Роман сказал`), or is told or given something (`передай свете`);
- it is capitalised and alone on its line, as a signature is.
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from train.chats.privacy.given_names import (
    is_given,
    is_patronymic,
    other_words_for,
    rows_of,
    sounds,
    tender_forms,
    to_cyrillic,
)
from train.chats.privacy.morphology import analyse, inflect, is_known, is_part_of_speech, normalize_word, word_set

WORD = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_])")
PLACEHOLDER_FILL = "\ue000"
"""Stands in for the characters of a placeholder while a text is searched."""
KIN_AND_TRADES = word_set(
    """
    тётя дядя баба бабушка дед дедушка сестра сестрёнка брат подруга подружка друг муж жена дочь дочка сын сынок
    коллега мама папа мать отец начальник начальница сосед соседка врач доктор тренер учитель учительница няня внук
    внучка племянник племянница кум кума свекровь тёща зять невестка одноклассник одноклассница менеджер мастер
    """
)
ACTION_VERBS = word_set(
    """
    сказать говорить писать написать звонить позвонить перезвонить приехать уехать спросить спрашивать ответить
    отвечать думать просить попросить обещать пообещать хотеть забрать купить прислать скинуть забыть обидеться
    обижаться заболеть болеть опоздать опаздывать родить жениться устать согласиться рассказать рассказывать
    работать молчать плакать смеяться знать заехать зайти улететь переехать уволиться предложить напомнить объяснить
    шутить пошутить придумать
    """
)
"""Verbs whose subject is a person: love (любовь), faith (вера) or a novel (роман) seldom does any of this."""
SPEECH_VERBS = word_set(
    """
    сказать говорить звонить позвонить перезвонить приехать уехать спросить ответить зайти заехать
    """
)
"""Action verbs without an object: the name may follow them (`сказала вера`, not `написал роман`)."""
TELLING_VERBS = word_set(
    """
    позвонить звонить написать писать передать сказать отдать ответить скинуть отправить напомнить перезвонить
    подарить объяснить рассказать переслать вернуть помочь показать показывать дать давать купить принести подсказать
    отвезти занести доверить выдать оставить перевести кинуть отнести вручить скидывать объявить намекнуть поручить
    """
)
DEALING_VERBS = word_set(
    """
    спросить спрашивать узнать уточнить взять попросить поговорить говорить договориться обсудить созвониться
    встретиться
    увидеться связаться списаться познакомиться забрать позвать пригласить подождать ждать дождаться видеть увидеть
    встретить поздравить поздравлять найти подвезти предупредить разбудить обнять слушать спрятать простить благодарить
    """
)
"""What is done with a person: `у льва спроси`, `поговори со львом`, `поздравь любовь`."""
NEEDS = word_set(
    "нужен нужна нужно нужны надо пора плохо некогда исполнилось исполняется звонили сказали передали выдали"
)
"""`Любови нужен отпуск`."""
CALLS_TO = word_set(
    """
    глянь смотри посмотри скинь скажи позвони набери дай пришли приезжай приходи напиши ответь подожди зайди помоги
    слушай
    привет иди забери купи перезвони ты тебе тебя у где когда как почему зачем спасибо извини прости давай поехали го
    подойди выйди открой возьми спишь проснись выручай скинешь сможешь можешь поможешь придешь придёшь будешь будь ау
    """
)
"""What follows a name with which somebody is called, without a comma: `маш глянь личку`."""
RULER_AFTER = re.compile(
    r" (?:[IVX]{1,4}(?!\w)|(?P<rank>(?:перв|втор|треть|четв[её]рт|велик|грозн|"
    r"невск)[а-яё]{2,3})(?!\w)(?: (?P<counted>[а-яё]+))?)",
    re.IGNORECASE,
)
RULER_BEFORE = re.compile(
    r"(?<!\w)(?:цар[ьяюеи]|цариц|княз|княгин|княжн|император|императриц|апостол|свят[оыа]|королев|пророк|икон|"
    r"преподобн|святител)[а-яё]{0,4} $",
    re.IGNORECASE,
)
"""What makes a name one of history or of the church: `пётр первый`, `царь пётр`."""
GREETINGS = word_set(
    """
    привет приветик здравствуй здравствуйте спасибо спс пасиб пока алло эй хай салют дорогая дорогой милая милый
    уважаемая уважаемый благодарю извини прости слушай зовут звать
    """
)
NOT_AFTER_ADDRESS = word_set(
    """
    что чтобы как и но или это то она он оно они ведь потому
    """
)


FAMOUS = word_set("ленин ленина ленину ленине лениным")
"""Forms of a name (Лена: `ленин дом`) that rather name somebody of whom streets and squares have their names."""
Part = Literal["given", "patronymic", "surname", "other"]
"""What a word of a display name is; `other` where it is none of these, as in `Саша Работа`."""


class NameForm(NamedTuple):
    """One way in which an inflected word can name a person."""

    person: int
    """Index of the display name in `NameFinder.persons`."""
    ordinary: bool
    """Whether the form is an everyday word too."""
    cases: frozenset[str]
    """Grammatical cases that the form can be, as pymorphy3 names them."""
    word: str
    """The word, in lower case, that this is a form of."""
    part: Part


class NameSpan(NamedTuple):
    """Where a name stands in a text, and the index of its person."""

    start: int
    end: int
    person: int


class NameFinder:
    """Finds the persons' names in all their forms, apart from the forms of the names in `keep`."""

    def __init__(self, names: Iterable[str], keep: Iterable[str], *, others: bool = True) -> None:
        """`others`: also find words of display names that are no names, such as `Работа`."""
        self.persons = list(dict.fromkeys(name.strip() for name in names if name.strip()))
        self.forms: dict[str, list[NameForm]] = {}
        self.by_sound: dict[str, list[NameForm]] = {}
        """The same, by the sound of the forms that are long enough to be known in Latin letters."""
        self.kept = {form for name in keep for form, _ in _forms_of_name(name)}
        for person, name in enumerate(self.persons):
            for form, found in _forms_of_name(name):
                found = found._replace(person=person)
                if form not in self.kept and (others or found.part != "other"):
                    self._add(self.forms, form, found)
                    if len(form) > 3 and not form.isascii() and not found.cases <= {"voct", "None"}:
                        self._add(self.by_sound, sounds(form), found._replace(ordinary=False))

    @staticmethod
    def _add(forms: dict[str, list[NameForm]], key: str, form: NameForm) -> None:
        known = forms.setdefault(key, [])
        if not any(other.person == form.person for other in known):
            known.append(form)

    def find(self, text: str) -> list[NameSpan]:
        """Names in the order of the text; neighbouring words of one person are one name."""
        if not self.forms:
            return []
        matches = [match for match in WORD.finditer(text) if self.forms_of(match[0])]
        matches = [
            m for m in matches if not (_is_half_of_a_word(text, m) or _has_an_object(text, m) or _is_a_ruler(text, m))
        ]
        sure = {match.start() for match in matches if not all(form.ordinary for form in self.forms_of(match[0]))}
        ends = {match.end() for match in matches if match.start() in sure}
        unsure = [Context(text, match, self.forms_of(match[0])) for match in matches if match.start() not in sure]
        for context in [*unsure, *reversed(unsure)]:  # and back: `Вера и Надежда` is decided by its second word
            if context.match.start() not in sure and (
                context.follows(ends) or context.precedes(sure) or context.shows_a_person
            ):
                sure.add(context.match.start())
                ends.add(context.match.end())
        return self._joined(text, [match for match in matches if match.start() in sure])

    def forms_of(self, word: str) -> list[NameForm]:
        """The name forms that the word can be: as it is spelled, else with е for ё, else as it sounds."""
        word = word.lower()
        found = self.forms.get(word)
        if found is None and "ё" in word:
            found = self.forms.get(normalize_word(word))
        if found is None and word.isascii() and len(word) > 3:
            found = self.by_sound.get(sounds(word))
        return found or []

    def _joined(self, text: str, matches: list[re.Match[str]]) -> list[NameSpan]:
        spans: list[tuple[int, int, list[int]]] = []
        for match in matches:
            persons = list(dict.fromkeys(form.person for form in self.forms_of(match[0])))
            if spans and re.fullmatch("[ \u00a0_-]", text[spans[-1][1] : match.start()]):
                start, _, before = spans[-1]
                both = [person for person in before if person in persons]
                if both:
                    spans[-1] = (start, match.end(), both)
                    continue
            spans.append((match.start(), match.end(), persons))
        return [NameSpan(start, end, persons[0]) for start, end, persons in spans]


@lru_cache(maxsize=10_000)
def _forms_of_name(name: str) -> list[tuple[str, NameForm]]:
    """Every form of a display name's words, and of the diminutives that its given name has; `person` is left at 0."""
    forms = []
    words = WORD.findall(name)
    for position, written in enumerate(words):
        word = written.lower()
        known = to_cyrillic(word) if word.isascii() else None
        part = _part_of(known or word, [w.lower() for at, w in enumerate(words) if at != position])
        names = [word, *([known] if known else [])]
        if part == "given":
            names += [other for other in other_words_for(known or word) if other != word]
        for each in dict.fromkeys(names):
            inflected = inflect(each, first=position == 0 or each != word)
            forms += [
                (form, NameForm(0, common, cases, each, part))
                for form, (common, cases) in inflected.items()
                if form not in FAMOUS
            ]
    if any(form.part == "given" for _, form in forms):
        known_forms = {form for form, _ in forms}
        given = next(form.word for _, form in forms if form.part == "given")
        forms += [
            (form, NameForm(0, False, cases, word, "given"))
            for form, word, cases in tender_forms(given)
            if form not in known_forms
        ]
    return forms


def _part_of(word: str, others: list[str]) -> Part:
    """What the word is among the `others` before and after it in a display name."""
    beside_given = any(rows_of(other) or (other.isascii() and to_cyrillic(other)) for other in others)
    if is_patronymic(word):
        return "patronymic"
    if is_given(word) and not (others and _is_surname(word)) and (rows_of(word) or not beside_given):
        return "given"
    readings = analyse(word) if not word.isascii() else []
    if any("Surn" in parse.tag for parse in readings):
        return "surname"
    if is_known(word) and not word.isascii():
        person = any({"anim", "nomn"} <= p.tag.grammemes or p.tag.POS == "ADJF" for p in readings)
        return "surname" if beside_given and person and readings[0].normal_form not in KIN_AND_TRADES else "other"
    return "surname" if others and beside_given else "given" if not others else "other"


def _is_surname(word: str) -> bool:
    return bool(re.search(r"(?:[ое]в|ин|[сц]к[иая]{2})а?$", word)) and not rows_of(word)


class Context:
    """What stands around a word that may be a name."""

    def __init__(self, text: str, match: re.Match[str], forms: list[NameForm]) -> None:
        self.text, self.match = text, match
        self.cases = frozenset().union(*(form.cases for form in forms))
        before = text[max(0, match.start() - 60) : match.start()].replace(PLACEHOLDER_FILL, "x")
        after = text[match.end() : match.end() + 60].replace(PLACEHOLDER_FILL, "x")
        self.before = re.findall(r"(\w+)(\W*)", before)[::-1]
        """(word, what stands between it and the next), the nearest first."""
        self.after = re.findall(r"(\W*)(\w+)", after)
        """(what stands before it, word)."""
        self.gap_before = self.before[0][1] if self.before else None
        self.gap_after = re.split(r"\w", after, maxsplit=1)[0]

    def follows(self, ends: set[int]) -> bool:
        """Whether a participant's name (one of the `ends`) stands directly before it, or before `и`: `Оля и вера`."""
        start = self.match.start()
        link = re.search(r"(?:\s| (?:и|с|со) )$", self.text[max(0, start - 4) : start])
        return link is not None and start - len(link[0]) in ends

    def precedes(self, starts: set[int]) -> bool:
        """Whether a participant's name (one of the `starts`) stands directly after it, or after `и`."""
        link = re.match(r" (?:(?:и|с|со) )?", self.text[self.match.end() : self.match.end() + 4])
        return link is not None and self.match.end() + len(link[0]) in starts

    @cached_property
    def shows_a_person(self) -> bool:
        """Whether the text around the word shows that it names a person."""
        capital = self._is_capitalised()
        return (
            (capital and not self._begins_sentence())
            or (capital and self._is_alone_on_its_line())
            or self._is_addressed()
            or self._is_named_in_full()
            or self._acts()
            or self._is_told()
            or self._is_dealt_with()
            or self._is_called()
        )

    def _is_capitalised(self) -> bool:
        """Whether it has a capital letter that means something: in a text all in capitals none does."""
        word = self.match[0]
        if not word[0].isupper() or not word.isupper() or len(word) == 1:
            return word[0].isupper()
        neighbours = [other for other, _ in self.before[:2]] + [other for _, other in self.after[:2]]
        return not any(len(other) > 1 and other.isupper() for other in neighbours)

    def _begins_sentence(self) -> bool:
        gap = self.gap_before
        return gap is None or bool(re.search(r"[^\s,«\"'/–—-]|\n", gap))

    def _is_alone_on_its_line(self) -> bool:
        start = self.text.rfind("\n", 0, self.match.start()) + 1
        line = self.text[start:].split("\n", 1)[0] if self.match.start() - start < 20 else ""
        return line.strip(" \t\r,.—–-") == self.match[0]

    def _is_addressed(self) -> bool:
        if not self.cases & {"nomn", "voct"}:
            return False
        word, gap = self.before[0] if self.before else ("", "\n")
        if word.lower() in GREETINGS and gap.strip(" ,") == "":
            return True
        ends = not self.after or bool(re.match(r"\s?[^\s\w—–-]|\n", self.gap_after))
        opens = self._begins_sentence() and self.gap_after.startswith(",")
        within = (
            "," in gap
            and not self._begins_sentence()
            and ends
            and word.lower() != "о"
            and not is_part_of_speech(word, {"NOUN", "ADJF"})
        )
        return (opens or within) and not self._begins_a_list()

    def _begins_a_list(self) -> bool:
        """Whether the comma after it is no sign of an address: `Вера, надежда, любовь`, `роман, который`."""
        if not self.gap_after.startswith(",") or not self.after:
            return False
        word = self.after[0][1]
        if word.lower().startswith("котор") or word.lower() in NOT_AFTER_ADDRESS:
            return True
        next_gap = self.after[1][0] if len(self.after) > 1 else ""
        return is_part_of_speech(word, {"NOUN"}) and word.lower() not in GREETINGS and next_gap != " "

    def _is_named_in_full(self) -> bool:
        """Whether kin, a trade, a surname or a patronymic is next to it: `тётя надежда`, `вера павловна`."""
        if self.before and self.gap_before == " ":
            kin = [parse for parse in analyse(self.before[0][0]) if parse.normal_form in KIN_AND_TRADES]
            if any(parse.tag.case in self.cases for parse in kin):
                return True
        if self.after and self.gap_after == " ":
            best = analyse(self.after[0][1])[0]
            return "Patr" in best.tag or ("Surn" in best.tag and best.tag.case in self.cases - {"gent"})
        return False

    def _acts(self) -> bool:
        """Whether it is the subject of an action verb: `Роман сказал`, `сказала вера`."""
        if "nomn" not in self.cases:
            return False
        free = self._begins_sentence() or "," in (self.gap_before or "")
        if free or is_part_of_speech(self.before[0][0], {"CONJ", "ADVB", "PRCL", "INTJ"}):
            after = [word for gap, word in self.after[:2] if gap == " "]
            is_between = len(after) == 2 and is_part_of_speech(after[0], {"ADVB", "PRCL", "NPRO"})
            if is_between and not _is_predicate(after[0], ACTION_VERBS):
                after = after[1:]
            if after and _is_predicate(after[0], ACTION_VERBS):
                return True
        return bool(self.before) and self.gap_before == " " and _is_predicate(self.before[0][0], SPEECH_VERBS)

    def _is_told(self) -> bool:
        """Whether a verb of telling or giving is next to it, a pronoun or adverb may be between: `передай свете`."""
        if "datv" not in self.cases:
            return False
        if self.after and self.gap_after == " " and self.after[0][1].lower() in NEEDS and self.match[0][0].isupper():
            return True
        if self.after and self.gap_after == " ":
            requests = [parse for parse in analyse(self.after[0][1]) if {"impr", "INFN"} & parse.tag.grammemes]
            if any(parse.normal_form in TELLING_VERBS for parse in requests):
                return True
        if self.gap_before != " ":
            return False
        before = [word for word, gap in self.before[:2] if gap == " "]
        if len(before) == 2 and is_part_of_speech(before[0], {"NPRO", "ADVB", "PRCL"}):
            before = before[1:]
        return any(parse.normal_form in TELLING_VERBS for parse in analyse(before[0]))

    def _is_dealt_with(self) -> bool:
        """Whether a verb of dealing with somebody is next to it, a preposition may be between: `у льва спроси`."""
        if not self.cases & {"gent", "accs", "ablt"}:
            return False
        before = [word for word, gap in self.before[:2] if gap == " "] if self.gap_before == " " else []
        preposition = bool(before) and before[0].lower() in ("у", "с", "со", "от", "про", "за", "без")
        verb = before[1:] if preposition else before
        after = [self.after[0][1]] if self.after and self.gap_after == " " else []
        requests = [parse for word in verb[:1] + after for parse in analyse(word) if parse.tag.POS in ("VERB", "INFN")]
        if not preposition:
            requests = [parse for parse in requests if "impr" in parse.tag and "accs" in self.cases]
        return any(parse.normal_form in DEALING_VERBS for parse in requests)

    def _is_called(self) -> bool:
        """Whether it is a shortened form that somebody is called by: `маш глянь личку`, `лен ты где`."""
        if not self.cases <= {"voct", "None"} or not self._begins_sentence() or self.gap_after != " " or not self.after:
            return False
        return self.after[0][1].lower() in CALLS_TO


def _is_a_ruler(text: str, match: re.Match[str]) -> bool:
    """Whether the match names somebody of history: `при петре первом`, `царь пётр`, not `саша второй раз звонит`."""
    if RULER_BEFORE.search(text, max(0, match.start() - 20), match.start()):
        return True
    after = RULER_AFTER.match(text, match.end())
    if not after or (rows_of(match[0]) and match[0].lower() not in {row.full for row in rows_of(match[0])}):
        return False
    counts = after["counted"] and is_part_of_speech(after["counted"], {"NOUN"}) and not after["rank"][0].isupper()
    return not counts


def _is_predicate(word: str, verbs: frozenset[str]) -> bool:
    """Whether the word is a verb that a name can be the subject of: `пишет`, `писал`, not `пишу`."""
    verbs_read = [parse for parse in analyse(word) if parse.tag.POS == "VERB" and parse.normal_form in verbs]
    return any(parse.tag.tense == "past" or parse.tag.person == "3per" for parse in verbs_read)


def _has_an_object(text: str, match: re.Match[str]) -> bool:
    """Whether the match is a verb with its object, not a name: `катя тележку`."""
    if not match[0].islower() or not any(parse.tag.POS == "GRND" for parse in analyse(match[0])):
        return False
    after = re.match(r" (?:перед собой )?([а-яё]{3,})", text[match.end() : match.end() + 30])
    return after is not None and {parse.tag.case for parse in analyse(after[1])} == {"accs"}


def _is_half_of_a_word(text: str, match: re.Match[str]) -> bool:
    """Whether the match is a part of a hyphenated word of the dictionary: `иван-чай`."""
    start, end = match.span()
    if text[start - 1 : start] != "-" and text[end : end + 1] != "-":
        return False
    before = re.split(r"[^\w-]", text[max(0, start - 20) : start])[-1]
    after = re.split(r"[^\w-]", text[start : end + 20], maxsplit=1)[0]
    return is_known(before + after)
