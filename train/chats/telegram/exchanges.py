"""Which answer of the persona belongs to which question: a session becomes stretches of exchanges.

An answer belongs to the message that it answers by a reply, or else to what the others said directly before it. Where
that is something that no dialogue can hold (a voice message, a photo, a call), the answer is left out and the stretch
ends; it is never joined to an earlier answer. Consecutive messages of the persona are one answer, until she sends
something that is not her own words.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from train.chats.telegram.sessions import SessionMessage

ANSWERS_TO = {"media_without_text": "answer_to_media", "call": "answer_to_call"}
"""By the reason for which a message is left out, that for which its answer is; else `answer_to_left_out`."""


class Exchange(NamedTuple):
    """What somebody says, and what the persona answers."""

    question: list[SessionMessage]
    answer: list[SessionMessage]


class Paired(NamedTuple):
    """What a session holds."""

    stretches: list[list[Exchange]]
    """Each without a hole: an answer stands behind what it follows."""
    unused: list[tuple[SessionMessage, str]]
    """Messages that could be turns and are in no exchange, with the reason."""


class _Pairing:
    """The state while the messages of a session are gone through."""

    def __init__(
        self, persona: Collection[str], is_absent: Callable[[SessionMessage], bool], between_two: bool
    ) -> None:
        self.persona, self.is_absent, self.between_two = persona, is_absent, between_two
        self.stretches: list[list[Exchange]] = [[]]
        self.unused: list[tuple[SessionMessage, str]] = []
        self.pending: list[SessionMessage] = []
        """What the others said and nobody has answered."""
        self.hole: tuple[str, str] | None = None
        """(why the persona's next words would answer nothing that is here, who has made the hole)."""
        self.open: Exchange | None = None
        """The exchange that the persona's next words go on with."""
        self.refused: str | None = None
        """Why the persona's last words were left out: what she adds at once is left out with them."""

    def hear(self, message: SessionMessage) -> None:
        """Somebody else's message."""
        if message.left_out == "bot":  # it does not stand between a question and its answer
            return
        self.open = self.refused = None
        if message.left_out:
            self.hole = ANSWERS_TO.get(message.left_out, "answer_to_left_out"), message.sender
        else:
            if self.hole and (not self.between_two and message.sender != self.hole[1]):
                self.hole = None  # in a group somebody else goes on; whoever sent it adds words to it
            self.pending.append(message)

    def say(self, message: SessionMessage) -> None:
        """A message of the persona."""
        if not message.spoken or message.left_out:
            self._say_without_words(message)
            return
        exchange, reason = self._answered_by(message)
        if exchange is None:
            self._refuse(message, reason)
        elif exchange is self.open or any(exchange is last for last in self.stretches[-1][-1:]):
            exchange.answer.append(message)
            self.open = exchange
        else:
            exchange.answer.append(message)
            self.stretches[-1].append(exchange)
            self.open, self.refused, self.hole = exchange, None, None

    def _answered_by(self, message: SessionMessage) -> tuple[Exchange | None, str]:
        """(the exchange that the message is an answer in, why there is none)."""
        target = message.answered
        if self.is_absent(message):
            return None, "answer_to_absent"
        if target is None and message.unclear:
            return None, "answer_unclear"
        if target is None:
            if self.open is not None and self.pending:  # she has answered an earlier question by a reply
                return None, "answer_unclear"
            if self.open is not None or self.refused is not None:
                return self.open, self.refused or ""
            if self.hole is not None:
                return None, self.hole[0]
            if not self.pending:
                return None, "nothing_to_answer"
            question, self.pending = self.pending, []
            return Exchange(question, []), ""
        if target.left_out:
            return None, ANSWERS_TO.get(target.left_out, "answer_to_left_out")
        if target.sender in self.persona:
            goes_on = self.open is not None and any(target is said for said in self.open.answer)
            return (self.open, "") if goes_on else (None, "nothing_to_answer")
        at = next((at for at, heard in enumerate(self.pending) if heard is target), None)
        if at is not None:
            question = [m for m in self.pending[: at + 1] if self.between_two or m.sender == target.sender]
            taken = set(map(id, question))
            self.pending = [m for m in self.pending if id(m) not in taken]
            return Exchange(question, []), ""
        last = self.stretches[-1][-1:]
        if last and any(target is heard for heard in last[0].question):
            return (last[0], "") if last[0].answer[-1].spoken else (None, "after_own_media")
        return None, "second_answer"

    def _refuse(self, message: SessionMessage, reason: str) -> None:
        """Leave the persona's words out, and with them what they seemed to answer."""
        self.unused.append((message, reason))
        self.hole = None
        if reason in (*ANSWERS_TO.values(), "answer_to_left_out"):
            self.drop_pending(reason)
            self._cut()
        self.open, self.refused = None, reason

    def _say_without_words(self, message: SessionMessage) -> None:
        """A voice message, a picture or something forwarded: it answers, and nobody knows what; or its label does."""
        exchange, _ = self._answered_by(message)
        if message.left_out is None and exchange is not None and not exchange.answer:
            exchange.answer.append(message)
            self.stretches[-1].append(exchange)
        elif exchange is not None and message.answered is not None:  # nobody else's question is answered by it
            self.unused += [(heard, "answered_without_words") for heard in exchange.question if not exchange.answer]
            self.unused += [(message, "nothing_to_answer")] if message.left_out is None else []
            self._cut()
        else:
            if exchange is not None and not exchange.answer:
                self.pending = exchange.question
            if message.left_out is None:
                self.unused.append((message, "nothing_to_answer"))
            self.drop_pending("answered_without_words")
            self._cut()
        self.open, self.hole, self.refused = None, None, "after_own_media"

    def drop_pending(self, reason: str) -> None:
        self.unused += [(message, reason) for message in self.pending]
        self.pending = []

    def _cut(self) -> None:
        if self.stretches[-1]:
            self.stretches.append([])


def pair(
    session: Iterable[SessionMessage],
    persona: Collection[str],
    is_absent: Callable[[SessionMessage], bool] = lambda message: False,
) -> Paired:
    """The exchanges of a session, in their order; `is_absent`: whether a message answers one that is not at hand."""
    session = list(session)
    others = {message.sender for message in session if message.sender not in persona and not message.left_out}
    pairing = _Pairing(persona, is_absent, between_two=len(others) <= 1)
    for message in session:
        if message.sender in persona and message.left_out != "call":  # both have spoken, whoever called
            pairing.say(message)
        else:
            pairing.hear(message)
    spoke = any(message.sender in persona for message in session)
    pairing.drop_pending("after_last_answer" if spoke else "persona_silent")
    spoken: list[list[Exchange]] = []
    for stretch in pairing.stretches:
        if any(message.spoken for exchange in stretch for message in exchange.answer):
            spoken.append(stretch)
        else:
            messages = (message for exchange in stretch for message in (*exchange.question, *exchange.answer))
            pairing.unused += [(message, "answered_without_words") for message in messages]
    return Paired(spoken, pairing.unused)
