"""What people said of answers → preference rows: votes, edited answers, 👍 and 👎.

A file holds preference rows in OpenAI's form and labelled answers: {"messages": […, the answer], "liked": true or
false}. A liked and a disliked answer to the same prompt make a pair; preference tuning compares two answers, so that a
liked one without the other is of use as a row to train on alone.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from train.chats.pairs import question_of, questions_of, unlearned
from train.chats.readers import records
from train.chats.row_formats import Preference, preference_of_openai, preference_to_object, row_of_openai
from train.chats.rows import Row, text_of, without_weight
from train.core.errors import DataError

Prompt = str
"""The messages and tools before an answer, as JSON."""


@dataclass
class Feedback:
    """Votes for one answer over another, and labels, gathered from several files."""

    votes: Counter[str] = field(default_factory=Counter)
    """A preference row in OpenAI's form, as JSON → how often it was given."""
    labels: dict[Prompt, dict[bool, list[str]]] = field(default_factory=dict)
    """Prompt → whether they were liked → answers, as JSON."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why → how many rows."""

    def read(self, path: Path) -> None:
        """Add the rows of a file; DataError names a line that is neither a pair nor a label."""
        for number, record in records(path):
            try:
                self._add(number, record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                why = f"no {error}" if isinstance(error, KeyError) else error
                text = "neither a preference row nor a row with messages and liked"
                raise DataError(f"{path}:{number}: {text}: {why}") from None

    def _add(self, line: int, record: dict[str, Any]) -> None:
        if "liked" not in record:
            self.add(preference_of_openai(line, record))
            return
        if not isinstance(record["liked"], bool):
            raise ValueError("`liked` is neither true nor false")
        row = row_of_openai(line, record)
        *prompt, answer = row.messages
        if answer["role"] != "assistant" or not prompt:
            raise ValueError("its last message is no answer")
        key = _dumps([[without_weight(message) for message in prompt], row.tools])
        said = without_weight(answer) | ({"content": text_of(answer).strip()} if answer.get("content") else {})
        self.labels.setdefault(key, {True: [], False: []})[record["liked"]].append(_dumps(said))

    def add(self, row: Preference) -> None:
        """Count a vote."""
        self.votes[_dumps(preference_to_object(row))] += 1

    def preferences(self, held_out: Sequence[Row] = ()) -> Iterator[Preference]:
        """Every pair once, as most votes have it; what is left out is counted.

        `held_out`: rows whose questions must not be learned, of the run that is gone on from.
        """
        for prompt, by_label in self.labels.items():
            messages, tools = json.loads(prompt)
            liked, disliked = _judged(by_label)
            if not (liked and disliked):
                self.left_out["labels without an answer to compare with"] += sum(map(len, by_label.values()))
            for pair in product(liked, disliked):
                better, worse = map(json.loads, pair)
                self.add(Preference(0, messages, [better], [worse], tools))
        kept_apart = questions_of(held_out)
        for text, count in self.votes.items():
            found = json.loads(text)
            mirrored = dict(found, preferred_output=found["non_preferred_output"],
                            non_preferred_output=found["preferred_output"])  # fmt: skip
            against = self.votes.get(_dumps(mirrored), 0)
            if against >= count:
                why = "votes that others outnumber" if against > count else "votes for either answer alike"
                self.left_out[why] += count
            elif question_of(found["input"]["messages"]) in kept_apart:
                self.left_out["to questions that the run holds out"] += count
            else:
                self.left_out["more votes for the same pair"] += count - 1
                yield preference_of_openai(0, found)

    def liked(self, held_out: Sequence[Row] = ()) -> Iterator[Row]:
        """The answers that more people liked than disliked, as rows that learn them; `held_out` as above."""
        kept_apart = questions_of(held_out)
        for prompt, by_label in self.labels.items():
            messages, tools = json.loads(prompt)
            if question_of(messages) not in kept_apart:
                for answer in _judged(by_label)[0]:
                    yield Row(0, [*map(unlearned, messages), json.loads(answer)], tools)


def _judged(by_label: dict[bool, list[str]]) -> tuple[list[str], list[str]]:
    """The answers that more people liked than disliked, and those that more people disliked."""
    balance = Counter(by_label[True])
    balance.subtract(by_label[False])
    return [answer for answer, sum_ in balance.items() if sum_ > 0], [a for a, sum_ in balance.items() if sum_ < 0]


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
