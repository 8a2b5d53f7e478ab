"""What the finders of labelled values share."""

import re

Finding = tuple[int, int, int, str]
"""(rank, start, end, kind), as other finders give it."""


def any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


NO_UNIT = (
    r"(?!\s?(?:₽|%|(?:год\w{0,2}|г|раза?|руб\w{0,3}|р|дн\w{1,2}|день|мин\w{0,3}|час\w{0,2}|шт\w{0,2}|к|тыс\w{0,3}|лет|символ\w*|"
    r"строк\w?|км|кг|мм|м|гб|мб|чел\w*|балл\w{0,2}|знак\w{0,2}|цифр\w?|ггц)(?!\w)))"
)
"""Nothing after a number that it counts."""
DIGIT = re.compile("[0-9]")


def value_span(match: re.Match[str]) -> tuple[int, int]:
    """Where the match's value stands, without the full stop or mark behind it."""
    start, end = match.span("value" if "value" in match.re.groupindex else 0)
    return start, start + len(match.string[start:end].rstrip(".,?"))
