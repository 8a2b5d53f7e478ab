"""How a BPE tokenizer cuts text into words, in llama.cpp's words."""

from collections.abc import Iterable
from typing import Any, NamedTuple

CUTS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""llama.cpp's name → the expression whose matches are the words."""
PROBES = (
    'Привет, мир! Ёлка — ёж; «кавычки» и "ещё"… №5, 2 500 руб., 12.05.2026 в 18:30.',
    "I've been 'told he's there, 'RE you sure? WE'LL see, a'lL of them; don't `stop`. O'Moore 'tis rock'n'roll",
    "  два пробела\n\nпустая строка\r\n\tтабуляция   \n конец ",
    "3 33 333 3333 33333 3.3 3..3 ½ ² ٣",
    "你好，世界！今天38度。ประเทศไทย 🚀 😶‍🌫️ ❤️ 👨‍👩‍👧",
    "x=y+z; https://example.org/путь?a=1&b=2 e-mail@почта.рф #хэш @имя \\n {{ }} <|x|>",
)


class Cut(NamedTuple):
    """A known way to cut that does what the model's own does."""

    name: str
    differs: str | None
    """A text that it cuts otherwise, though none of the texts at hand."""


def known_cut(tokenizer: Any, texts: Iterable[str]) -> Cut | None:
    """The known way that cuts every text as the tokenizer does; None where there is none, or nothing to cut."""
    from tokenizers import Regex, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return None
    texts = list(texts)
    for name, words in CUTS.items():
        known = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        unlike = _first_difference(backend.pre_tokenizer, known, texts)
        if unlike is None:
            return Cut(name, _first_difference(backend.pre_tokenizer, known, PROBES))
    return None


def _first_difference(own: Any, known: Any, texts: Iterable[str]) -> str | None:
    """The first piece of the texts that the two cut differently."""
    for text in texts:
        ours, theirs = own.pre_tokenize_str(text), known.pre_tokenize_str(text)
        if ours != theirs:
            start, end = next((a[1] for a, b in zip(ours, theirs, strict=False) if a != b), (0, len(text)))
            return text[start:end]
    return None
