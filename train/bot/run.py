"""`govor bot`: takes updates from Telegram, and acknowledges each only when its answer is on disk."""

import asyncio
import logging
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramUnauthorizedError,
)  # fmt: skip
from aiogram.types import Update
from aiogram.utils.token import TokenValidationError
from pydantic import ValidationError

from train.bot.handlers import Persona, Rules, Texts
from train.bot.model import ServedModel
from train.bot.store import DATABASE, Store
from train.bot.writing import LONGEST, Telegram, patiently, result_of
from train.core.errors import ConfigError, GovorError, MachineError
from train.core.locks import LOCK, take_lock

TOKEN = "TELEGRAM_BOT_TOKEN"
"""The variable with the token; there is no option for it, since all users of a machine see its command lines."""
TEXTS = Path(__file__).with_name("texts.yaml")
KINDS = ["message", "callback_query"]
"""The updates that are asked for."""
ALWAYS = {"message_id", "date", "chat", "from", "text", "message_thread_id", "is_topic_message"}
"""Keys of a message that were always there."""
MOST = 100
"""Updates that Telegram shows at most (core.telegram.org/bots/api, getUpdates)."""
LONG_POLL = 30
"""Seconds that Telegram holds a question for updates open while there are none."""
GLANCE = 0.3
"""Seconds between looks for new updates while some are being answered: unacknowledged ones come at once again."""
REQUEST_TIMEOUT = 30.0
CONFLICTS = 6
"""Refusals in a row after which it is not a poll of ours that a kill left open, but somebody else."""


def run_bot(
    model: ServedModel, data_dir: Path, *, rules: Rules, texts: Path, per_second: float, bot_api: str | None
) -> None:
    """Talk until Ctrl-C or SIGTERM. The token comes from the environment."""
    words = load_texts(texts)
    for entry in rules.allowed:
        if not re.fullmatch(r"-?\d+|@\w+", entry):
            raise ConfigError(f"--allow {entry}: expected the number of a user or a group, or a name with @ before it")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise GovorError(f"{TOKEN} is not set: put the token in it that @BotFather gave you")
    if bot_api and (urlsplit(bot_api).scheme not in ("http", "https") or not urlsplit(bot_api).hostname):
        raise ConfigError(f"--bot-api {bot_api}: expected http://… or https://…")
    keep_out_of_logs(token)
    server = {"api": TelegramAPIServer.from_base(bot_api)} if bot_api else {}
    try:
        bot = Bot(token, session=AiohttpSession(timeout=REQUEST_TIMEOUT, **server))
    except TokenValidationError:
        raise GovorError(f"{TOKEN} holds no token: it looks like 123456:ABC…, as @BotFather gave it") from None
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with closing(take_lock(data_dir / LOCK, "bot")), closing(Store(data_dir)) as store:
            asyncio.run(talk(bot, model, store, words, rules, per_second))
    except (TelegramUnauthorizedError, TelegramNotFound):
        raise GovorError(f"Telegram refuses the token in {TOKEN}") from None
    except TelegramNetworkError:
        raise MachineError(f"{bot_api or 'api.telegram.org'} cannot be reached") from None
    except TelegramConflictError:
        raise GovorError(
            "another program takes this bot's messages, or it has a webhook: stop that first (deleteWebhook)"
        ) from None
    except AiogramError as error:  # its text may quote a message
        raise MachineError(f"Telegram's answer was not understood ({type(error).__name__})") from None
    except sqlite3.Error as error:
        busy = "end the program that holds it" if "locked" in str(error) else None
        todo = busy or ("free some room" if "full" in str(error) else "move it away, or give another --data-dir")
        raise MachineError(f"{data_dir / DATABASE}: {error}: {todo}") from None
    except asyncio.CancelledError:
        print("ended", file=sys.stderr)


async def talk(bot: Bot, model: ServedModel, store: Store, texts: Texts, rules: Rules, per_second: float) -> None:
    """Answer until the task is cancelled."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with bot, model.client:
        await model.connect()
        me = await bot.get_me()
        telegram = Telegram(bot, per_second)
        persona = Persona(telegram, me, model, store, texts, rules)
        who = f"{len(rules.allowed)} may talk" if rules.allowed else "everybody may talk to it (--allow names who may)"
        print(f"@{me.username} speaks as {model.name}; {who}; Ctrl-C ends it", flush=True)
        await Updates(bot, persona, store).take()


class Updates:
    """Takes updates and has them handled, at most as many at once as Telegram shows: a hundred."""

    def __init__(self, bot: Bot, persona: Persona, store: Store) -> None:
        self.bot, self.persona, self.store = bot, persona, store
        self._running: dict[int, asyncio.Task[None]] = {}
        """Being handled, by update."""
        self._conflicts = 0

    async def take(self) -> None:
        """Take updates until cancelled; then whoever is between sending a message and noting it may end that."""
        try:
            newest: int | None = None
            while True:
                offset = min(self._running, default=None if newest is None else newest + 1)
                if offset is not None:
                    self.store.secure()
                updates = await patiently(partial(self._ask, offset))
                if offset is not None:
                    self.store.forget_handled(offset)
                # without updates nothing is left to acknowledge: an offset would hide ids that begin anew after a week
                newest = max((update.update_id for update in updates), default=None)
                for update in updates:
                    if update.update_id not in self._running and not self.store.is_handled(update.update_id):
                        self._running[update.update_id] = asyncio.create_task(self.persona.handle(update))
                if self._running and len(updates) == MOST:  # it shows no more until the first of them is acknowledged
                    await asyncio.wait([self._running[min(self._running)]])
                elif self._running:
                    await asyncio.wait(self._running.values(), timeout=GLANCE)
                for id_ in [id_ for id_, task in self._running.items() if task.done()]:
                    self._running.pop(id_).result()
        finally:
            async with self.persona.telegram.sending:
                for task in self._running.values():
                    task.cancel()
                await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _ask(self, offset: int | None) -> list[Update]:
        poll = 0 if self._running else LONG_POLL
        while True:
            try:
                updates: list[Update] = await self.bot.get_updates(
                    offset, limit=MOST, timeout=poll, allowed_updates=KINDS, request_timeout=int(poll + REQUEST_TIMEOUT)
                )
                self._conflicts = 0
                return updates
            except ClientDecodeError as error:
                return [update for raw in result_of(error) for update in self._read(raw)]
            except TelegramConflictError:
                self._conflicts += 1
                if self._conflicts == CONFLICTS:
                    raise
                await asyncio.sleep(self._conflicts)

    def _read(self, raw: dict[str, Any]) -> Iterator[Update]:
        """An update among which is one that this aiogram cannot read: Telegram knows new kinds of content first.

        Of such a one what everything here works with is left, and if that is not enough its number.
        """
        message = {key: value for key, value in raw.get("message", {}).items() if key in ALWAYS}
        number = {"update_id": raw["update_id"]}
        for form in (raw, {**number, "message": message}, number):
            with suppress(ValidationError):
                yield Update.model_validate(form, context={"bot": self.bot})
                return


class WithoutToken(logging.Formatter):
    """Writes no token, wherever in a line or a traceback it stands."""

    def __init__(self, token: str) -> None:
        super().__init__("%(name)s: %(message)s")
        self._token = token

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace(self._token, "***")


def keep_out_of_logs(token: str) -> None:
    """Have whatever a library logs, which is warnings alone, come without the token."""
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(WithoutToken(token))


def load_texts(path: Path) -> Texts:
    """The bot's texts by language; ConfigError where one is missing or unknown."""
    try:
        texts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--texts {path}: cannot be read: {error}") from None
    known = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    for language, names in known.items():
        given = texts.get(language) if isinstance(texts, dict) else None
        given = given if isinstance(given, dict) else {}
        right = {name for name, text in given.items() if isinstance(text, str) and 0 < len(text.strip()) <= LONGEST}
        wrong = [name for name in names if name not in right] + sorted(map(str, given.keys() - names.keys()))
        if wrong:
            raise ConfigError(
                f"--texts {path}: {language}.{wrong[0]}: expected the same texts as in {TEXTS}, "
                f"each of 1 to {LONGEST} characters"
            )
    return Texts(texts)
