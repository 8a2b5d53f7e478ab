"""An answer as it is shown: a message that is sent once and then edited while it grows; several where it is long."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramBadRequest,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)  # fmt: skip
from aiogram.types import InlineKeyboardMarkup, Message

LONGEST = 4096
"""UTF-16 units that a message may have (core.telegram.org/bots/api, sendMessage)."""
EDIT_EVERY, EDIT_EVERY_IN_GROUP = 1.5, 3.5
"""Seconds between edits of an answer. A group takes 20 messages a minute of a bot (core.telegram.org/bots/faq)."""
LONGEST_PAUSE = 60.0
TYPING_AFTER, TYPING_EVERY = 1.0, 5.0
"""Seconds. Telegram shows for five that somebody types (core.telegram.org/bots/api, sendChatAction)."""
T = TypeVar("T")


class Telegram:
    """The Bot API with the patience that it asks for.

    One message is sent at a time, and noted before the next: a kill between sending and noting is what makes a
    message appear twice, so it can happen to one message alone.
    """

    def __init__(self, bot: Bot, per_second: float) -> None:
        self.bot = bot
        self.sending = asyncio.Lock()
        self._gap = 1 / per_second
        self._free_at = 0.0

    async def send(
        self, to: Message, text: str, keyboard: InlineKeyboardMarkup | None, note: Callable[[int], None]
    ) -> int:
        """Send a text where a message came from, and note the new message's id; in a group as a reply."""
        reply = None if to.chat.type == "private" else to.as_reply_parameters(allow_sending_without_reply=True)

        async def once() -> int:
            await self._slot()
            async with self.sending:
                try:
                    sent = (
                        await to.answer(text, reply_parameters=reply, reply_markup=keyboard).as_(self.bot)
                    ).message_id
                except ClientDecodeError as error:
                    sent = result_of(error)["message_id"]
                note(sent)
            return int(sent)

        return await patiently(once)

    async def edit(self, chat: int, message: int, text: str, keyboard: InlineKeyboardMarkup | None) -> None:
        """Have a message show a text, whatever it shows; one that the user has deleted stays so."""

        async def once() -> None:
            await self._slot()
            await self.bot.edit_message_text(text, chat_id=chat, message_id=message, reply_markup=keyboard)

        with suppress(TelegramBadRequest):
            await patiently(once)

    async def try_edit(self, chat: int, message: int, text: str) -> None:
        """The same where it can be done at once."""
        if self._free_at <= time.monotonic():
            await self._slot()
            with suppress(AiogramError):
                await self.bot.edit_message_text(text, chat_id=chat, message_id=message)

    async def delete(self, chat: int, message: int) -> None:
        """Delete a message where that can be done."""
        with suppress(AiogramError):
            await self.bot.delete_message(chat, message)

    async def type(self, to: Message) -> None:
        """Show in a chat that somebody types, until cancelled."""
        thread = to.message_thread_id if to.is_topic_message else None
        await asyncio.sleep(TYPING_AFTER)
        while True:
            with suppress(AiogramError):
                await self.bot.send_chat_action(to.chat.id, "typing", message_thread_id=thread)
            await asyncio.sleep(TYPING_EVERY)

    async def _slot(self) -> None:
        """Wait until another request fits the bound on all of them."""
        now = time.monotonic()
        at = max(now, self._free_at)
        self._free_at = at + self._gap
        await asyncio.sleep(at - now)


def result_of(error: ClientDecodeError) -> Any:
    """What Telegram has done and says of it, where it knows more than this aiogram; else the error is raised."""
    if isinstance(error.data, dict) and error.data.get("ok"):
        return error.data["result"]
    raise error


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call, tried again for as long as it takes Telegram or the network to come back."""
    pause = 1.0
    while True:
        try:
            return await call()
        except TelegramRetryAfter as error:
            wait: float = error.retry_after
        except (TelegramNetworkError, TelegramServerError, ClientDecodeError) as error:
            wait, pause = pause, min(2 * pause, LONGEST_PAUSE)
            print(f"Telegram: {type(error).__name__}, again in {wait:g} s", file=sys.stderr, flush=True)
        await asyncio.sleep(wait)


class Writing:
    """One answer on its way into a chat. `messages`: ids of those that show it already."""

    def __init__(
        self, telegram: Telegram, to: Message, messages: list[int], note: Callable[[list[int]], object]
    ) -> None:
        self.telegram = telegram
        self.to = to
        self.messages = list(messages)
        self._note = note
        self._shown: dict[int, str] = {}
        self._pause = EDIT_EVERY if to.chat.type == "private" else EDIT_EVERY_IN_GROUP
        self._due = time.monotonic() + self._pause

    async def grow(self, text: str) -> None:
        """Show what there is of the answer, unless it was shown just now."""
        if time.monotonic() >= self._due and text.strip():
            await self._show(text, None, last=False)
            self._due = time.monotonic() + self._pause

    async def end(self, text: str, keyboard: InlineKeyboardMarkup | None) -> None:
        """Show the whole answer; what is left of a longer one goes."""
        await self._show(text, keyboard, last=True)
        for message in self.messages[len(parts_of(text)) :]:
            await self.telegram.delete(self.to.chat.id, message)

    async def _show(self, text: str, keyboard: InlineKeyboardMarkup | None, *, last: bool) -> None:
        parts = parts_of(text)
        for at, part in enumerate(parts):
            keys = keyboard if at + 1 == len(parts) else None
            if at == len(self.messages):
                await self.telegram.send(self.to, part, keys, self._sent)
            elif last:
                await self.telegram.edit(self.to.chat.id, self.messages[at], part, keys)
            elif self._shown.get(at) != part:
                await self.telegram.try_edit(self.to.chat.id, self.messages[at], part)
            self._shown[at] = part

    def _sent(self, message: int) -> None:
        self.messages.append(message)
        self._note(self.messages)


def parts_of(text: str) -> list[str]:
    """A text in parts that one message can hold each, cut at line ends or spaces where there are some."""
    parts, text = [], text.strip()
    while len(text.encode("utf-16-le")) > 2 * LONGEST:
        head = text.encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", errors="ignore")
        at = max(head.rfind("\n"), head.rfind(" "))
        at = at if at > len(head) // 2 else len(head)
        parts.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*parts, text]
