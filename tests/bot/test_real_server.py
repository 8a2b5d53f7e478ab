"""`govor bot` on a real `govor serve` of a tiny run: its prompts are those of the API, and none is too long."""

import json

import pytest

from tests.serving.test_serve import KEY, SYSTEM, Server, make_run, user
from train.bot.run import TEXTS, load_texts
from train.bot.store import FEEDBACK, Store

pytestmark = pytest.mark.long
LONG = "Расскажи мне, как прошёл твой день у реки, что ты видела и о чём думала? " * 3


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("GOVOR_API_KEY", KEY)
    run = make_run(tmp_path, "natasha", hidden_size=64, steps=60, system=SYSTEM)
    running = Server(str(run.path))
    yield running
    running.close()


def test_a_talk_longer_than_the_context(server, stand_in, start_bot, folder):
    telegram = stand_in.telegram
    counted = server.client.responses.input_tokens.count(model="natasha", input=[user("Кто я?")])
    asked = server.ask("natasha", "Кто я?")
    assert counted.input_tokens == asked.usage.prompt_tokens, "with the system message that the server puts in"
    assert (counted.context_length, counted.max_output_tokens) == (1024, 60)

    bot = start_bot(url=server.url)
    assert "speaks as natasha" in bot.output
    telegram.write(7, "Кто я?")
    telegram.settle(300)
    assert telegram.texts(7) == [asked.choices[0].message.content.strip()]
    telegram.press(7, telegram.shown[7][0], "👍")
    for number in range(8):
        telegram.write(7, f"{number} {LONG}")
    telegram.settle(600)
    assert load_texts(TEXTS)["ru"]["failed"] not in telegram.texts(7)
    assert len(telegram.texts(7)) == 9
    output = bot.stop()
    assert "not answered" not in output

    store = Store(folder)
    window = store.history(7, 7)
    store.close()
    assert 1 < len(window) < 9, "some no longer fit"
    messages = []
    for turn in window:
        messages += [user(turn.question), {"role": "assistant", "content": turn.answer}]
    again = server.client.chat.completions.create(model="natasha", messages=messages[:-1])
    assert again.choices[0].message.content.strip() == window[-1].answer == telegram.texts(7)[-1]
    assert again.usage.prompt_tokens + counted.max_output_tokens <= counted.context_length
    [row] = (folder / FEEDBACK).read_text(encoding="utf-8").splitlines()
    assert json.loads(row)["messages"][0] == {"role": "system", "content": SYSTEM}
