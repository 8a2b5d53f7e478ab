"""What the bot does with a message and with a button, and who may talk to it."""

import asyncio
import re
import sqlite3
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiogram import Dispatcher, F
from aiogram.exceptions import AiogramError, TelegramForbiddenError, TelegramUnauthorizedError
from aiogram.filters import Command, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update, User
from openai import OpenAIError

from train.bot.model import ServedModel, TooLongError
from train.bot.store import Store, Turn
from train.bot.writing import Telegram, Writing

MINUTE = 60.0
OTHERWISE = 1.0
"""Temperature of another answer to the same question: a run may answer greedily, and would say the same again."""
Texts = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Rules:
    """Who may talk, and how much."""

    allowed: Sequence[str] = ()
    """Ids of users and chats, and @names of users; none lets everybody in."""
    per_minute: int = 20
    """Messages and presses of one user that are answered within a minute; /forget always is."""

    def let_in(self, user: User, chat: int | None) -> bool:
        """Whether this user may talk in this chat."""
        names = {str(user.id), str(chat), f"@{user.username or ''}".lower()}
        return not self.allowed or any(entry.lower() in names for entry in self.allowed)


class Persona:
    """The bot. One user's updates are handled one after another, in their order; those of several at once."""

    def __init__(
        self, telegram: Telegram, me: User, model: ServedModel, store: Store, texts: Texts, rules: Rules
    ) -> None:
        self.telegram, self.me, self.model = telegram, me, model
        self.store, self.texts, self.rules = store, texts, rules
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked: defaultdict[int, deque[float]] = defaultdict(deque)
        """Unix times of what was answered within the last minute, by user."""
        self._warned: dict[int, float] = {}
        """When a user was last told to write more slowly."""
        self._dispatcher = Dispatcher(disable_fsm=True)
        self._dispatcher.message.register(self._start, CommandStart())
        self._dispatcher.message.register(self._reset, Command("reset"))
        self._dispatcher.message.register(self._forget, Command("forget"))
        self._dispatcher.message.register(self._answer, F.text)
        self._dispatcher.message.register(self._not_text)
        self._dispatcher.callback_query.register(self._press)

    async def handle(self, update: Update) -> None:
        """Handle an update to its end: it need not be delivered again."""
        event = update.message or update.callback_query
        user = event.from_user if event else None
        message = event.message if isinstance(event, CallbackQuery) else event
        if user is None or user.is_bot or message is None or (update.message and not self._is_meant(update.message)):
            self.store.handle(update.update_id)
            return
        async with self._locks[user.id]:
            try:
                at = update.message.date.timestamp() if update.message else time.time()
                forget = update.message and (update.message.text or "").startswith("/forget")
                if not forget and not self._in_time(user.id, at):
                    await self._slow_down(update, user.id, at)
                elif self.rules.let_in(user, message.chat.id):
                    await self._dispatcher.feed_update(self.telegram.bot, update)
                elif update.message:
                    await self._say(update.message, "not_allowed", update.update_id, id=user.id)
            except TelegramForbiddenError:
                pass  # they have left
            except (sqlite3.Error, TelegramUnauthorizedError):  # the update stays for when that is mended
                raise
            except Exception as error:  # what cannot be answered must not keep others waiting for ever
                print(f"an update was not answered: {type(error).__name__}", file=sys.stderr, flush=True)
                if update.message:
                    await self._apologize(update.message, update.update_id)
            self.store.handle(update.update_id)

    async def _start(self, message: Message, event_update: Update) -> None:
        await self._say(message, "start", event_update.update_id)

    async def _reset(self, message: Message, event_update: Update) -> None:
        assert message.from_user
        self.store.reset(message.chat.id, message.from_user.id)
        await self._say(message, "reset", event_update.update_id)

    async def _forget(self, message: Message, event_update: Update) -> None:
        assert message.from_user
        self.store.forget(message.from_user.id)
        await self._say(message, "forgotten", event_update.update_id)

    async def _not_text(self, message: Message, event_update: Update) -> None:
        await self._say(message, "not_text", event_update.update_id)

    async def _answer(self, message: Message, event_update: Update) -> None:
        """Answer a question under the conversation that this user has had in this chat."""
        assert message.from_user and message.text
        user, id_ = message.from_user, event_update.update_id
        question = re.sub(rf"@{self.me.username}\b[,:]?", "", message.text, flags=re.IGNORECASE).strip()
        begun = self.store.find_turn(update_id=id_)
        if not question:
            return
        try:
            window = await self.model.fitting(self.store.history(message.chat.id, user.id), question)
        except TooLongError:
            await self._say(message, "too_long", id_)
            return
        show = partial(self.store.show, id_, message.chat.id, user.id)
        writing = Writing(self.telegram, message, begun.messages if begun else [], show)
        answer = await self._write(writing, window, question)
        if answer:
            await writing.end(answer, self._keyboard(user, show(writing.messages)))
            self.store.finish(id_, question, answer, window)
        else:
            await writing.end(self._text(user, "failed"), None)

    async def _press(self, query: CallbackQuery, event_update: Update) -> None:
        """A vote, or the wish for another answer; only of who asked the question."""
        pressed = re.fullmatch(r"(up|down|again):(\d{1,18})", query.data or "")
        turn = self.store.find_turn(id_=int(pressed[2])) if pressed else None
        if not pressed or not turn or not turn.answer or turn.user != query.from_user.id:
            await self._toast(query, "gone")
        elif pressed[1] == "again":
            await self._say_differently(query, turn)
        else:
            self.store.vote(turn, pressed[1] == "up", self.model.system)
            await self._toast(query, "thanks")

    async def _say_differently(self, query: CallbackQuery, turn: Turn) -> None:
        if not isinstance(query.message, Message):
            await self._toast(query, "gone")
            return
        await self._toast(query, None)
        window = await self.model.fitting(self.store.history(turn.chat, turn.user, before=turn.id), turn.question)
        show = partial(self.store.show, turn.update_id, turn.chat, turn.user)
        writing = Writing(self.telegram, query.message, turn.messages, show)
        try:
            answer = await self._write(writing, window, turn.question, OTHERWISE) or turn.answer
        except (OpenAIError, ValueError):  # the message may show the beginning of another answer
            answer = turn.answer
        await writing.end(answer, self._keyboard(query.from_user, turn.id))
        if answer != turn.answer:
            self.store.replace(turn, answer, self.model.system)

    async def _write(
        self, writing: Writing, window: Sequence[Turn], question: str, temperature: float | None = None
    ) -> str:
        """Show an answer as it comes; the whole of it."""
        answer, typing = "", asyncio.create_task(self.telegram.type(writing.to))
        try:
            async for piece in self.model.answer(window, question, temperature):
                answer += piece
                await writing.grow(answer)
        finally:
            typing.cancel()
        return answer.strip()

    async def _apologize(self, message: Message, id_: int) -> None:
        """Say that it failed, in place of what may stand there already."""
        begun = self.store.find_turn(update_id=id_)
        shown = begun.messages if begun else []
        writing = Writing(self.telegram, message, shown, lambda ids: self.store.handle(id_))
        with suppress(AiogramError):
            await writing.end(self._text(message.from_user, "failed"), None)

    async def _say(self, message: Message, key: str, id_: int, **values: Any) -> None:
        """Answer with a text of the bot's own. That it was sent is noted at once."""
        text = self._text(message.from_user, key)
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        await self.telegram.send(message, text, None, lambda _: self.store.handle(id_))

    async def _toast(self, query: CallbackQuery, key: str | None) -> None:
        """Answer a press: Telegram shows it for a moment. Too late for an old one, which changes nothing."""
        with suppress(AiogramError):
            await query.answer(self._text(query.from_user, key) if key else None)

    def _is_meant(self, message: Message) -> bool:
        """Whether a message is for the bot: in a group by its name, as a reply to it, or as a command."""
        text = message.text or ""
        if message.chat.type == "private":
            return True
        if command := re.match(r"/\w+(@\w+)?", text):
            return (command[1] or "").lower() in ("", f"@{self.me.username}".lower())
        replied = message.reply_to_message
        to_me = bool(replied and replied.from_user and replied.from_user.id == self.me.id)
        return to_me or bool(re.search(rf"@{self.me.username}\b", text, re.IGNORECASE))

    def _in_time(self, user: int, at: float) -> bool:
        """Whether a user has not written and pressed too much within the minute before this Unix time; counts it."""
        asked = self._asked[user]
        while asked and asked[0] <= at - MINUTE:
            asked.popleft()
        if len(asked) >= self.rules.per_minute:
            return False
        asked.append(at)
        return True

    async def _slow_down(self, update: Update, user: int, at: float) -> None:
        """Tell a user to write more slowly, once a minute."""
        if update.callback_query:
            await self._toast(update.callback_query, "too_fast")
        elif update.message and at - self._warned.get(user, 0.0) >= MINUTE:
            self._warned[user] = at
            await self._say(update.message, "too_fast", update.update_id)

    def _keyboard(self, user: User, turn: int) -> InlineKeyboardMarkup:
        labels = {"up": "👍", "down": "👎", "again": self._text(user, "again")}
        buttons = [InlineKeyboardButton(text=text, callback_data=f"{key}:{turn}") for key, text in labels.items()]
        return InlineKeyboardMarkup(inline_keyboard=[buttons])

    def _text(self, user: User | None, key: str) -> str:
        """A text in the user's language: Russian where their Telegram is, else English."""
        return self.texts["ru" if user and (user.language_code or "").startswith("ru") else "en"][key]
