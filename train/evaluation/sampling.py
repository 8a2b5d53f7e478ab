"""Answers to the held-out prompts, sampled once and kept in the run folder's evaluation/answers.jsonl."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from train.chats.rows import Message, Row, text_of, trained_answers, without_weight
from train.core.config import Generation
from train.core.errors import GovorError
from train.core.progress import progress
from train.core.runs import Run
from train.encoding.loss_mask import render
from train.evaluation.generate import answer_batch
from train.evaluation.style import Answer

Item = TypeVar("Item")
ENOUGH = 128
"""Answers a side, for which the position has an interval of about 0.2."""
MOST_PROMPTS = 256
BATCH = 32


class Prompt(NamedTuple):
    """A held-out prompt and the answer that the persona really gave."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    real: Answer
    copy: int = 0
    """How many dialogues before it have the same prompt: each is answered for itself."""

    @property
    def key(self) -> str:
        said = [self.messages, self.tools, *([self.copy] if self.copy else [])]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:16]


def held_out_prompts(rows: Sequence[Row]) -> list[Prompt]:
    """A prompt for every trained answer in words; of more than MOST_PROMPTS as many, spread over the rows."""
    prompts, met = [], Counter[str]()
    for number, row in enumerate(rows):
        for turn, at in enumerate(trained_answers(row.messages), 1):
            if text := text_of(row.messages[at]).strip():
                messages = [without_weight(message) for message in row.messages[:at]]
                prompt = Prompt(messages, row.tools, Answer(number, text, turn))
                prompts.append(prompt._replace(copy=met[prompt.key]))
                met[prompt.key] += 1
    return spread(prompts, MOST_PROMPTS)


def base_answers(run: Run, rows: Sequence[Row]) -> list[Answer]:
    """What the base said to the held-out rows' prompts when the run was last evaluated; empty where it was not."""
    file = run.evaluation / "answers.jsonl"
    if not file.exists():
        return []
    prompts = {prompt.key: prompt.real for prompt in held_out_prompts(rows)}
    weights = json.dumps(run.manifest()["base"]["weights"], sort_keys=True, ensure_ascii=False)
    known = AnswerFile(file)
    settings = [record["settings"] for record in known.records() if record["model"] == weights]
    found = known.read(weights, settings[-1]) if settings else {}
    return [prompts[prompt]._replace(text=text) for (prompt, _), text in found.items() if prompt in prompts]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, at equal distances."""
    count = min(most, len(items))
    return [items[at * len(items) // count] for at in range(count)]


def samples_needed(prompts: int) -> int:
    """How often each of `prompts` prompts is answered, so that there are ENOUGH answers."""
    return max(1, -(-ENOUGH // prompts)) if prompts else 0


@dataclass(frozen=True)
class AnswerFile:
    """Answers that were sampled before, a JSON object a line: model, settings, prompt, sample, answer."""

    path: Path

    def read(self, model: str, settings: str) -> dict[tuple[str, int], str]:
        """(key of a prompt, number of the sample) → answer."""
        return {
            (record["prompt"], record["sample"]): record["answer"]
            for record in self.records()
            if (record["model"], record["settings"]) == (model, settings)
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines. What a kill has left of a last one is passed over."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                yield {**{key: record[key] for key in ("model", "settings", "prompt", "sample")},
                       "answer": str(record["answer"])}  # fmt: skip
            except (ValueError, KeyError, TypeError):
                continue

    def append(self, model: str, settings: str, answers: Sequence[tuple[Prompt, int, str]]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0, 2)
            if file.tell() and not self.path.read_bytes().endswith(b"\n"):
                file.write("\n")
            for prompt, sample, text in answers:
                record = {"model": model, "settings": settings, "prompt": prompt.key, "sample": sample, "answer": text}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


Ask = Callable[[Sequence[Prompt], int], list[str]]
"""Answers to some prompts, all made with one seed; the number of the first one's sample is part of it."""


def collect_answers(
    file: AnswerFile,
    model: str,
    settings: str,
    prompts: Sequence[Prompt],
    samples: int,
    ask: Ask,
    task: str,
    batch_size: int = BATCH,
) -> list[Answer]:
    """`samples` answers to each prompt: those of the file, and what `ask` says to the others, which are kept there.

    `model`, `settings`: what an answer depends on besides its prompt. Asked are `batch_size` prompts of like length at
    a time; what has been answered is kept when the next are not.
    """
    known = file.read(model, settings)
    missing = [(prompt, sample) for sample in range(samples) for prompt in prompts if (prompt.key, sample) not in known]
    missing.sort(key=lambda pair: sum(len(text_of(message)) for message in pair[0].messages))
    with progress(task, len(missing)) as update:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            texts = ask([prompt for prompt, _ in batch], batch[0][1])
            answered = [(prompt, sample, text) for (prompt, sample), text in zip(batch, texts, strict=True)]
            file.append(model, settings, answered)
            known |= {(prompt.key, sample): text for prompt, sample, text in answered}
            update(start + len(batch))
    return [prompt.real._replace(text=known[prompt.key, sample]) for prompt in prompts for sample in range(samples)]


def ask_model(model: Any, tokenizer: Any, generation: Generation, stop: Sequence[int], seed: int) -> Ask:
    """Answers of a model in this process; a batch that the card has no room for is halved."""
    import torch

    def ask(prompts: Sequence[Prompt], sample: int) -> list[str]:
        ids = [render(tokenizer, prompt.messages, tools=prompt.tools) for prompt in prompts]
        try:
            own = seed + sample + 1000 * prompts[0].copy  # a batch of the same prompts is answered in other words
            return answer_batch(model, tokenizer, ids, generation, stop=stop, seed=own)
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                raise
        middle = len(prompts) // 2
        return ask(prompts[:middle], sample) + ask(prompts[middle:], sample)

    return ask


class Server(NamedTuple):
    """A model that an OpenAI-compatible server has."""

    url: str
    model: str


def find_server(url: str, model: str | None) -> Server:
    """The server's model of that name, or the first that it lists; GovorError where it does not answer or has none."""
    from openai import OpenAIError

    url = url if url.startswith(("http://", "https://")) else f"http://{url}"
    url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
    try:
        listed = [found.id for found in _client(url).models.list()]
    except OpenAIError as error:
        raise GovorError(f"{url}: {error}") from None
    except (AttributeError, TypeError):  # a web page, say: the SDK hands on whatever came
        raise GovorError(f"{url}: no OpenAI-compatible server: it lists no models") from None
    if not listed or (model and model not in listed):
        raise GovorError(f"{url} has no model {model or ''}: it lists {', '.join(listed) or 'none'}")
    return Server(url, model or listed[0])


def _client(url: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=os.environ.get("GOVOR_API_KEY") or "none")


def ask_server(server: Server, generation: Generation, seed: int) -> Ask:
    """Answers of a running server; GovorError where it fails."""
    from openai import OpenAIError

    client = _client(server.url)
    sampling: dict[str, Any] = {"temperature": 0.0}
    if generation.do_sample:
        sampling = {"temperature": generation.temperature, "top_p": generation.top_p}

    def ask(prompts: Sequence[Prompt], sample: int) -> list[str]:
        made = []
        for prompt in prompts:
            try:
                answered = client.chat.completions.create(
                    model=server.model,
                    messages=prompt.messages,
                    max_tokens=generation.max_new_tokens,
                    seed=seed + 1000 * sample + prompt.copy,
                    **({"tools": prompt.tools} if prompt.tools else {}),
                    **sampling,
                )
                said = answered.choices[0].message.content
            except OpenAIError as error:
                raise GovorError(f"{server.url}, {server.model}: {error}: what it has answered is kept") from None
            except (AttributeError, TypeError, IndexError):
                raise GovorError(
                    f"{server.url}, {server.model}: an answer without a message: look at its log"
                ) from None
            made.append((said or "").encode(errors="replace").decode().strip())  # half a surrogate pair has no bytes
        return made

    return ask


def that_fit(prompts: Sequence[Prompt], tokenizer: Any, context: int, generation: Generation) -> list[Prompt]:
    """The prompts that leave room for a whole answer in a context of so many tokens."""
    room = context - generation.max_new_tokens
    return [prompt for prompt in prompts if len(render(tokenizer, prompt.messages, tools=prompt.tools)) <= room]
