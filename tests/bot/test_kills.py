"""200 people write 20 messages each while the bot is killed: what the stand-in of the Bot API counted."""

import os
import random

import pytest

from tests.bot.stand_in import ANSWER, CONTEXT, TOKEN, Model

USERS, MESSAGES, KILLS = (int(os.environ.get(f"GOVOR_BOT_{name}", size)) for name, size in
                          (("USERS", 200), ("MESSAGES", 20), ("KILLS", 5)))  # fmt: skip
LIMITS = ("--per-minute", "100000", "--per-second", "2000")


def question(user: int, number: int) -> str:
    words = " ".join(["слово"] * ((user + number) % 23))
    return f"u{user} m{number} код К{user}-{number} {words}".strip()


def answer(asked: str, temperature: float | None) -> str:
    who, number = asked.split()[:2]
    return f"{who} {number}: ответ " + " ".join(["да"] * (int(number[1:]) % 5))


def number_of(text: str) -> int:
    """Which message an answer, or the beginning of one, belongs to."""
    return int(text.split()[1].strip(":m"))


@pytest.mark.long
def test_nothing_is_lost_or_out_of_order(stand_in, start_bot):
    telegram, model = stand_in.telegram, stand_in.model
    model.answers = answer
    model.slow = lambda asked: 2.5 if asked.split()[1] in ("m3", "m11") and asked[1] == "7" else 0.0
    early: list[int] = []
    telegram.on_acknowledge = lambda ids: early.extend(id_ for id_ in ids if not answered(telegram, asked_by[id_]))
    asked_by = {}
    for number in range(MESSAGES):
        for user in range(1, USERS + 1):
            asked_by[telegram.write(user, question(user, number))] = (user, number)

    output = ""
    chance = random.Random(1)
    bot = start_bot(*LIMITS)
    for kill in range(KILLS):
        sent = (kill + chance.random()) * USERS * MESSAGES / (KILLS + 1)
        telegram.wait(lambda sent=sent: telegram.calls["sendMessage"] >= sent, 3600)
        output += bot.kill()
        bot = start_bot(*LIMITS)
    telegram.settle(3600)
    output += bot.stop()

    twice = 0
    for user in range(1, USERS + 1):
        texts = telegram.texts(user)
        shown = [text for text in texts if " " in text]  # a kill may leave an answer's first word, and it comes again
        numbers = [number_of(text) for text in shown]
        assert set(numbers) == set(range(MESSAGES)), "one is lost"
        assert numbers == sorted(numbers), "the order is lost"
        twice += len(texts) - MESSAGES
        last = {number_of(text): text for text in shown}
        assert all(last[n] == answer(question(user, n), None).strip() for n in last), "one is not whole"
    print(f"{USERS * MESSAGES} questions, {KILLS} kills, {twice} messages twice")
    assert twice <= KILLS
    assert early == [], "acknowledged before its answer was there"
    assert TOKEN not in output
    assert_windows(model)


def answered(telegram, asked) -> bool:
    user, number = asked
    return answer(question(user, number), None).strip() in telegram.texts(user)


def assert_windows(model: Model) -> None:
    """Each prompt is the longest end of the conversation that fits, so a fact within the window reaches every one."""
    facts = 0
    for prompt in model.prompts:
        asked = prompt[-1]["content"]
        user, now = int(asked.split()[0][1:]), number_of(asked)
        assert Model.count(prompt) + ANSWER <= CONTEXT
        first = now - len(prompt) // 2
        assert prompt == talk(user, first, now)
        facts += sum(f"К{user}-{number}" in message["content"] for number in range(first, now) for message in prompt)
        assert first == 0 or Model.count(talk(user, first - 1, now)) + ANSWER > CONTEXT, "one more would have fitted"
    assert facts > 0
    assert {question(user, number) for user in range(1, USERS + 1) for number in range(MESSAGES)} == {
        prompt[-1]["content"] for prompt in model.prompts
    }


def talk(user: int, first: int, now: int) -> list[dict[str, str]]:
    """What a user and the bot have said, from one question to another."""
    messages = []
    for number in range(first, now + 1):
        asked = question(user, number)
        messages += [{"role": "user", "content": asked}]
        messages += [{"role": "assistant", "content": answer(asked, None).strip()}] if number < now else []
    return messages
