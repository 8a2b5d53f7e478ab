"""`govor bot` as people meet it, on a stand-in of the Bot API that keeps state."""

import configparser
import json
import os
import shlex
import sqlite3
import subprocess
import sys

import pytest

from tests.bot.stand_in import ANSWER, CONTEXT, ME, TOKEN, Model
from tests.conftest import REPOSITORY, govor
from train.bot.run import TEXTS, load_texts
from train.bot.store import DATABASE, FEEDBACK
from train.bot.writing import LONGEST, parts_of
from train.chats.checks import validate
from train.cli import main

WORDS = load_texts(TEXTS)
GROUP = -100500
MENTION = f"@{ME['username']}"


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "bot" / FEEDBACK).read_text(encoding="utf-8").splitlines()]


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_conversation(stand_in, start_bot):
    """It says that it is a bot; what was said before reaches the prompt, also after a restart; /reset ends that."""
    telegram, model = stand_in.telegram, stand_in.model
    bot = start_bot()
    telegram.write(7, "/start")
    telegram.write(8, "/start", language="en")
    telegram.write(7, "Меня зовут Пётр")
    telegram.write(7, None, photo=[])
    telegram.settle()
    assert "Я бот" in telegram.texts(7)[0] and "I am a bot" in telegram.texts(8)[0]
    assert telegram.texts(7)[1:] == ["Меня зовут Пётр: вот ответ", WORDS["ru"]["not_text"]]
    assert model.prompts == [[said("user", "Меня зовут Пётр")]], "the server puts in its own system message"
    assert TOKEN not in bot.stop()
    bot = start_bot()
    telegram.write(7, "Как меня зовут?")
    telegram.settle()
    earlier = [said("user", "Меня зовут Пётр"), said("assistant", "Меня зовут Пётр: вот ответ")]
    assert model.prompts[-1] == [*earlier, said("user", "Как меня зовут?")]
    telegram.write(7, "/reset")
    telegram.write(7, "Кто я?")
    telegram.settle()
    assert model.prompts[-1] == [said("user", "Кто я?")]
    telegram.write(7, "слово " * CONTEXT)
    telegram.settle()
    assert telegram.texts(7)[-1] == WORDS["ru"]["too_long"]
    assert len(model.prompts) == 3


def test_votes_and_other_answers_become_rows(stand_in, start_bot, tmp_path):
    telegram = stand_in.telegram
    start_bot()
    for text in ("один", "два", "три"):
        telegram.write(7, text)
    telegram.settle()
    one, two, three = telegram.shown[7]
    telegram.press(7, one, "👍")
    telegram.press(7, two, "👎")
    telegram.press(8, three, "👍")  # who did not ask
    telegram.settle()
    assert telegram.toasts == [WORDS["ru"]["thanks"]] * 2 + [WORDS["ru"]["gone"]]
    opening = [said("system", "Ты Наташа."), said("user", "один")]
    liked = {"messages": [*opening, said("assistant", "один: вот ответ")], "liked": True}
    context = [*liked["messages"], said("user", "два")]
    assert rows(tmp_path) == [liked, {"messages": [*context, said("assistant", "два: вот ответ")], "liked": False}]

    telegram.press(7, two, "Скажи иначе")
    telegram.settle()
    assert telegram.texts(7)[1] == "два: вот ответ другой", "in place of the first answer"
    assert len(telegram.shown[7]) == 3
    pair = {
        "input": {"messages": context},
        "preferred_output": [said("assistant", "два: вот ответ другой")],
        "non_preferred_output": [said("assistant", "два: вот ответ")],
    }
    assert rows(tmp_path) == [liked, pair]
    telegram.press(7, two, "👍")
    telegram.settle()
    assert rows(tmp_path) == [liked, pair]
    telegram.press(7, two, "👎")
    telegram.settle()
    assert rows(tmp_path)[1]["liked"] is False, "it is no better than the first"
    assert validate((tmp_path / "bot" / FEEDBACK,)) is False, "no file of plain training rows"
    telegram.write(7, "четыре")
    telegram.settle()
    assert said("assistant", "два: вот ответ другой") in stand_in.model.prompts[-1]


def test_forget_leaves_no_byte(stand_in, start_bot, tmp_path):
    """Of what a user has written and been told: in the database, its -wal and free pages, the feedback, the output."""
    telegram = stand_in.telegram
    bot = start_bot("--per-minute", "1000")
    for number in range(30):
        telegram.write(7, f"секрет{number} моя тайна {'длинная ' * 40}")
        telegram.write(9, f"чужое{number} остаётся")
    telegram.write(7, f"{MENTION} секрет группы", chat=GROUP, language="en")
    telegram.settle()
    telegram.press(7, telegram.shown[7][-1], "👎")
    telegram.press(7, telegram.shown[7][-1], "Скажи иначе")
    telegram.press(7, telegram.shown[GROUP][-1], "👍")
    telegram.press(9, telegram.shown[9][-1], "👍")
    telegram.settle()

    def traces() -> dict[str, int]:
        files = [path for path in (tmp_path / "bot").rglob("*") if path.is_file()]
        return {path.name: path.read_bytes().count("секрет".encode()) + path.read_bytes().count("тайна".encode())
                for path in files}  # fmt: skip

    assert traces()[FEEDBACK] > 0 and traces()[DATABASE] + traces().get(f"{DATABASE}-wal", 0) > 0
    telegram.write(7, "/forget")
    telegram.settle()
    assert telegram.texts(7)[-1] == WORDS["ru"]["forgotten"]
    assert set(traces().values()) == {0}, traces()
    assert {DATABASE, FEEDBACK} <= set(traces())
    assert len(rows(tmp_path)) == 1 and "чужое29" in json.dumps(rows(tmp_path), ensure_ascii=False)
    bot.kill()
    assert set(traces().values()) == {0}, "a kill brings nothing back"
    output = bot.output
    bot = start_bot("--per-minute", "1000")
    telegram.write(7, "кто я?")
    telegram.write(9, "а я?")
    telegram.settle()
    assert [prompt for prompt in stand_in.model.prompts if prompt[-1]["content"] == "кто я?"] == [
        [said("user", "кто я?")]
    ]
    assert said("user", "чужое29 остаётся") in stand_in.model.prompts[-1] + stand_in.model.prompts[-2]
    assert set(traces().values()) == {0}
    output += bot.stop()
    assert "секрет" not in output and "тайна" not in output and TOKEN not in output
    connection = sqlite3.connect(tmp_path / "bot" / DATABASE)
    assert connection.execute("SELECT count(*) FROM turns WHERE user = 7").fetchone() == (1,)
    connection.close()


def test_who_may_talk_and_how_much(stand_in, start_bot):
    telegram, model = stand_in.telegram, stand_in.model
    start_bot("--allow", "7", "--allow", str(GROUP), "--per-minute", "3")
    telegram.write(8, "пусти")
    for number in range(6):
        telegram.write(7, f"вопрос {number}")
    telegram.settle()
    assert telegram.texts(8) == [WORDS["ru"]["not_allowed"].format(id=8)]
    assert telegram.texts(7) == [*(f"вопрос {n}: вот ответ" for n in range(3)), WORDS["ru"]["too_fast"]]
    telegram.write(7, "/forget")  # is never too much
    telegram.settle()
    assert telegram.texts(7)[-1] == WORDS["ru"]["forgotten"]

    model.prompts.clear()
    telegram.write(9, "болтаем без бота", chat=GROUP)
    telegram.write(9, "/reset@other_bot", chat=GROUP)
    telegram.write(9, f"{MENTION}_2 не тебе", chat=GROUP)
    asked = telegram.write(9, f"{MENTION}, как дела?", chat=GROUP)
    message = telegram.pending[asked]["message"]["message_id"]
    telegram.settle()
    telegram.write(9, "и ещё", chat=GROUP, reply_to_message={**telegram_message(telegram.shown[GROUP][0])})
    telegram.settle()
    assert [prompt[-1]["content"] for prompt in model.prompts] == ["как дела?", "и ещё"]
    assert telegram.texts(GROUP) == ["как дела?: вот ответ", "и ещё: вот ответ"]
    assert telegram.shown[GROUP][0].reply_to == message
    assert telegram.texts(9) == []


def telegram_message(shown) -> dict:
    chat = {"id": shown.chat, "type": "supergroup"}
    return {"message_id": shown.id, "date": 1, "chat": chat, "from": ME, "text": shown.text}


def test_answers_grow_and_long_ones_are_cut_between_words(stand_in, start_bot):
    telegram, model = stand_in.telegram, stand_in.model
    start_bot()
    model.slow = lambda question: 5.0 if question == "медленно" else 0.0
    model.answers = lambda question, temperature: "слово " * 1500 if question == "длинно" else "да " * 50
    telegram.write(7, "медленно")
    telegram.wait(lambda: telegram.shown[7], 30)
    assert len(telegram.texts(7)[0]) < 149, "it is shown before it is whole"
    assert telegram.pending, "and not acknowledged"
    telegram.settle()
    [shown] = telegram.shown[7]
    assert shown.text == ("да " * 50).strip()
    assert 2 <= shown.edits <= 5, "about every 1.5 s"
    assert telegram.calls["sendChatAction"] >= 1
    telegram.write(8, "длинно")
    telegram.settle()
    assert all(len(text) <= LONGEST for text in telegram.texts(8))
    assert " ".join(telegram.texts(8)) == ("слово " * 1500).strip()
    assert [shown.keyboard is not None for shown in telegram.shown[8]] == [False, False, True]


@pytest.mark.parametrize("text", ["а" * 5000, "😀" * 3000, "строка\n" * 1000, "слово " * 3000])
def test_parts_hold_everything(text):
    parts = parts_of(text)
    assert all(0 < len(part.encode("utf-16-le")) // 2 <= LONGEST for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_bad_days(stand_in, start_bot):
    """Telegram refuses and breaks, the model fails: each question has one answer, and no log quotes it."""
    telegram, model = stand_in.telegram, stand_in.model
    bot = start_bot()
    telegram.refusals = [
        (502, {"description": "Bad Gateway"}),
        (429, {"description": "Too Many Requests", "parameters": {"retry_after": 1}}),
    ]
    telegram.write(7, "тайна раз")
    telegram.settle()
    assert telegram.texts(7) == ["тайна раз: вот ответ"]
    assert telegram.refusals == []
    model.fails = 1
    telegram.write(7, "тайна два")
    telegram.write(7, "тайна три")
    telegram.settle()
    assert telegram.texts(7)[1:] == [WORDS["ru"]["failed"], "тайна три: вот ответ"]
    assert said("user", "тайна два") not in model.prompts[-1]
    telegram.refusals = [(403, {"description": "Forbidden: bot was blocked by the user тайна"})]
    telegram.write(8, "тайна четыре")
    telegram.settle()
    assert telegram.texts(8) == []
    output = bot.stop()
    assert "TelegramServerError, again in 1 s" in output
    assert "an update was not answered: BadRequestError" in output
    assert "тайна" not in output and TOKEN not in output and "Traceback" not in output


def test_no_prompt_is_longer_than_the_context(stand_in, start_bot):
    telegram, model = stand_in.telegram, stand_in.model
    start_bot("--per-minute", "1000")
    for number in range(40):
        telegram.write(7, f"код{number} " + "слово " * (number % 30))
    telegram.settle()
    assert all(Model.count(prompt) + ANSWER <= CONTEXT for prompt in model.prompts)
    assert len(model.prompts) == 40
    assert max(map(Model.count, model.prompts)) + ANSWER > CONTEXT - 80, "and it is used"


class TestBadStarts:
    def test_one_line_each(self, tmp_path, monkeypatch):
        (tmp_path / "texts.yaml").write_text("ru: {start: Привет}\nen: {}\n", encoding="utf-8")
        for token, options, message in (
            (None, [], "TELEGRAM_BOT_TOKEN is not set: put the token in it that @BotFather gave you"),
            ("нет", [], "TELEGRAM_BOT_TOKEN holds no token"),
            (TOKEN, ["--bot-api", "ftp://x"], "--bot-api ftp://x: expected http://… or https://…"),
            (TOKEN, ["--texts", "texts.yaml"], "--texts texts.yaml: ru.reset: expected the same texts"),
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

    def test_a_token_that_is_refused(self, stand_in, start_bot):
        bot = start_bot(token=TOKEN[:-1] + "9")
        assert bot.process.wait(60) == 2
        assert bot._ended() == "error: Telegram refuses the token in TELEGRAM_BOT_TOKEN\n"

    def test_two_bots_in_one_folder(self, stand_in, start_bot):
        start_bot()
        assert "another bot works on this folder" in start_bot().output


def test_the_short_bot_to_copy(stand_in):
    """scripts/telegram_bot.py: at most 100 lines, answers in order, remembers, begins anew; no token in its output."""
    script = REPOSITORY / "scripts/telegram_bot.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 100
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
    finally:
        process.terminate()
        _, output = process.communicate(timeout=30)
    assert "бот" in telegram.texts(7)[0]
    answers = [text for text in telegram.texts(7) if "ответ" in text and "бот" not in text]
    assert answers == ["первый: вот ответ", "второй: вот ответ", "третий: вот ответ"]
    assert stand_in.model.prompts[1] == [said("user", "первый"), said("assistant", answers[0]), said("user", "второй")]
    assert TOKEN not in output


def test_both_languages_have_the_same_texts():
    assert WORDS["ru"].keys() == WORDS["en"].keys()
    assert "{id}" in WORDS["ru"]["not_allowed"] and "{id}" in WORDS["en"]["not_allowed"]


@pytest.mark.parametrize("name", ["govor-serve.service", "govor-bot.service"])
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
