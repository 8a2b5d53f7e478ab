"""A Telegram bot that speaks as a served model, short enough to copy into a bot of your own.

    pip install aiogram openai
    TELEGRAM_BOT_TOKEN=123456:ABC… python scripts/telegram_bot.py http://127.0.0.1:8000/v1

Conversations are kept in memory: the last TURNS of each chat, gone with the process. `govor bot URL` is the whole bot:
it loses no message, counts tokens, takes votes, forgets on request.
"""

import asyncio
import os
import sys
import time
from collections import defaultdict, deque
from contextlib import suppress
from typing import Any

from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import TelegramAPIError
from aiogram.filters import Command, CommandStart
from aiogram.types import Message
from openai import AsyncOpenAI, OpenAIError

TURNS = 10
"""Questions and answers that the model is reminded of."""
EDIT_EVERY = 1.5
"""Seconds between edits of a growing answer: Telegram wants about one message a second in a chat."""
LONGEST = 4096  # UTF-16 units that a message may have

dispatcher = Dispatcher()
client: AsyncOpenAI
model = ""
talks: defaultdict[int, deque[Any]] = defaultdict(lambda: deque(maxlen=2 * TURNS))
in_turn: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
"""Of each chat: one question is answered after another."""


@dispatcher.message(CommandStart())
async def start(message: Message) -> None:
    await message.answer("Здравствуйте! Я бот: вам отвечает языковая модель. /reset начинает разговор заново.")


@dispatcher.message(Command("reset"))
async def reset(message: Message) -> None:
    async with in_turn[message.chat.id]:
        talks.pop(message.chat.id, None)
    await message.answer("Начнём сначала.")


@dispatcher.message(F.text)
async def take(message: Message) -> None:
    async with in_turn[message.chat.id]:
        await answer(message)


async def answer(message: Message) -> None:
    talk = talks[message.chat.id]
    question = {"role": "user", "content": message.text}
    text, shown, due = "", None, time.monotonic() + EDIT_EVERY
    try:
        stream = await client.chat.completions.create(model=model, messages=[*talk, question], stream=True)
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if text.strip() and time.monotonic() > due:
                with suppress(TelegramAPIError):  # the next edit shows more
                    shown = await show(message, shown, text)
                due = time.monotonic() + EDIT_EVERY
    except OpenAIError as error:
        print(f"the model does not answer: {type(error).__name__}", file=sys.stderr)
    if not text.strip():
        await show(message, shown, "Сейчас не получилось ответить.")
        return
    with suppress(TelegramAPIError):  # an edit that changes nothing is refused
        await show(message, shown, text)
    talk += [question, {"role": "assistant", "content": text.strip()}]


async def show(message: Message, shown: Message | None, text: str) -> Message:
    """Send the text, or have the message that was sent show it."""
    text = text.strip().encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", errors="ignore")
    if shown is None:
        return await message.answer(text)
    await shown.edit_text(text)
    return shown


async def main(url: str) -> None:
    global client, model
    client = AsyncOpenAI(base_url=url, api_key=os.environ.get("GOVOR_API_KEY", "none"))
    model = (await client.models.list()).data[0].id
    own_server = os.environ.get("BOT_API_URL")  # a Bot API server of your own
    session = AiohttpSession(api=TelegramAPIServer.from_base(own_server) if own_server else PRODUCTION)
    await dispatcher.start_polling(Bot(os.environ["TELEGRAM_BOT_TOKEN"], session=session))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
