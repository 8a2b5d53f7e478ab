"""Addresses as a taxi gets them: street, house and flat, `ленина 15-42`, or street and house alone, `гагарина 8а`.

A street without a word for one is told by its name: a surname in the genitive, an adjective, or what streets are often
called. A house without a flat counts only where the text speaks of going or living there, where a word for its parts
follows, or where the line has nothing else.
"""

import re
from collections.abc import Iterator

from train.chats.privacy.addresses import FLAT, NOT_A_HOUSE, PART, TWO_WORDS
from train.chats.privacy.morphology import analyse, is_counted, word_set
from train.chats.privacy.patterns import DIGIT, any_case
from train.chats.privacy.phones import NUMBER_WORD

STREETS = word_set(
    """
    мира победы труда свободы революции дружбы космонавтов строителей металлургов октября мая молодёжи молодежи
    энтузиастов комсомола пионеров партизан авиаторов химиков энергетиков учителей ветеранов декабристов
    юности славы героев шахтёров шахтеров нефтяников газовиков железнодорожников текстильщиков машиностроителей
    судостроителей рыбаков моряков защитников добровольцев гвардейцев танкистов лётчиков летчиков десантников матросов
    связистов геологов медиков студентов академиков профсоюзов коммунаров коммуны конституции республики народов
    солидарности единства люксембург бабушкина подбельского розы армии побратимов
    """
)
FAMOUS = word_set(
    """
    ленина гагарина кирова пушкина горького калинина чапаева маркса энгельса фрунзе свердлова дзержинского куйбышева
    жукова суворова кутузова чехова толстого лермонтова гоголя тургенева некрасова маяковского есенина островского
    чернышевского крупской ломоносова менделеева циолковского королёва королева титова терешковой комарова матросова
    космодемьянской кошевого щорса котовского будённого буденного ворошилова урицкого луначарского володарского
    орджоникидзе тельмана либкнехта чкалова нахимова ушакова невского донского хмельницкого шевченко мичурина павлова
    сеченова пирогова попова вавилова курчатова сахарова шукшина блюхера тухачевского панфилова карбышева рокоссовского
    конева малиновского черняховского разина пугачёва пугачева радищева белинского герцена крылова грибоедова репина
    чайковского глинки серова сурикова левитана советская
    садовая лесная школьная центральная набережная заречная зелёная зеленая полевая луговая степная солнечная вокзальная
    парковая молодёжная молодежная юбилейная первомайская привокзальная станционная озёрная речная дачная северная южная
    """
)
"""Whom streets are called after all over the country."""
HOUSE_NO = (
    r"(?:д(?:ом)?\.?\s?)?(?P<house>[1-9][0-9]{0,2}[а-ек]?(?:\s?(?:к|корп(?:ус)?|с|стр(?:оение)?|"
    r"/)\.?\s?[0-9]{1,3}[а-в]?)?)"
)
STREET = r"(?P<street>(?:8\sмарта|[19]\sмая|[0-9]{2}\sлет\s)?(?:(?<=8\sмарта)|(?<=\sмая)|[а-яё][а-яё-]{3,30}+))"
NOT_A_FLAT = (
    r"(?!\s?(?:мин|час|ч\b|км|руб|₽|%|лет|год|дн|раз|чел|шт|тыс|балл|стр|том(?!\w)|комнат|побед|парт|сет|ложк|"
    r"стакан|недел|месяц|груп|класс|курс|смен|января|февраля|марта|апреля|мая|июн|июл|августа|сент|окт|нояб|дек))"
)
HOUSE_AND_FLAT = any_case(
    rf"(?<![\w-]){STREET},?\s{HOUSE_NO}(?:\s?[-–—]\s?|,\s)(?P<flat>[1-9][0-9]{{0,3}})(?![\w-]|[:.,][0-9]){NOT_A_FLAT}"
)
HOUSE_AND_PARTS = any_case(
    rf"(?<![\w-]){STREET},?\s{HOUSE_NO}(?:[\s,;]{{1,3}}(?:{PART}|{FLAT.replace('0,2', '0,1')}))" + r"{1,6}"
)
HOUSE_ALONE = any_case(
    rf"(?<![\w-]){STREET},?\s{HOUSE_NO}(?:\s(?P<flat>[1-9][0-9]{{0,3}})(?!\s?[-/]))?(?![\w-]|[:.,][0-9]|\s?[0-9])"
)
NAME_AND_NUMBER = re.compile(
    r"(?<![\w-])(?:[0-9]{1,2}\s(?:[Мм]арта|[Мм]ая|лет\s[А-Яа-яЁё]{4,12})|[А-Яа-яЁё][А-Яа-яЁё-]{3,30}+),?\s(?:[Дд](?:ом)?\.?\s?)?(?=[1-9])"
)
"""Where such an address may begin."""
PART_WORDS = ("кв", "дъезд", "дьезд", "этаж", "домофон", "мкр", "м-н", "микр", "лини")
PARTS = any_case(
    rf"(?<!\w)(?={PART}[^\n]{{0,40}}(?:подъезд|подьезд|этаж|домофон)|[^\n]{{0,40}}(?<!\w)кв(?!\w)){PART}(?:[\s,;]{{1,3}}{PART}){{1,6}}"
)
IN_A_DISTRICT = any_case(
    rf"(?<![\w-])[0-9]{{1,2}}(?:\s?-?(?:й|ый|ой|я|ая))?\s(?:мкр\w?|м-н|микрорайон\w?|квартал\w?|лини[яи])\.?,?\s{HOUSE_NO}(?:(?:[\s,;]{{1,3}}{PART}){{1,6}}|\s?[-–]\s?[1-9][0-9]{{0,3}}|(?<=[0-9])(?=\s?(?:$|[,.;\n])))(?![\w-])"
)
IN_WORDS = rf"(?:{NUMBER_WORD}(?:\s{NUMBER_WORD}){{0,2}}|[0-9]{{1,4}}[а-в]?)"
SPOKEN = any_case(
    rf"(?<![\w-])(?:(?:ул(?:ица|\.)?|проспект|переулок|бульвар)\s)?(?P<street>[а-яё][а-яё-]{{3,30}}),?\s(?:дом\s)?{IN_WORDS}(?:\s(?:корпус|строение)\s{IN_WORDS})?,?\s(?:кв|квартир[аеу])\s{IN_WORDS}(?!\w)"
)
"""House and flat told in words."""
FLAT_IN_WORDS = re.compile(rf"кв(?:артир[аеу])?\s{IN_WORDS}(?!\w)")
NO_STREETS = word_set(
    "первый второй третий четвёртый четвертый пятый последний следующий большой маленький целый каждый такой какой "
    "один другой весь мой твой свой наш ваш этот тот самый прошлый средний общий полный предыдущий любой всякий"
)
TO_OR_AT = (
    r"(?:на|по|в|во|к|ко|до|с|со|от|из|тут|это|нам|мне|вот|сюда|меня|нас|там|сейчас|завтра|теперь|уже|пиццу|суши|еду|роллы|машину|такси|посылку|"
    r"цветы|заказ|комнату|квартиру|хату|студию|однушку|двушку|дом|у|тебе|туда|вещи|ключи|документы|их|его|её|ее|только|пока|щас)"
)
GOING = any_case(
    r"(?<!\w)(?:такси|заказ\w*|достав\w+|курьер\w*|едь|езжай\w*|поехал\w*|е[дх]\w{1,2}|приезж\w+|приех\w+|подъез\w+|подъед\w+|подъех\w+|забер\w+|"
    r"забр\w+|забир\w+|подхват\w+|отвез\w*|завез\w*|завоз\w+|привез\w*|вез\w{1,3}|жив[уёе]\w{0,3}|прожива\w+|жил\w?|прописа\w+|прописк\w|зарегистр\w*|адрес\w{0,2}|домой|дом(?:а|ом|у|е)?|"
    r"встре[тч]\w+|самовывоз\w*|съеха\w+|переех\w+|переезж\w+|снима\w+|снял\w*|квартир\w{1,2}|хат[аеуы]|общаг\w|жд[уёие]\w{0,3}|стою|стоим|нахо[дж]\w+|офис\w{0,2}|"
    r"работа\w{2,3}|пвз|пункт\w?|заход\w+|зайд\w+|приход\w+|подход\w+|подгреб\w*|подтяг\w*|подкат\w*|подваливай\w*|прих\w+|ид[уеё]\w{0,2}|отправ\w+|пришл\w+|высыла\w+|вышл\w+|неси\w*|"
    r"откуда|куда|маршрут|навигатор\w?|сдам|сда[её]\w+|продам|прода[её]\w+|тус\w*|вписк\w)(?:\W{1,3}(?:"
    + TO_OR_AT
    + r")(?!\w)){0,4}\W{1,3}$"
)
NEAR_IT = any_case(
    r"(?<!\w)(?:от|до|с|со|из|на|по|угол|возле|около|напротив|рядом\sс|я\sна|мы\sна|она?\sна|я|мы|у\sдома|подъезд|остановк\w)\W{1,2}$"
)
PART_AFTER = any_case(
    r"[,;(]?\s\(?(?:частн\w+\s|(?:перв|втор|трет|четв|пят|шест|седьм|[0-9]-?)[а-я]{0,4}\s(?=подъезд|подьезд|этаж|корпус))?(?:дом(?!\w)|подъезд|подьезд|под(?:езд)?\s?[0-9]|этаж|кв(?!\w)|квартира|калитк|домофон|двор|вход|въезд|код(?!\w)|забор|лифт|общежит|офис|ориентир|во\sдвор|со\sдвор|"
    r"рядом|напротив|там\sгде|у\s(?:магаз|метро|вход|остан)|возле|корпус|высотк|многоэтаж|пятиэтаж|девятиэтаж|панельк|сталинк|хрущ|новостро|звони|наб[еи]р|спуск|подожд|жду|жд[её])"
)
SPORT = any_case(
    r"кубк|кубок|матч|сч[её]т\w?|сери[яию]|лиг[аеиу]|чемпионат|обыгра|выигра|проигра|уступи|сыграл|тайм|период|финал|клуб|турнир|гол[аы]?(?!\w)"
)
PERSON_BEFORE = any_case(
    r"(?<!\w)(?:у|для|про|без|мимо|за|против|кроме|книг\w|том\w?|стих\w*|роман\w?|рассказ\w?|оценк\w|игра\w+)\s$"
)
WORD_BEFORE = any_case(rf"(?<![\w-])(?P<word>{TWO_WORDS}|[а-яё]{{4,15}})\s$")


ANY_WORD = re.compile("[А-Яа-яЁё]{1,30}+")


def find_short_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans of addresses as a taxi gets them: street, house and flat in figures, `ленина 15-42`."""
    lower = text.lower()
    if "кв" in lower and FLAT_IN_WORDS.search(lower):
        for match in SPOKEN.finditer(text):
            if _is_street(match["street"]):
                yield _with_first_word(text, match.start()), match.end()
    if not DIGIT.search(text):
        return
    spans: dict[int, int] = {}
    for candidate in NAME_AND_NUMBER.finditer(text):
        if end := _end_of_address(text, candidate.start()):
            spans[_with_first_word(text, candidate.start())] = end
    if any(map(lower.__contains__, PART_WORDS)):
        for pattern in (PARTS, IN_A_DISTRICT):
            for match in pattern.finditer(text):
                if pattern is IN_A_DISTRICT or "кв" in match[0].lower():
                    spans[match.start()] = match.end()
    yield from spans.items()


def _end_of_address(text: str, start: int) -> int | None:
    """Where an address that begins with a street's name ends; None where it is none."""
    match = HOUSE_AND_PARTS.match(text, start)
    if match and _is_street(match["street"]):
        return match.end()
    match = HOUSE_AND_FLAT.match(text, start)
    if match:
        near = text[max(0, start - 30) : match.end() + 30]
        house = int(re.sub("[^0-9].*", "", match["house"]))
        reached = house > int(match["flat"]) and NEAR_IT.search(text[max(0, start - 20) : start])  # a range rises
        holiday = match["street"][0].isdigit() and max(house, int(match["flat"])) < 32 and not reached
        if not holiday and not SPORT.search(near) and _is_street(match["street"]):
            return match.end()
    match = HOUSE_ALONE.match(text, start)
    return match.end() if match and _is_reached(text, match) else None


def _is_reached(text: str, match: re.Match[str]) -> bool:
    """Whether street and house are where somebody lives or goes, and no count: `до победы 3 дня`, `2 аварии`."""
    start = _with_first_word(text, match.start())
    before, after = text[max(0, start - 60) : start], text[match.end() : match.end() + 24]
    street, lower = match["street"], match["street"].lower()
    if (NOT_A_HOUSE.match(after.lower()) and not PART_AFTER.match(after)) or SPORT.search(before[-30:] + after):
        return False
    if lower in ("мая", "октября") or (lower in ("розы", "армии", "славы") and start == match.start()):
        return False
    if is_counted(after) and not PART_AFTER.match(after):
        return False
    near_by = max(0, match.start() - 60)  # the whole line again for each address would take the square of its length
    line_start = text.rfind("\n", near_by, match.start()) + 1 or near_by
    line = text[line_start : match.end() + 60].split("\n", 1)[0].strip(" .,!?)")
    known = lower in FAMOUS or lower in STREETS or re.search("[сц]к(?:ая|ой|ую)$", lower) is not None
    sure = known or (street[0].isupper() and not before.strip().endswith((".", "!", "?")) and before.strip() != "")
    named = any({"ADJF", "femn", "nomn"} <= parse.tag.grammemes for parse in analyse(street))  # `от вокзальная 3`
    alone = (line == text[start : match.end()] and known) or (
        lower in FAMOUS and line.startswith(text[start : match.end()]) and before[-1:] in ("", "\n")
    )
    alone = alone or (street[0].isupper() and before.endswith(", ") and line.endswith(match[0]))
    going, near, part = GOING.search(before), NEAR_IT.search(before), PART_AFTER.match(after)
    if street[0].isdigit() or (PERSON_BEFORE.search(before) and not (going and known)):
        return False
    lettered = match["flat"] is not None and not match["house"].isdigit()
    if not (alone or going or (near and (sure or named)) or part or (lettered and known)):
        return False
    if match["flat"] and not (alone or going or lettered or known):
        return False
    return _is_street(street, after_preposition=bool(near or going))


def _with_first_word(text: str, start: int) -> int:
    """Where a street's name of two words begins: `Малая Посадская`, `карла маркса`, `красных партизан`."""
    before = WORD_BEFORE.search(text[max(0, start - 24) : start])
    if before is None:
        return start
    word = before["word"]
    named = any({"Name", "gent"} <= parse.tag.grammemes and parse.score > 0.1 for parse in analyse(word))
    two = re.fullmatch(TWO_WORDS, word, re.IGNORECASE) is not None
    noun = ANY_WORD.match(text, start)
    if noun and noun[0].lower() in STREETS:  # `красных партизан`, `советской армии`
        two = two or any({"ADJF", "gent"} <= parse.tag.grammemes for parse in analyse(word)[:2])
    return start - len(before[0]) if two or (named and not word.lower().startswith(("любви", "веры"))) else start


def _is_street(word: str, *, after_preposition: bool = False) -> bool:
    """Whether a street can be called so: a surname's genitive (`ленина`), an adjective (`садовая`), a known word."""
    cases = {"nomn", "accs", "loct"} if word[0].isupper() else {"nomn", "accs"}
    if after_preposition:
        cases = {"nomn", "accs", "loct", "gent", "datv"}
    if word.lower() in STREETS or word.lower() in FAMOUS or word[0].isdigit():
        return True
    parses = analyse(word)
    if parses[0].normal_form in NO_STREETS:
        return False
    return any(
        ("Surn" in parse.tag and parse.tag.case == "gent")
        or (parse.tag.POS == "ADJF" and parse.tag.gender == "femn" and parse.tag.case in cases and parse.score > 0.1)
        for parse in parses
    )
