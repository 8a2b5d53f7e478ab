"""`govor bot` as people meet it, on a stand-in of the Bot API that keeps state."""

import configparser
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.bot.conftest import Bot
from tests.bot.stand_in import ANSWER, CONTEXT, ME, TOKEN, Model, StandIn
from tests.conftest import REPOSITORY, govor
from train.bot.run import TEXTS, load_texts
from train.bot.store import DATABASE, FEEDBACK
from train.bot.writing import LONGEST, parts_of
from train.cli import main

WORDS = load_texts(TEXTS)
GROUP = -100500
MENTION = f"@{ME['username']}"


@pytest.fixture(scope="module")
def bot(start_bot):
    """One bot for the tests below, each with users of its own."""
    return start_bot("--per-minute", "100")


@pytest.fixture
def telegram(stand_in):
    stand_in.telegram.toasts.clear()
    return stand_in.telegram


@pytest.fixture
def model(stand_in):
    stand_in.model = Model()
    return stand_in.model


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / FEEDBACK).read_text(encoding="utf-8").splitlines()]


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_conversation(bot, telegram, model):
    """It says that it is a bot; what was said before reaches the prompt; /reset ends that."""
    telegram.write(7, "/start")
    telegram.write(8, "/start", language="en")
    telegram.write(7, "Меня зовут Пётр")
    telegram.write(7, None, photo=[])
    telegram.write(7, "Как меня зовут?")
    telegram.settle()
    assert "Я бот" in telegram.texts(7)[0] and "I am a bot" in telegram.texts(8)[0]
    answer, last = "Меня зовут Пётр: вот ответ", "Как меня зовут?: вот ответ"
    assert telegram.texts(7)[1:] == [answer, WORDS["ru"]["not_text"], last]
    first = [said("user", "Меня зовут Пётр")]
    assert model.prompts[0] == first, "the server puts in its own system message"
    assert model.prompts[1] == [*first, said("assistant", answer), said("user", "Как меня зовут?")]
    telegram.write(7, "/reset")
    telegram.write(7, "Кто я?")
    telegram.settle()
    assert model.prompts[-1] == [said("user", "Кто я?")]
    telegram.write(7, "слово " * CONTEXT)
    telegram.settle()
    assert telegram.texts(7)[-1] == WORDS["ru"]["too_long"]
    assert len(model.prompts) == 3


def test_votes_and_other_answers_become_rows(bot, telegram, model, folder):
    for text in ("один", "два", "три"):
        telegram.write(17, text)
    telegram.settle()
    one, two, three = telegram.shown[17]
    telegram.press(17, one, "👍")
    telegram.press(17, two, "👎")
    telegram.press(18, three, "👍")  # who did not ask
    telegram.settle()
    assert sorted(telegram.toasts) == sorted([WORDS["ru"]["thanks"]] * 2 + [WORDS["ru"]["gone"]])
    opening = [said("system", "Ты Наташа."), said("user", "один")]
    liked = {"messages": [*opening, said("assistant", "один: вот ответ")], "liked": True}
    context = [*liked["messages"], said("user", "два")]
    assert rows(folder) == [liked, {"messages": [*context, said("assistant", "два: вот ответ")], "liked": False}]

    telegram.press(17, two, "Скажи иначе")
    telegram.settle()
    assert telegram.texts(17)[1] == "два: вот ответ другой", "in place of the first answer"
    assert len(telegram.shown[17]) == 3
    pair = {
        "input": {"messages": context},
        "preferred_output": [said("assistant", "два: вот ответ другой")],
        "non_preferred_output": [said("assistant", "два: вот ответ")],
    }
    assert rows(folder) == [liked, pair]
    telegram.press(17, two, "👍")
    telegram.settle()
    assert rows(folder) == [liked, pair]
    telegram.press(17, two, "👎")
    telegram.settle()
    assert rows(folder)[1]["liked"] is False, "it is no better than the first"
    telegram.write(17, "четыре")
    telegram.settle()
    assert said("assistant", "два: вот ответ другой") in model.prompts[-1]


def test_answers_grow_and_long_ones_are_cut_between_words(bot, telegram, model):
    model.slow = lambda question: 8.0 if question == "медленно" else 0.0
    model.answers = lambda question, temperature: "слово " * 1500 if question == "длинно" else "да " * 50
    telegram.write(27, "медленно")
    telegram.wait(lambda: telegram.shown[27], 30)
    assert len(telegram.texts(27)[0]) < 149, "it is shown before it is whole"
    assert telegram.pending, "and not acknowledged"
    telegram.settle()
    [shown] = telegram.shown[27]
    assert shown.text == ("да " * 50).strip()
    assert 2 <= shown.edits <= 6, "about every 1.5 s, and the last"
    assert telegram.calls["sendChatAction"] >= 1
    telegram.write(28, "длинно")
    telegram.settle()
    assert all(len(text) <= LONGEST for text in telegram.texts(28))
    assert " ".join(telegram.texts(28)) == ("слово " * 1500).strip()
    assert [shown.keyboard is not None for shown in telegram.shown[28]] == [False, False, True]


def test_bad_days(bot, telegram, model):
    """Telegram refuses and breaks, the model fails: each question has one answer, and no log quotes it."""
    telegram.refusals = [
        (502, {"description": "Bad Gateway"}),
        (429, {"description": "Too Many Requests", "parameters": {"retry_after": 1}}),
    ]
    telegram.write(37, "тайна раз")
    telegram.settle()
    assert telegram.texts(37) == ["тайна раз: вот ответ"]
    assert telegram.refusals == []
    model.fails = 1
    telegram.write(37, "тайна два")
    telegram.write(37, "тайна три")
    telegram.settle()
    assert telegram.texts(37)[1:] == [WORDS["ru"]["failed"], "тайна три: вот ответ"]
    assert said("user", "тайна два") not in model.prompts[-1]
    telegram.refusals = [(403, {"description": "Forbidden: bot was blocked by the user тайна"})]
    telegram.write(38, "тайна четыре")
    telegram.settle()
    assert telegram.texts(38) == []
    telegram.refused = {"sendChatAction"}
    model.slow = lambda question: 2.0
    telegram.write(37, "тайна пять")
    telegram.settle()
    telegram.refused = set()
    assert telegram.texts(37)[-1] == "тайна пять: вот ответ"
    assert "TelegramServerError, again in 1 s" in bot.output
    assert "an update was not answered: BadRequestError" in bot.output
    assert "тайна" not in bot.output and TOKEN not in bot.output and "Traceback" not in bot.output


def test_what_this_aiogram_cannot_read(bot, telegram, model):
    """One message of a newer Bot API stops nobody, and is answered; so is what is sent in answer, once."""
    newer = {"forward_origin": {"type": "hologram", "date": 1}}
    telegram.write(39, "из будущего", **newer)
    telegram.write(39, None, **newer)
    telegram._deliver("message", newer)
    telegram.write(38, "я тоже тут")
    telegram.settle(20)
    assert telegram.texts(39) == ["из будущего: вот ответ", WORDS["ru"]["not_text"]]
    assert telegram.texts(38) == ["я тоже тут: вот ответ"]
    telegram.unknown = newer
    telegram.write(39, "ещё")
    telegram.settle(20)
    telegram.unknown = {}
    assert telegram.texts(39)[2:] == ["ещё: вот ответ"]


def test_no_prompt_is_longer_than_the_context(bot, telegram, model):
    for number in range(40):
        telegram.write(47, f"код{number} " + "слово " * (number % 30))
    telegram.settle()
    assert all(Model.count(prompt) + ANSWER <= CONTEXT for prompt in model.prompts)
    assert len(model.prompts) == 40
    assert max(map(Model.count, model.prompts)) + ANSWER > CONTEXT - 80, "and it is used"


def test_a_second_bot_in_its_folder(bot, start_bot):
    assert "another bot works on this folder" in start_bot().output


def test_forget_leaves_no_byte(bot, telegram, model, start_bot, folder):
    """Of what a user has written and been told: in the database, its -wal and free pages, the feedback, the output."""
    for number in range(20):
        telegram.write(57, f"секрет{number} моя тайна {'длинная ' * 40}")
        telegram.write(59, f"чужое{number} остаётся")
    telegram.write(57, f"{MENTION} секрет группы", chat=GROUP)
    telegram.settle()
    telegram.press(57, telegram.shown[57][-1], "👎")
    telegram.press(57, telegram.shown[57][-1], "Скажи иначе")
    telegram.press(57, telegram.shown[GROUP][-1], "👍")
    telegram.press(59, telegram.shown[59][-1], "👍")
    telegram.settle()

    def traces() -> dict[str, int]:
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return {name: raw.count("секрет".encode()) + raw.count("длинная".encode()) for name, raw in files.items()}

    assert traces()[FEEDBACK] > 0 and traces()[DATABASE] + traces().get(f"{DATABASE}-wal", 0) > 0
    telegram.write(57, "/forget")
    telegram.settle()
    assert telegram.texts(57)[-1] == WORDS["ru"]["forgotten"]
    assert set(traces().values()) == {0}, traces()
    assert {DATABASE, FEEDBACK} <= set(traces())
    assert "чужое19" in json.dumps(rows(folder), ensure_ascii=False), "others' feedback stays"
    output = bot.kill()
    assert set(traces().values()) == {0}, "a kill brings nothing back"

    model.prompts.clear()
    again = start_bot("--allow", "57", "--allow", "59", "--allow", str(GROUP), "--per-minute", "3")
    telegram.write(57, "кто я?")
    telegram.write(59, "а я?")
    telegram.settle()
    by_question = {prompt[-1]["content"]: prompt for prompt in model.prompts}
    assert by_question["кто я?"] == [said("user", "кто я?")]
    assert said("user", "чужое19 остаётся") in by_question["а я?"], "a talk goes on after a restart"
    assert set(traces().values()) == {0}
    output += again.output
    assert "секрет" not in output and TOKEN not in output


def test_who_may_talk_and_how_much(telegram, model):
    """With the bot that the test before has started."""
    telegram.write(8, "пусти")
    for number in range(6):
        telegram.write(59, f"вопрос {number}")
    telegram.settle()
    assert telegram.texts(8)[-1] == WORDS["ru"]["not_allowed"].format(id=8)
    assert telegram.texts(59)[-1] == WORDS["ru"]["too_fast"]
    assert 2 <= sum("вопрос" in prompt[-1]["content"] for prompt in model.prompts) <= 3
    assert telegram.texts(59).count(WORDS["ru"]["too_fast"]) == 1, "said once"
    telegram.write(59, "/forget")  # is never too much
    telegram.settle()
    assert telegram.texts(59)[-1] == WORDS["ru"]["forgotten"]
    telegram.write(59, "и снова", language="en")
    for _ in range(9):
        telegram.write(10, None, sticker=None)
    telegram.settle()
    assert telegram.texts(59)[-1] == WORDS["ru"]["forgotten"], "/forget does not make room for more"
    assert len(telegram.texts(10)) <= 4, "nor may who is not let in keep others waiting"

    model.prompts.clear()
    telegram.write(9, "болтаем без бота", chat=GROUP)
    telegram.write(9, "/reset@other_bot", chat=GROUP)
    telegram.write(9, f"{MENTION}_2 не тебе", chat=GROUP)
    asked = telegram.write(9, f"{MENTION}, как дела?", chat=GROUP)
    message = telegram.pending[asked]["message"]["message_id"]
    telegram.settle()
    answered = telegram.shown[GROUP][-1]
    chat = {"id": GROUP, "type": "supergroup"}
    own = {"message_id": answered.id, "date": 1, "chat": chat, "from": ME, "text": answered.text}
    telegram.write(9, "и ещё", chat=GROUP, reply_to_message=own)
    telegram.settle()
    assert [prompt[-1]["content"] for prompt in model.prompts] == ["как дела?", "и ещё"]
    assert telegram.texts(GROUP)[-2:] == ["как дела?: вот ответ", "и ещё: вот ответ"]
    assert answered.reply_to == message
    assert telegram.texts(9) == []


@pytest.mark.parametrize("text", ["а" * 5000, "😀" * 3000, "строка\n" * 1000, "слово " * 3000])
def test_parts_hold_everything(text):
    parts = parts_of(text)
    assert all(0 < len(part.encode("utf-16-le")) // 2 <= LONGEST for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


class TestBadStarts:
    def test_one_line_each(self, tmp_path, monkeypatch):
        (tmp_path / "texts.yaml").write_text("ru: {start: Привет}\nen: {}\n", encoding="utf-8")
        blank = TEXTS.read_text(encoding="utf-8").replace("Спасибо!", '" "')
        (tmp_path / "blank.yaml").write_text(blank, encoding="utf-8")
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / DATABASE).write_bytes(b"no database" * 1000)
        (tmp_path / "older").mkdir()
        with closing(sqlite3.connect(tmp_path / "older" / DATABASE)) as other:
            other.execute("CREATE TABLE turns (id INTEGER PRIMARY KEY, chat INTEGER, user INTEGER)")
        for token, options, message in (
            (None, [], "TELEGRAM_BOT_TOKEN is not set: put the token in it that @BotFather gave you"),
            ("нет", [], "TELEGRAM_BOT_TOKEN holds no token"),
            (TOKEN, ["--bot-api", "ftp://x"], "--bot-api ftp://x: expected http://… or https://…"),
            (TOKEN, ["--texts", "texts.yaml"], "--texts texts.yaml: ru.reset: expected the same texts"),
            (TOKEN, ["--texts", "blank.yaml"], "--texts blank.yaml: ru.thanks: expected the same texts"),
            (TOKEN, ["--allow", "ivan"], "--allow ivan: expected the number of a user or a group, or a name with @"),
            (TOKEN, ["--allow", "@"], "--allow @: expected the number"),
            (TOKEN, ["--data-dir", "damaged"], "damaged/bot.sqlite3: file is not a database: move it away"),
            (TOKEN, ["--data-dir", "older"], "older/bot.sqlite3: no such column: update_id: move it away"),
            (TOKEN, ["--data-dir", "texts.yaml"], "texts.yaml: File exists"),
            (TOKEN, ["--texts", "none.yaml"], "--texts none.yaml: cannot be read"),
            (TOKEN, [], "http://127.0.0.1:9 cannot be reached: start `govor serve RUN` first"),
        ):
            if token is None:
                monkeypatch.delenv("TELEGRAM_BOT_TOKEN", raising=False)
            else:
                monkeypatch.setenv("TELEGRAM_BOT_TOKEN", token)
            result = govor("bot", "http://127.0.0.1:9", *options)
            assert result.exit_code == 2
            assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1
            assert TOKEN not in result.output + result.stderr

    def test_a_token_that_is_refused(self, start_bot):
        bot = start_bot("--data-dir", "another", token=TOKEN[:-1] + "9")
        assert bot.process.wait(60) == 2
        assert bot._ended() == "error: Telegram refuses the token in TELEGRAM_BOT_TOKEN\n"

    def test_a_server_that_counts_no_tokens(self, start_bot, stand_in):
        for tokens, message in (
            (None, "does not count tokens: the bot wants `govor serve` behind it"),
            (CONTEXT, ": the system message of natasha leaves no room in its context"),
        ):
            stand_in.model = Model()
            stand_in.model.count = lambda messages, tokens=tokens: tokens
            bot = start_bot("--data-dir", "another")
            assert bot.process.wait(60) == 2
            assert bot._ended().endswith(f"{message}\n") and "unexpected" not in bot.output
        stand_in.model = Model()


@pytest.fixture
def alone(tmp_path):
    """(a Telegram of its own, the bot's folder, a function that starts a bot there): for what stops a bot."""
    stand_in, bots = StandIn(), []

    def start():
        bots.append(Bot(stand_in, tmp_path / "bot"))
        return bots[-1]

    yield stand_in.telegram, tmp_path / "bot", start
    for bot in bots:
        bot.kill()
    stand_in.close()


@pytest.mark.long
def test_a_database_that_another_program_holds(alone):
    """The bot ends with a line, and whoever starts it again has every message answered."""
    telegram, folder, start = alone
    bot = start()
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        telegram.write(7, "один")
        telegram.write(8, "два")
        assert bot.process.wait(120) == 2
    output = bot.kill()
    assert output.endswith(f"error: {folder / DATABASE}: database is locked: end the program that holds it\n")
    start()
    telegram.settle(60)
    assert {telegram.texts(7)[-1], telegram.texts(8)[-1]} == {"один: вот ответ", "два: вот ответ"}
    assert len(telegram.texts(7)) + len(telegram.texts(8)) <= 3, "one twice at most"


@pytest.mark.long
def test_a_token_that_is_revoked_loses_nothing(alone):
    telegram, _, start = alone
    bot = start()
    telegram.refusals = [(401, {"description": "Unauthorized"})]
    telegram.write(7, "один")
    assert bot.process.wait(60) == 2
    assert bot.kill().endswith("error: Telegram refuses the token in TELEGRAM_BOT_TOKEN\n")
    start()
    telegram.settle(60)
    assert telegram.texts(7) == ["один: вот ответ"]


@pytest.mark.long
def test_the_short_bot_to_copy():
    """scripts/telegram_bot.py: at most 100 lines, answers in order, remembers, begins anew; no token in its output."""
    script = REPOSITORY / "scripts/telegram_bot.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 100
    stand_in = StandIn()
    stand_in.model.slow = lambda question: 2.0 if question == "первый" else 0.0
    telegram = stand_in.telegram
    environment = {**os.environ, "TELEGRAM_BOT_TOKEN": TOKEN, "BOT_API_URL": stand_in.url}
    process = subprocess.Popen(
        [sys.executable, script, f"{stand_in.url}/v1"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        for text in ("/start", "первый", "второй", "/reset"):
            telegram.write(7, text)
        telegram.wait(lambda: len(telegram.shown[7]) == 4 and not telegram.pending)
        telegram.wait(lambda: "второй: вот ответ" in telegram.texts(7))
        telegram.write(7, "третий")
        telegram.wait(lambda: "третий: вот ответ" in telegram.texts(7))
        stand_in.model.answers = lambda question, temperature: "😀" * 3000
        telegram.write(8, "смайлики")
        telegram.wait(lambda: telegram.texts(8) == ["😀" * 2048], 20)
    finally:
        process.terminate()
        _, output = process.communicate(timeout=30)
        stand_in.close()
    assert "бот" in telegram.texts(7)[0]
    answers = [text for text in telegram.texts(7) if "ответ" in text and "бот" not in text]
    assert answers == ["первый: вот ответ", "второй: вот ответ", "третий: вот ответ"]
    assert stand_in.model.prompts[1] == [said("user", "первый"), said("assistant", answers[0]), said("user", "второй")]
    assert TOKEN not in output


def test_both_languages_have_the_same_texts():
    assert WORDS["ru"].keys() == WORDS["en"].keys()
    assert "{id}" in WORDS["ru"]["not_allowed"] and "{id}" in WORDS["en"]["not_allowed"]


@pytest.mark.parametrize("name", ["govor-serve.service", "govor-bot.service"])
@pytest.mark.long
def test_units_start_what_there_is(name):
    """Each names a verb with options that it has, and keeps secrets out of the command line."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(REPOSITORY / "configs/systemd" / name, encoding="utf-8")
    program, verb, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/.venv/bin/govor")
    known = {option for parameter in main.commands[verb].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert unit["Service"]["EnvironmentFile"] and "TOKEN" not in unit["Service"]["ExecStart"]
    assert unit["Service"]["Restart"] == "always"
