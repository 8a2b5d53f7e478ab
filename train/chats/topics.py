"""Words by their dictionary form: the vocabulary, and which topics rows are about, by their own words or by lists."""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import yaml
from msgspec import Struct

from train.chats.learned_topics import learn_topics
from train.chats.rows import Message, text_of
from train.core.bounded_yaml import BoundedLoader
from train.core.errors import GovorError

DEFAULT_TOPICS = Path(__file__).with_name("topics.yaml")
NO_TOPIC = "без темы"
CONTENT_PARTS = {"NOUN", "VERB", "INFN", "ADJF", "ADJS", "PRTF", "PRTS", "GRND"}
AUXILIARY_VERBS = {"быть", "есть", "мочь", "стать"}  # content by their form, grammar by their use
RUSSIAN = re.compile("[а-яё-]{1,40}")
WORD = re.compile(r"(?=[\d_]*[^\W\d_])\w+(?:[-’']\w+)*")
"""A word, its hyphens included, without numbers: razdel, which finds the same, takes ten times as long."""
MOST_FORMS = 5_000
"""How many forms are read as words of the dictionary, the most frequent of the file: that takes pymorphy3 0.1 ms each,
and the forms after them, which in 5 MB of plays occur at most seven times, tell topics little."""
RATIO_WORDS = 10_000  # the type/token ratio falls as a text grows, so that only equal lengths compare
TOP_LEMMAS = 50  # content lemmas listed


class Word(NamedTuple):
    """A word of a text, as written and in its dictionary form."""

    form: str
    """The word as written, in lower case."""
    lemma: str
    """Dictionary form, with е for ё; the form itself where the word is not Russian."""
    is_content: bool
    """Whether it is a Russian noun, verb, adjective or participle, but no pronoun, ordinal or auxiliary verb."""
    is_name: bool = False
    """Whether it is likeliest a person's name, surname or patronymic."""


Phrase = tuple[str, ...]
"""Lemmas that stand one after another; most often just one."""


class Vocabulary(Struct, frozen=True):
    """The vocabulary of the assistant's messages."""

    words: int
    """Number of words."""
    distinct_forms: int
    """How many different words there are, as written: дом and дома are two."""
    ratio_words: int
    """How many of the first words the ratio below was measured on."""
    type_token_ratio: float | None
    """Ratio of distinct word forms to words."""
    content_lemmas: list[tuple[str, int]]
    """The most frequent Russian nouns, verbs and adjectives with their counts, from the MOST_FORMS frequent forms."""


@dataclass(frozen=True)
class Topics:
    """Topics, and the words that point to them, as `load_topics` reads them."""

    phrases: dict[str, list[Phrase]]
    """Topic → the phrases that point to it."""
    min_hits: int
    """Words that must point to a topic before a row has it: one met twice counts twice, a phrase counts its words."""

    @cached_property
    def _by_first_lemma(self) -> dict[str, list[tuple[Phrase, str]]]:
        index = defaultdict(list)
        for topic, phrases in self.phrases.items():
            for phrase in phrases:
                index[phrase[0]].append((phrase, topic))
        return dict(index)

    def matching(self, lemmas: Sequence[str]) -> list[str]:
        """The topics of a text, in the order of the file; there may be none."""
        hits: Counter[str] = Counter()
        for at, lemma in enumerate(lemmas):
            for phrase, topic in self._by_first_lemma.get(lemma, ()):
                if len(phrase) == 1 or tuple(lemmas[at : at + len(phrase)]) == phrase:
                    hits[topic] += len(phrase)
        return [topic for topic in self.phrases if hits[topic] >= self.min_hits]


def split_words(text: str) -> list[Word]:
    """The text's words, without numbers, punctuation and emoji."""
    return list(map(_word, _forms(text)))


def _forms(text: str) -> list[str]:
    """The text's words as written, in lower case."""
    forms: list[str] = WORD.findall(normalize("NFC", text).lower())  # else й may be и and a mark
    return forms


@lru_cache(maxsize=100_000)  # words come back: 17 of 18 in plays of 1.7 million words
def _word(form: str) -> Word:
    if not RUSSIAN.fullmatch(form):  # pymorphy3 recurses with the length of a word and fails on rare scripts
        return Word(form, form, False)
    parse = _morphology().parse(form)[0]
    lemma = parse.normal_form.replace("ё", "е")
    tag = parse.tag
    is_content = tag.POS in CONTENT_PARTS and not {"Apro", "Anum"} & tag.grammemes and lemma not in AUXILIARY_VERBS
    return Word(form, lemma, is_content, bool({"Name", "Surn", "Patr"} & tag.grammemes))


@cache
def _morphology() -> Any:
    import pymorphy3

    return pymorphy3.MorphAnalyzer()


def load_topics(path: Path | None = None) -> Topics:
    """Read the topics of a YAML file, by default the shipped one; GovorError with every problem and its line."""
    path = path or DEFAULT_TOPICS
    root = _compose(path)
    if not isinstance(root, yaml.MappingNode):
        raise GovorError(f"{path}:1: expected `min_hits: 2` and `topics:`, see {DEFAULT_TOPICS}")
    problems: list[str] = []
    phrases: dict[str, list[Phrase]] = {}
    min_hits = 2
    for key, value in root.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if key.value == "min_hits":
            if isinstance(value, yaml.ScalarNode) and re.fullmatch("[1-9][0-9]{0,3}", value.value):
                min_hits = int(value.value)
            else:
                problems.append(f"{place}: min_hits: expected a whole number from 1 to 9999")
        elif key.value == "topics" and isinstance(value, yaml.MappingNode):
            for name, entries in value.value:
                _add_topic(phrases, path, name, entries, problems)
        elif key.value == "topics":
            problems.append(f"{place}: topics: expected topic names, each with a list of words")
        else:
            problems.append(f"{place}: unknown key {key.value!r}: expected min_hits and topics")
    if not phrases and not problems:
        problems.append(f"{path}: no topics in it: expected `topics:` with topic names, each with a list of words")
    if problems:
        raise GovorError("\n  ".join(problems))
    return Topics(phrases, min_hits)


def _compose(path: Path) -> yaml.Node | None:
    """The file as YAML nodes, which know their lines, and keep `да`, `no` or `1984` as they are written."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), BoundedLoader)
    except FileNotFoundError:
        raise GovorError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise GovorError(f"{path}: a folder, expected a YAML file") from None
    except UnicodeDecodeError:
        raise GovorError(f"{path}: not UTF-8: save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise GovorError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise GovorError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def _add_topic(
    phrases: dict[str, list[Phrase]], path: Path, name: yaml.Node, entries: yaml.Node, problems: list[str]
) -> None:
    """Read one topic into `phrases`, or add what is wrong with it to `problems`."""
    place = f"{path}:{name.start_mark.line + 1}"
    if not isinstance(name, yaml.ScalarNode) or not name.value.strip() or not name.value.isprintable():
        problems.append(f"{place}: expected a topic's name, on one line")
    elif name.value in phrases:
        problems.append(f"{place}: topic {name.value!r} stands here again: join the two lists")
    elif name.value == NO_TOPIC:
        problems.append(f"{place}: {NO_TOPIC!r} is the name for rows without any topic: choose another")
    elif not isinstance(entries, yaml.SequenceNode) or not entries.value:
        problems.append(f"{place}: topic {name.value!r}: expected a list of words")
    else:
        topic_phrases: list[Phrase] = []
        for entry in entries.value:
            words = split_words(entry.value) if isinstance(entry, yaml.ScalarNode) else []
            if words:
                topic_phrases.append(tuple(word.lemma for word in words))
            else:
                line = f"{path}:{entry.start_mark.line + 1}"
                problems.append(f"{line}: topic {name.value!r}: expected a word or a phrase, in quotes where needed")
        phrases[name.value] = list(dict.fromkeys(topic_phrases))


def topics_and_vocabulary(
    conversations: Iterable[list[Message]], topics: Topics | None
) -> tuple[dict[str, int], Vocabulary]:
    """(rows by topic, the assistant's vocabulary): one pass, because reading words is what costs time here.

    Without `topics` they come from the conversations themselves, and a row has one at most.
    """
    import numpy as np

    by_topic: Counter[str] = Counter(dict.fromkeys([*topics.phrases, NO_TOPIC], 0) if topics else ())
    numbers: defaultdict[str, int] = defaultdict(count().__next__)  # form → its number
    said, spoken, ends = array("I"), array("I"), array("Q")  # the numbers of all words, of the assistant's, rows' ends
    for messages in conversations:
        texts = [
            (message["role"], text_of(message)) for message in messages if message["role"] in ("user", "assistant")
        ]
        for role, text in texts:
            words = array("I", map(numbers.__getitem__, _forms(text)))
            said += words
            if role == "assistant":
                spoken += words
        ends.append(len(said))
        if topics:
            lemmas = [word.lemma for _, text in texts for word in split_words(text)]
            by_topic.update(topics.matching(lemmas) or [NO_TOPIC])
    forms = list(numbers)
    frequent = np.argsort(-np.bincount(said, minlength=len(forms)), kind="stable")[:MOST_FORMS].tolist()
    words_of = {number: _word(forms[number]) for number in frequent}
    if topics is None:
        telling = {number: word.lemma for number, word in words_of.items() if word.is_content and not word.is_name}
        rows = ([telling[n] for n in said[start:end] if n in telling] for start, end in pairwise(chain((0,), ends)))
        by_topic = Counter(dict(Counter(topic or NO_TOPIC for topic in learn_topics(list(rows))).most_common()))
    times = np.bincount(spoken, minlength=len(forms)).tolist()
    content: Counter[str] = Counter()
    for number, word in words_of.items():
        content[word.lemma] += times[number] * word.is_content
    first = spoken[:RATIO_WORDS]
    return dict(by_topic), Vocabulary(
        words=len(spoken),
        distinct_forms=len(forms) - times.count(0),
        ratio_words=len(first),
        type_token_ratio=len(set(first)) / len(first) if first else None,
        content_lemmas=[(lemma, n) for lemma, n in content.most_common(TOP_LEMMAS) if n],
    )
