"""Numbers of papers beside the word that names them: a health policy, a driving licence, a meeting."""

from train.chats.privacy.patterns import any_case

POLICY_NUMBER = r"(?P<value>[0-9](?:[\s-]?[0-9]){15})(?![\w-])"
POLICIES = [
    any_case(
        rf"(?<!\w)(?:мед)?(?:полис\w{{0,2}}|омс|дмс|енп|страховк\w)(?!\w)[^0-9\n]{{0,40}}(?<![\w-]){POLICY_NUMBER}"
    ),
    any_case(
        rf"(?<![\w-]){POLICY_NUMBER}(?=\W{{1,4}}(?:(?:это|вот|мой|номер|наш)\s){{0,3}}(?:мед)?(?:полис|омс|дмс|енп)(?!\w))"
    ),
]
PAPERS = any_case(
    r"(?<!\w)(?:ву|права|водительск\w{2,3}(?:\sудостоверени\w)?|стс|птс|кпп)\W{1,3}(?:номер\W{1,2})?"
    r"(?P<value>[0-9]{2}\s?[0-9а-яa-z]{2}\s?[0-9]{6}|[0-9]{9})(?![\w-])"
)
"""Driving licence, papers of a car, the tax code of a company's branch."""
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
        r"(?<!\w)(?:пасс?код|код\w?(?:\sдоступа)?|passcode|pwd|парол\w|пин|pin)\W{1,3}(?P<value>(?=\S{0,12}[0-9])[A-Za-z0-9]{3,12})(?!\w)"
    ),
]
"""The number of a meeting and its pass code."""
