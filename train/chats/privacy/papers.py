"""Numbers of papers beside the word that names them: a health policy, a driving licence, a certificate, a meeting."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import NO_UNIT, Finding, any_case

POLICY_LABEL = any_case(
    r"(?<!\w)(?:мед)?(?:пол[иею]с\w{0,3}|омс\w{0,2}|дмс|енп|страховк\w|страховой\sномер|медстрах\w*)(?!\w)"
)
POLICY_NUMBER = re.compile(r"(?<![\w-])[0-9](?:[\s-]{0,2}[0-9]){15}(?![\w-])")
POLICY_AFTER = any_case(
    r"\W{1,4}(?:(?:это|вот|мой|номер|наш|его|её|ее)\s){0,3}(?:мед)?(?:пол[иею]с|омс|дмс|енп|страховк\w)(?!\w)"
)
POLICY_NEAR = 110
SERIES = r"[А-ЯЁA-Z]{2,3}\s?-?\s?(?:№|N)?\s?"
PAPER_WORDS = (
    "ву", "водит", "прав", "стс", "птс", "кпп", "осаго", "каско", "полис", "страхов", "свид", "св-во", "метрик",
    "рожд", "брак",
    "сери", "лицев", "трек", "посылк", "отправл",
    "воен", "диплом", "аттестат", "вин", "vin", "удостов", "студен", "зач", "трудов", "медкн", "загран",
)  # fmt: skip
PAPERS = [
    any_case(r"(?<!\w)кпп\W{1,3}(?P<value>[0-9]{9})(?![\w-])"),
    any_case(
        r"(?<!\w)(?:ву|права|водительск\w{2,3}(?:\s(?:удостоверени\w|права))?|стс|птс)\W{1,3}(?:(?:номер|серия|и|мои|вот)\W{1,2}){0,2}"
        r"(?P<value>[0-9]{2}\s?[0-9а-яa-z]{2}\s?(?:№\s?)?[0-9]{6}|[0-9]{9})(?![\w-])"
    ),
    any_case(
        rf"(?<!\w)(?:е?осаго|каско|полис\w{{0,2}}|страховк\w)(?!\w)[^0-9\n]{{0,16}}?(?<!\w)(?P<value>{SERIES}[0-9]{{10}})(?!\w)"
    ),
    any_case(
        r"(?<![\w-])(?P<value>[IVXLХУ1-9]{1,5}\s?[-–—]\s?[А-ЯЁ]{2}\s?(?:№|N|номер)?\s?[0-9]{6}|ТК\s?-?\s?[IVX]{0,4}\s?№?\s?[0-9]{7})(?![\w-])"
    ),
    any_case(
        rf"(?<!\w)(?:воен\w+(?:\sбилет\w?)?|медкнижк\w)(?!\w)[^0-9\n]{{0,12}}?(?<!\w)(?P<value>{SERIES}[0-9]{{6,7}})(?!\w)"
    ),
    any_case(
        r"(?<!\w)(?:диплом\w?|аттестат\w?|студенческ\w{2,3}|студик\w?|зач[её]тк\w|удостоверени\w|трудов\w{2,3}|медкнижк\w|пенсионн\w{2,3})(?!\w)[^0-9\n]{0,20}"
        r"(?<![\w.,-])(?P<value>[0-9]{5,7}\s[0-9]{5,7}|[0-9]{6,13})(?![\w-]|[:.,][0-9])(?!\s?(?:₽|р(?!\w)|руб|тыс|раз))"
    ),
    any_case(
        r"(?<!\w)(?:вин|vin)(?:[\s-]?(?:код|номер))?\W{1,3}(?P<value>(?=[A-Z]{0,16}[0-9])[A-HJ-NPR-Z0-9]{16,17})(?!\w)"
    ),
    any_case(
        r"(?<!\w)сери[яию]\W{1,3}(?P<value>[0-9]{6}(?:[\s,;]{1,3}(?:номер|№|N)\W{1,3}|\s?(?:№|N)\s?)[0-9]{6,10})(?![\w-])"
    ),
    any_case(
        r"(?<!\w)лицев(?:ой|ого)\sсч[её]та?(?!\w)[^0-9\n]{0,24}(?<![\w.,-])(?P<value>[0-9](?:[\s-]?[0-9]){5,15})"
        rf"(?![\w-]|[:.,/][0-9]|\s[0-9]){NO_UNIT}"
    ),
    any_case(
        r"(?<!\w)(?:трек[\s-]?номер\w?|посылк\w|отправлени\w)(?!\w)[^0-9\n]{0,24}?(?<!\w)(?P<value>[A-Z]{2}[0-9]{9}[A-Z]{2})(?!\w)"
    ),
]
"""Driving licence, papers of a car, the tax code of a company's branch, insurance, certificates, diplomas, old health
policies, what is paid for a flat, parcels."""
PASSPORT_LINES = any_case(
    r"(?<!\w)(?:паспорт\w{0,3}|сери[яию])\W{1,3}"
    r"(?P<value>[0-9]{2}\s?[0-9]{2}[ ,;.]{0,2}\n\s{0,2}(?:(?:номер|№|N)\W{0,3})?[0-9]{6})(?![\w-])"
)
"""Series and number on lines of their own."""
MEETING_WORDS = (
    "зум",
    "zoom",
    "конфер",
    "идентиф",
    "meeting",
    "телемост",
    "встреч",
    "созвон",
    "тимс",
    "teams",
    "пасскод",
    "passcode",
    "вебекс",
)
MEETINGS = [
    any_case(
        r"(?<!\w)(?:зум\w{0,2}|zoom|конференци\w|идентификатор\w{0,2}|meeting|телемост\w{0,2}|встреч\w|созвон\w?|тимс\w?|teams|вебекс\w?)(?!\w)"
        r"[^0-9\n]{0,30}(?<![\w+-])(?P<value>[0-9]{3}[\s-]?[0-9]{3,4}[\s-]?[0-9]{3,4})(?![\w-]|[:.,][0-9])"
    ),
    any_case(
        r"(?:зум|zoom|конференци|идентификатор|meeting|телемост|встреч|созвон|тимс|teams)[^\n]{0,60}"
        r"(?<!\w)(?:пасс?код|код\w?(?:\sдоступа)?|passcode|pwd|парол\w|пин|pin|пасс?)\W{1,3}(?P<value>(?=\S{0,12}[0-9])[A-Za-z0-9]{3,12})(?!\w)"
    ),
]
"""The number of a meeting and its pass code."""


def find_policies(text: str) -> Iterator[Finding]:
    """Sixteen digits near a word for a health policy that are called no card."""
    for label in POLICY_LABEL.finditer(text):
        for match in POLICY_NUMBER.finditer(text, label.end(), label.end() + POLICY_NEAR):
            if "карт" not in text[label.end() : match.start()].lower():
                yield 2, *match.span(), "policy"
    for match in POLICY_NUMBER.finditer(text):
        if POLICY_AFTER.match(text, match.end()):
            yield 2, *match.span(), "policy"
