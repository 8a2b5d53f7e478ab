"""What a card may show of a run's dialogues: their languages, and answers to the config's prompts that quote no row."""

import re
from collections import Counter
from collections.abc import Sequence

from train.chats.readers import read_rows
from train.chats.rows import Row, text_of
from train.core.config import Config
from train.core.files import sha256
from train.core.runs import Run
from train.evaluation.report import Sample

WORDS = 6  # so many in a row are a quotation
READ = 1000  # rows that tell the languages of all
ENGLISH = {"the", "of", "and", "to", "in", "is", "that", "it", "for", "you", "with", "this", "are", "not", "be", "have"}
LETTERS = {
    "ja": "[\u3040-\u30ff]",
    "ko": "[\uac00-\ud7af]",
    "zh": "[\u4e00-\u9fff]",
    "uk": "[ієїґ]",
    "be": "ў",
    "kk": "[әғқңұүһ]",
    "ru": "[ыэъё]",
}
"""Letters that tell a language from its neighbours."""


def rows_of(run: Run) -> tuple[list[Row], bool]:
    """(rows, whether they are all): the held-out ones, and the training file's if it is still the one trained on."""
    manifest = run.manifest()
    held_out = read_rows(run.held_out_file) if manifest["data"]["held_out"]["rows"] else []
    file, trained_on = run.config().data.train_file, manifest["data"].get("train") or {}
    if file.is_file() and sha256(file) == trained_on.get("sha256"):
        return [*read_rows(file), *held_out], True
    return held_out, False


def languages_of(rows: Sequence[Row]) -> list[str]:
    """Codes of the languages that a tenth of the rows or more are in; those that letters or common words tell."""
    found: Counter[str] = Counter()
    total = 0
    for row in rows[:: 1 + len(rows) // READ]:
        total += 1
        found[_language(" ".join(text_of(message) for message in row.messages).lower())] += 1
    return [code for code, count in found.most_common() if code and count >= total / 10]


def _language(text: str) -> str:
    cyrillic, latin = (len(re.findall(pattern, text)) for pattern in ("[а-яё]", "[a-z]"))
    for code in ("ja", "ko", "zh"):
        if 3 * len(re.findall(LETTERS[code], text)) > cyrillic + latin:
            return code
    if cyrillic > latin:
        counts = {code: len(re.findall(LETTERS[code], text)) for code in ("ru", "uk", "be", "kk")}
        return max(counts, key=lambda code: counts[code])
    words = re.findall("[a-z]+", text)
    return "en" if words and sum(word in ENGLISH for word in words) > 0.15 * len(words) else ""


def samples_of(run: Run, config: Config) -> list[Sample]:
    """The prompts and answers in samples.md; those of other prompts than the config's are passed over."""
    if not run.samples_file.exists():
        return []
    page = run.samples_file.read_text(encoding="utf-8")
    heads = []
    for prompt in config.prompts:
        turns = [message.content for message in prompt if message.role != "system"]
        shown = turns[0] if len(turns) == 1 else "\n".join(f"— {turn}" for turn in turns)
        start = page.find(head := "## " + shown.replace("\n", "\n\n") + "\n\n**Base**\n\n")
        if start >= 0:
            heads.append((start, start + len(head), shown))
    found = []
    heads.sort()
    for (_, start, shown), (end, *_) in zip(heads, [*heads[1:], (len(page), 0, "")], strict=True):
        before, split, after = page[start:end].partition("\n\n**Tuned**\n\n")
        if split:
            found.append(Sample(shown, before.strip(), after.strip()))
    return found


def quoting_nothing(samples: Sequence[Sample], rows: Sequence[Row]) -> list[Sample]:
    """Those with no prompt or answer in which a line, or WORDS words, stand as in a row."""
    said = [_phrases(sample.prompt) | _phrases(sample.after) for sample in samples]
    wanted = set().union(*said)
    found: set[tuple[str, ...]] = set()
    for row in rows:  # what they share with the samples is little, however many they are
        for message in row.messages:
            found |= wanted & _phrases(text_of(message))
    return [sample for sample, phrases in zip(samples, said, strict=True) if found.isdisjoint(phrases)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _phrases(text: str) -> set[tuple[str, ...]]:
    """Every WORDS words that follow each other, and every line of two or more words."""
    words = _words(text)
    lines = {_words(line) for line in text.split("\n")}
    return {words[at : at + WORDS] for at in range(len(words) - WORDS + 1)} | {line for line in lines if len(line) > 1}
