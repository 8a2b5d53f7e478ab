"""Cyrillic text in Latin letters, for names of models and the like."""

LATIN = {
    "а": "a", "б": "b", "в": "v", "г": "g", "д": "d", "е": "e", "ё": "yo", "ж": "zh", "з": "z", "и": "i", "й": "y",
    "к": "k", "л": "l", "м": "m", "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t", "у": "u", "ф": "f",
    "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ы": "y", "ь": "", "э": "e", "ю": "yu",
    "я": "ya", "і": "i", "ї": "yi", "є": "ye", "ґ": "g", "ў": "u",
}  # fmt: skip
"""Letters of Russian, Ukrainian and Belarusian → Latin ones."""
TO_LATIN = str.maketrans({**LATIN, **{key.upper(): text.capitalize() for key, text in LATIN.items()}, " ": "-"})


def latin(suffix: str) -> str:
    """A suffix as the name of a model has it: in Latin letters, hyphens for spaces, at most 64 characters."""
    return suffix.translate(TO_LATIN)[:64]
