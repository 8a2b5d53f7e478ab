"""What a card may show of a run's dialogues: their languages, and answers to the config's prompts that quote no row."""

import re
from collections import Counter
from collections.abc import Sequence

from train.chats.pairs import read_pairs
from train.chats.readers import read_rows
from train.chats.rows import Row, configured_prompts, text_of
from train.core.config import Config
from train.core.errors import RunError
from train.core.runs import Run
from train.encoding.held_out import held_out_rows
from train.evaluation.evaluate import shown
from train.evaluation.judged_rows import start_of, training_file_is_same
from train.evaluation.report import Sample

QUOTED_WORDS = 6
"""So many words in a row count as a quotation."""
LANGUAGE_ROWS = 1000
"""The languages are read from about so many rows."""
ENGLISH_WORDS = {
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "you",
    "with",
    "this",
    "are",
    "not",
    "be",
    "have",
}
LANGUAGE_LETTERS = {
    "ja": "[\u3040-\u30ff]",
    "ko": "[\uac00-\ud7af]",
    "zh": "[\u4e00-\u9fff]",
    "uk": "[ієїґ]",
    "be": "ў",
    "kk": "[әғқңұүһ]",
    "ru": "[ыэъё]",
}
"""Code of a language → letters that tell it from its neighbours."""


def read_run_rows(run: Run) -> tuple[list[Row], bool]:
    """(held-out rows and those of the training file, True), or, where that file has changed, (held-out rows, False).

    Those of the run that it went on from are among them.
    """
    config, rows = run.config(), held_out_rows(run)
    file = config.data.train_file
    if complete := training_file_is_same(run):
        own = [row for pair in read_pairs(file) for row in pair] if config.dpo else read_rows(file)
        rows = [*own, *rows]
    if config.lora and config.lora.start_from:
        start = start_of(run)
        earlier, known = read_run_rows(start) if start else ([], False)
        return [*rows, *earlier], complete and known
    return rows, complete


def languages_of(rows: Sequence[Row]) -> list[str]:
    """Codes of the languages of a tenth of the rows or more, as far as letters or common words tell them."""
    counts: Counter[str] = Counter()
    total = 0
    for row in rows[:: 1 + len(rows) // LANGUAGE_ROWS]:
        total += 1
        counts[_language(" ".join(text_of(message) for message in row.messages).lower())] += 1
    return [code for code, count in counts.most_common() if code and count >= total / 10]


def _language(text: str) -> str:
    """The code of the text's language; empty where neither letters nor common words tell it."""
    cyrillic, latin = (len(re.findall(pattern, text)) for pattern in ("[а-яё]", "[a-z]"))
    for code in ("ja", "ko", "zh"):
        if 3 * len(re.findall(LANGUAGE_LETTERS[code], text)) > cyrillic + latin:
            return code
    if cyrillic > latin:
        counts = {code: len(re.findall(LANGUAGE_LETTERS[code], text)) for code in ("ru", "uk", "be", "kk")}
        return max(counts, key=lambda code: counts[code])
    words = re.findall("[a-z]+", text)
    return "en" if words and sum(word in ENGLISH_WORDS for word in words) > 0.15 * len(words) else ""


def read_samples(run: Run, config: Config) -> list[Sample]:
    """The prompts and answers in samples.md; those of other prompts than the config's are left out."""
    if not run.samples_file.exists():
        return []
    try:
        page = run.samples_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{run.samples_file}: damaged ({error.reason}): govor eval {run.path} writes it again") from None
    heads = []
    for text in map(shown, configured_prompts(config)):
        start = page.find(head := "## " + text.replace("\n", "\n\n") + "\n\n**Base**\n\n")
        if start >= 0:
            heads.append((start, start + len(head), text))
    if not heads:  # written before the prompts were, or by an eval that had none
        return []
    samples = []
    heads.sort()
    for (_, start, text), (end, *_) in zip(heads, [*heads[1:], (len(page), 0, "")], strict=True):
        before, split, after = page[start:end].partition("\n\n**Tuned**\n\n")
        if split:
            samples.append(Sample(text, before.strip(), after.strip()))
    return samples


def without_quotations(samples: Sequence[Sample], rows: Sequence[Row]) -> list[Sample]:
    """The samples whose prompt and answer have no line, and no QUOTED_WORDS words in a row, from a row of `rows`."""
    phrases = [_phrases(sample.prompt) | _phrases(sample.after) for sample in samples]
    all_phrases = set().union(*phrases)
    quoted: set[tuple[str, ...]] = set()
    for row in rows:  # what they share with the samples is little, however many they are
        for message in row.messages:
            quoted |= all_phrases & _phrases(text_of(message))
    return [sample for sample, own in zip(samples, phrases, strict=True) if quoted.isdisjoint(own)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _phrases(text: str) -> set[tuple[str, ...]]:
    """Every QUOTED_WORDS words that follow each other, and every line of two or more words."""
    words = _words(text)
    lines = {_words(line) for line in text.split("\n")}
    return {words[at : at + QUOTED_WORDS] for at in range(len(words) - QUOTED_WORDS + 1)} | {
        line for line in lines if len(line) > 1
    }
