"""What each form of rows means: a record of it as a row, or as a row of two answers for preference tuning.

Every function takes (line, record) and raises KeyError, TypeError, ValueError or AttributeError where the record is
not whole. train/chats/formats.py tells which form a record has.
"""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from train.chats.rows import Message, Row, row_from_openai, text_of
from train.chats.rules import MESSAGE_KEYS, ROW_KEYS, json_kind, row_problems

SPEAKERS = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("human", "user", "prompter", "пользователь"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "model", "bot", "chatgpt", "bard", "bing", "claude", "ассистент"), "assistant"
    ),
    "function_call": "call",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
"""By the speaker's name as people write it, the role in OpenAI's format."""
LEARNED_KEYS = ("weight", "train", "loss", "training", "trainable", "train_on_turn", "loss_weight", "liked")
"""Keys of a turn or row that say that it is learned, as OpenAI, axolotl, ms-swift, our bot and others name them."""
MASKED_KEYS = ("masked", "mask")
"""Keys that say that it is not."""
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
QUESTIONS = ("question", "prompt", "input", "query", "instruction", "user", "human", "request", "q", "input_text",
             "text_input", "вопрос", "запрос", "вход", "пользователь", "инструкция")  # fmt: skip
ANSWERS = ("answer", "completion", "output", "response", "assistant", "bot", "reply", "a", "output_text", "target",
           "ответ", "выход", "ассистент", "бот")  # fmt: skip
"""Names of the columns with questions and answers, in lower case."""
INPUTS = ("input", "context", "контекст")
"""Names of a column that adds to the question of another."""


ASKED = ("prompt", "question", "instruction", "query")
"""Names of the question of preference rows, which may also be INPUTS alone."""


class Preference(NamedTuple):
    """A question and two answers, one of them preferred: for preference tuning (DPO)."""

    line: int
    prompt: list[Message]
    preferred: list[Message]
    other: list[Message]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None


def row_of_openai(line: int, record: dict[str, Any]) -> Row:
    """{"messages": […]} with the roles that others use too (`bot`); keys of no meaning in it are left out."""
    if not isinstance(record["messages"], list):
        raise TypeError(f"`messages` is {json_kind(record['messages'])}, expected a list")
    checked = {key: value for key, value in record.items() if key in ROW_KEYS}
    checked["messages"] = [
        _openai_message(message, number) if isinstance(message, dict) else message
        for number, message in enumerate(record["messages"], 1)
    ]
    problems = list(row_problems(line, checked))
    if problems:
        raise ValueError("; ".join(problem.message for problem in problems[:3]))
    return row_from_openai(line, checked)


def _openai_message(message: dict[str, Any], number: int) -> dict[str, Any]:
    """The message without foreign keys; ValueError where one of them tells what would be learned."""
    for key in THOUGHT_KEYS:
        if message.get(key):
            raise ValueError(f"message {number}: `{key}` has no place: write it as <think>…</think> into `content`")
    role = message.get("role", message.get("author"))  # `author`: Vertex, before Gemini
    known = {key: value for key, value in message.items() if key in MESSAGE_KEYS}
    if isinstance(role, str) and role not in ("function", "tool") and role.casefold() in SPEAKERS:
        known["role"] = SPEAKERS[role.casefold()]
    if known.get("role") == "assistant" and "weight" not in known:
        weight = weight_of(message, f"message {number}")
        known |= {} if weight is None else {"weight": weight}
    return known


def row_of_alpaca(line: int, record: dict[str, Any], question: str = "instruction", answer: str = "output") -> Row:
    """A question and an answer, with "input", "system" and "history" beside them."""
    messages: list[Message] = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text(record, "system")})
    history = record.get("history") or []
    if isinstance(history, str):  # a cell of a table
        history = json.loads(history)
    for user_text, reply in _history(history):
        messages += [{"role": "user", "content": user_text}, {"role": "assistant", "content": reply}]
    prompt = _text(record, question)
    for key in INPUTS:
        if key != question and record.get(key):
            prompt = f"{prompt}\n{_text(record, key)}" if prompt else _text(record, key)
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": _text(record, answer)}]
    return Row(line, messages)


def row_of_prompt(line: int, record: dict[str, Any]) -> Row:
    """{"prompt", "completion"} as text, or as lists of messages, as TRL has them."""
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return row_of_alpaca(line, record, "prompt", "completion")
    messages = [*_messages(prompt, "prompt", "user"), *_messages(completion, "completion", "assistant")]
    return row_of_openai(line, {"messages": messages, **_kept(record, "tools")})


def _messages(value: Any, key: str, role: str) -> list[Any]:
    """A list of messages; of a text the one that it is."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise TypeError(f"`{key}` is {json_kind(value)}, expected text or a list of messages")
    return value


def question_and_answer(record: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of a question and its answer by the names that people give them; None where they are not one each."""
    folded = {key.strip().casefold(): key for key in record if isinstance(key, str)}
    questions = [folded[name] for name in QUESTIONS if name in folded]
    answers = [folded[name] for name in ANSWERS if name in folded]
    if len(questions) > 1:  # `input` and the like may stand beside the question
        questions = [key for key in questions if key.strip().casefold() not in INPUTS]
    return (questions[0], answers[0]) if len(questions) == len(answers) == 1 else None


def row_of_question(line: int, record: dict[str, Any]) -> Row:
    """A question and an answer under whatever names: «Вопрос» and «Ответ», say."""
    keys = question_and_answer(record)
    if keys is None:
        raise ValueError("no question or no answer in it")
    return row_of_alpaca(line, record, *keys)


def row_of_gemini(line: int, record: dict[str, Any]) -> Row:
    """Gemini's and Vertex's {"contents": […], "systemInstruction", "tools"}."""
    system = record.get("systemInstruction") or record.get("system_instruction")
    messages: list[dict[str, Any]] = []
    if system:
        messages.append(
            {"role": "system", "content": _joined(system if isinstance(system, dict) else {"parts": system})}
        )
    waiting: list[tuple[str, str]] = []
    for number, content in enumerate(record["contents"], 1):
        role = {"user": "user", "model": "assistant", "function": "user"}.get(str(content.get("role", "user")).lower())
        if role is None:
            raise ValueError(f"content {number}: unknown role {content['role']!r}")
        text = _joined(content)
        calls: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        for part in _parts_of(content):
            if call := part.get("functionCall") or part.get("function_call"):
                id_ = f"call_{number}_{len(calls) + 1}"
                arguments = json.dumps(call.get("args") or {}, ensure_ascii=False)
                calls.append(
                    {"id": id_, "type": "function", "function": {"name": call["name"], "arguments": arguments}}
                )
                waiting.append((call["name"], id_))
            elif answer := part.get("functionResponse") or part.get("function_response"):
                id_ = next((id_ for name, id_ in waiting if name == answer["name"]), "")
                waiting = [one for one in waiting if one[1] != id_]
                response = answer.get("response")
                only = response.get("result") if isinstance(response, dict) and len(response) == 1 else None
                said = only if isinstance(only, str) else json.dumps(response, ensure_ascii=False)
                answers.append({"role": "tool", "tool_call_id": id_, "content": said})
            elif "text" not in part:
                raise ValueError(f"content {number}: {', '.join(map(repr, part)) or 'an empty part'} is no text")
        messages += answers
        if calls:
            messages.append({"role": "assistant", "content": text or None, "tool_calls": calls})
        elif text or not answers:
            messages.append({"role": role, "content": text})
    declared = [one for tool in record.get("tools") or [] for one in _declared(tool)]
    tools = {"tools": [{"type": "function", "function": function} for function in declared]} if declared else {}
    return row_of_openai(line, {"messages": messages, **tools})


def _parts_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    parts = content.get("parts") or []
    parts = [parts] if isinstance(parts, str | dict) else parts
    return [{"text": part} if isinstance(part, str) else part for part in parts]


def _joined(content: dict[str, Any]) -> str:
    return "".join(_text(part, "text") for part in _parts_of(content) if "text" in part)


def _declared(tool: dict[str, Any]) -> list[dict[str, Any]]:
    return list(tool.get("functionDeclarations") or tool.get("function_declarations") or [])


def row_of_pairs(line: int, record: dict[str, Any]) -> Row:
    """{"conversation": [{"human": …, "assistant": …}, …]}."""
    messages: list[dict[str, Any]] = []
    for turn in record["conversation"]:
        said = [(SPEAKERS.get(key.casefold()), value) for key, value in turn.items()]
        messages += [
            {"role": role, "content": value} for role, value in said if role in ("user", "assistant", "system")
        ]
    system = [{"role": "system", "content": _text(record, "system")}] if record.get("system") else []
    return row_of_openai(line, {"messages": [*system, *messages]})


def row_of_dialogue(line: int, record: dict[str, Any]) -> Row:
    """A dialogue as govor collect writes it beside its rows: {"turns": [{"speaker", "role", "text"}, …]}.

    It is one row whatever its length; where several others speak, each one's words stand behind the name, as in rows.
    """
    turns = record["turns"]
    several = len({turn["speaker"] for turn in turns if turn["role"] == "user"}) > 1
    messages: list[dict[str, Any]] = []
    for role, group in groupby(turns, key=lambda turn: turn["role"]):
        said = list(group)
        runs = [(who, "\n".join(_text(t, "text") for t in own)) for who, own in groupby(said, lambda t: t["speaker"])]
        named = several and role == "user"
        messages.append({"role": role, "content": "\n".join(f"{w}: {text}" if named else text for w, text in runs)})
        if role == "assistant" and not all(turn.get("trained", True) for turn in said):
            messages[-1]["weight"] = 0
    return row_of_openai(line, {"messages": messages})


def row_of_list(line: int, record: dict[str, Any]) -> Row:
    """{"dialog": ["…", "…", …]} or {"data": […]}: question and answer in turn."""
    texts = record.get("dialog") or record.get("dialogue") or record["data"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("the dialogue is no list of texts")
    roles = ("user", "assistant")
    return row_of_openai(line, {"messages": [{"role": roles[at % 2], "content": t} for at, t in enumerate(texts)]})


def row_by_template(template: str) -> "TextTemplate":
    """What takes {"text": …} apart by a template such as `<s>[INST] {question} [/INST] {answer}</s>`."""
    template = template.replace("\\n", "\n")  # as a shell hands it on
    fields = re.findall(r"\{(question|answer|system)\}", template)
    if sorted(fields) not in (["answer", "question"], ["answer", "question", "system"]):
        raise ValueError("a template names {question} and {answer}, each once, and {system} if there is one")
    pieces = re.split(r"\{(?:question|answer|system)\}", template)
    if any(not piece.strip() for piece in pieces[1:-1]):
        raise ValueError("a template needs something between {question} and {answer} by which they are told apart")
    pattern = _loose(pieces[0]) + "".join(
        f"(?P<{field}>.*?){_loose(piece)}" for field, piece in zip(fields, pieces[1:], strict=True)
    )
    return TextTemplate(template, re.compile(pattern + (r"\Z" if not pieces[-1].strip() else ""), re.DOTALL), pieces)


def _loose(piece: str) -> str:
    """The piece as an expression, white space in it and at its ends as it may be."""
    return r"\s*" + r"\s*".join(map(re.escape, piece.split())) + r"\s*"


class TextTemplate(NamedTuple):
    """A stated template of texts: each turn is the template once."""

    template: str
    turn: re.Pattern[str]
    pieces: list[str]

    def row(self, line: int, record: dict[str, Any]) -> Row:
        text, at = _text(record, "text"), 0
        messages: list[dict[str, Any]] = []
        while text[at:].strip():
            match = self.turn.match(text, at)
            if match is None or match.end() == at:
                raise ValueError(f"character {at + 1}: the text does not go on as the template {self.template!r}")
            said = match.groupdict()
            for piece in filter(str.strip, self.pieces):
                if any(piece.strip() in value for value in said.values()):
                    raise ValueError(f"{piece.strip()!r} stands within a turn: the template does not fit this text")
            if said.get("system") and not messages:
                messages.append({"role": "system", "content": said["system"].strip()})
            messages += [
                {"role": "user", "content": said["question"].strip()},
                {"role": "assistant", "content": said["answer"].strip()},
            ]
            at = match.end()
        return row_of_openai(line, {"messages": messages})


def preference_of_openai(line: int, record: dict[str, Any]) -> Preference:
    """{"input": {"messages", "tools"}, "preferred_output": […], "non_preferred_output": […]}.

    OpenAI's schema of 2025 says `preferred_completion`, its guide and most clients `preferred_output`.
    """
    asked = record["input"]
    what = "completion" if "preferred_completion" in record else "output"
    preferred, other = (
        _messages(record[key], key, "assistant") for key in (f"preferred_{what}", f"non_preferred_{what}")
    )
    return _preference(line, _messages(asked["messages"], "input", "user"), preferred, other, asked)


def preference_of_hugging_face(line: int, record: dict[str, Any]) -> Preference:
    """{"prompt", "chosen", "rejected"}, as text or as messages; the prompt may stand within both answers.

    It may have another usual name (`question`, `instruction` with `input`), and in both answers the form that Anthropic
    gave it: "\\n\\nHuman: …\\n\\nAssistant: …".
    """
    chosen = _messages(_dialogue(record["chosen"]), "chosen", "assistant")
    rejected = _messages(_dialogue(record["rejected"]), "rejected", "assistant")
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    shared, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    asked = _asked(record)
    prompt = _messages(asked, "prompt", "user") if asked else shared
    if shared and shared[-len(prompt) :] != prompt:
        raise ValueError("both answers begin with messages that are not the `prompt`")
    prompt = shared or prompt
    if record.get("system"):
        prompt = [{"role": "system", "content": _text(record, "system")}, *prompt]
    return _preference(line, prompt, chosen, rejected, record)


def _asked(record: dict[str, Any]) -> Any:
    """The prompt under whatever of its usual names, with an `input` or the like beside it; None where there is none."""
    keys = [key for key in ASKED if record.get(key)]
    if len(keys) > 1:
        raise ValueError(f"{' and '.join(map(repr, keys))} are both questions: take one out")
    texts = [record[key] for key in (*keys, *INPUTS) if record.get(key)]
    if len(texts) < 2:
        return texts[0] if texts else None
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("beside a list of messages no `input` or context can stand: take it out")
    return "\n".join(texts)


def _dialogue(value: Any) -> Any:
    """The messages of a text of turns as Anthropic writes them; of anything else, itself."""
    turns = re.split(r"\n\n(Human|Assistant): ?", value) if isinstance(value, str) and value[:2] == "\n\n" else []
    if len(turns) < 3 or turns[0]:
        return value
    pairs = zip(turns[1::2], turns[2::2], strict=True)
    return [{"role": SPEAKERS[who.casefold()], "content": text.strip()} for who, text in pairs]


def _preference(
    line: int, prompt: list[Any], preferred: list[Any], other: list[Any], more: dict[str, Any]
) -> Preference:
    rows = [
        row_of_openai(line, {"messages": [*prompt, *answer], **_kept(more, "tools", "parallel_tool_calls")})
        for answer in (preferred, other)
    ]
    if not any(isinstance(message, dict) and message.get("role") == "user" for message in prompt):
        raise ValueError("no question before the two answers")
    messages = rows[0].messages
    size = len(prompt)
    if messages[:size] != rows[1].messages[:size]:
        raise ValueError("the two answers answer different questions")
    for row in rows:
        if [message["role"] for message in row.messages[size:]] != ["assistant"]:
            raise ValueError("an answer is more than one turn of the assistant: give its last turn alone")
    if _said(messages[size]) == _said(rows[1].messages[size]):
        raise ValueError("the two answers are the same: take the row out")
    return Preference(
        line, messages[:size], messages[size:], rows[1].messages[size:], rows[0].tools, rows[0].parallel_tool_calls
    )


def _said(answer: Message) -> tuple[str, list[Any]]:
    """(text, calls) of an answer, without what makes no difference to a model: white space at the ends, a call's id."""
    return text_of(answer).strip(), [call["function"] for call in answer.get("tool_calls") or ()]


def preference_to_object(row: Preference) -> dict[str, Any]:
    """The row as OpenAI's files for preference tuning hold it."""
    asked: dict[str, Any] = {"messages": row.prompt}
    asked |= {"tools": row.tools} if row.tools is not None else {}
    asked |= {"parallel_tool_calls": row.parallel_tool_calls} if row.parallel_tool_calls is not None else {}
    return {"input": asked, "preferred_output": row.preferred, "non_preferred_output": row.other}


def _kept(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: record[key] for key in keys if record.get(key) is not None}


def row_of_sharegpt(line: int, record: dict[str, Any]) -> Row:
    """{"conversations": [{"from": …, "value": …} or {"role": …, "content": …}], "system", "tools"}."""
    messages: list[Message] = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text(record, "system")})
    for number, turn in enumerate(record["conversations"], 1):
        who, what = ("from", "value") if "from" in turn else ("role", "content")
        role = SPEAKERS.get(str(turn[who]).casefold())
        weight = weight_of(turn, f"turn {number}")
        if role is None:
            raise ValueError(f"turn {number}: unknown speaker {turn[who]!r}")
        value = _text(turn, what)
        if role == "call":
            calls = json.loads(value)
            messages.append({"role": "assistant", "content": None, "tool_calls": to_openai_calls(calls, number)})
        elif role == "tool":
            call_ids = [c["id"] for m in messages for c in m.get("tool_calls", ())]
            answered = {m["tool_call_id"] for m in messages if m["role"] == "tool"}
            unanswered = [call_id for call_id in call_ids if call_id not in answered]
            messages.append({"role": "tool", "tool_call_id": unanswered[0] if unanswered else "", "content": value})
        else:
            messages.append({"role": role, "content": value})
        if weight is not None and messages[-1]["role"] == "assistant":
            messages[-1]["weight"] = weight
    tools = record.get("tools") or None
    if isinstance(tools, str):
        tools = json.loads(tools)
    if tools:
        tools = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    return Row(line, messages, tools or None)


def weight_of(marked: dict[str, Any], where: str) -> int | None:
    """Whether a turn or row is learned, 0 or 1, by whichever of its keys says so; None where none does."""
    learned = {}
    for key in (*LEARNED_KEYS, *MASKED_KEYS):
        value = marked.get(key)
        value = {"0": 0, "1": 1, "true": 1, "false": 0}.get(value.lower(), value) if isinstance(value, str) else value
        if value in (None, ""):
            continue
        if value not in (0, 1):  # true and false among them
            raise ValueError(f"{where}: `{key}` is {value!r}, expected 0 or 1, false or true")
        learned[key] = 1 - int(value) if key in MASKED_KEYS else int(value)
    if len(set(learned.values())) > 1:
        raise ValueError(f"{where}: {' and '.join(f'`{key}`' for key in learned)} contradict each other")
    return next(iter(learned.values()), None)


def _history(history: Any) -> Iterator[tuple[str, str]]:
    """Alpaca's earlier turns: pairs of texts, or messages with role and content in turn."""
    if not isinstance(history, list):
        raise TypeError(f"`history` is {json_kind(history)}, expected a list of [question, answer]")
    if all(isinstance(turn, dict) for turn in history):
        roles = [turn.get("role") for turn in history]
        if roles != ["user", "assistant"] * (len(history) // 2):
            raise ValueError("`history` does not go user, assistant, user, …")
        history = [(a.get("content"), b.get("content")) for a, b in zip(history[::2], history[1::2], strict=True)]
    for turn in history:
        if not isinstance(turn, list | tuple) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise ValueError("`history` holds something else than [question, answer]")
        yield turn[0], turn[1]


def to_openai_calls(calls: Any, turn: int) -> list[dict[str, Any]]:
    """ShareGPT's call or calls, {"name", "arguments"}, in OpenAI's form."""
    return [
        {
            "id": f"call_{turn}_{number}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
        }
        for number, call in enumerate(calls if isinstance(calls, list) else [calls], 1)
    ]


def _text(record: dict[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"`{key}` is {json_kind(value)}, expected text")
    return value
