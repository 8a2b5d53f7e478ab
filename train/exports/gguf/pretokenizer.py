"""Which of llama.cpp's pre-tokenizers cuts text into words as a BPE tokenizer does."""

from collections.abc import Iterable
from typing import Any, NamedTuple

PRE_TOKENIZERS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""llama.cpp's name of a pre-tokenizer → the expression whose matches are the words."""
PROBE_TEXTS = (
    'Привет, мир! Ёлка — ёж; «кавычки» и "ещё"… №5, 2 500 руб., 12.05.2026 в 18:30.',
    "I've been 'told he's there, 'RE you sure? WE'LL see, a'lL of them; don't `stop`. O'Moore 'tis rock'n'roll",
    "  два пробела\n\nпустая строка\r\n\tтабуляция   \n конец ",
    "3 33 333 3333 33333 3.3 3..3 ½ ² ٣",
    "你好，世界！今天38度。ประเทศไทย 🚀 😶‍🌫️ ❤️ 👨‍👩‍👧",
    "x=y+z; https://example.org/путь?a=1&b=2 e-mail@почта.рф #хэш @имя \\n {{ }} <|x|>",
)


class PreTokenizerMatch(NamedTuple):
    """A pre-tokenizer of llama.cpp that cuts the texts at hand as the model's own does."""

    name: str
    differing_text: str | None
    """A piece of PROBE_TEXTS that the two cut differently; None where they cut all of them alike."""


def find_pre_tokenizer(tokenizer: Any, texts: Iterable[str]) -> PreTokenizerMatch | None:
    """The pre-tokenizer that cuts every text as the tokenizer does; None where none does, or it has none."""
    from tokenizers import Regex, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return None
    texts = list(texts)
    for name, pattern in PRE_TOKENIZERS.items():
        candidate = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if _first_difference(backend.pre_tokenizer, candidate, texts) is None:
            return PreTokenizerMatch(name, _first_difference(backend.pre_tokenizer, candidate, PROBE_TEXTS))
    return None


def _first_difference(own: Any, candidate: Any, texts: Iterable[str]) -> str | None:
    """The first piece of the texts that the two cut differently; None where they cut all alike."""
    for text in texts:
        ours, theirs = own.pre_tokenize_str(text), candidate.pre_tokenize_str(text)
        if ours != theirs:
            start, end = next((a[1] for a, b in zip(ours, theirs, strict=False) if a != b), (0, len(text)))
            return text[start:end]
    return None
