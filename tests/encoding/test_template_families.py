"""Every chat template that TRL ships, and ours that break it: what is trained is the answers, after prompts as served.

What must be trained is written down here by hand, a line a template; the served prompts come from transformers itself.
"""

import copy
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import trl

from train.chats.rows import Row, trained_answers
from train.core.errors import BaseError, DataError
from train.encoding import one_pass, prefixes
from train.encoding.chat_template import open_conversation
from train.encoding.loss_mask import IGNORE_INDEX, encode_row, render

SHIPPED = Path(trl.__file__).parent / "chat_templates"
SPECIAL = re.compile(
    r"<\|[^\s|<>{}'\"]+\|?>|<[^\s|<>{}'\"/]+\|>|<｜[^\s<>{}'\"]+｜>|<(?:start|end)_of_\w+>|</?s>|<sop>|\[/?[A-Z]{3,}\]|\[gMASK\]"
)
"""What reads like a special token in a template's text: <|…|>, <｜…｜>, <|x>, <x|>, <end_of_turn>, </s>, [INST]."""

SYSTEM = {"role": "system", "content": "Ты Наташа, отвечай кратко."}
DIALOGUE = [
    {"role": "user", "content": "Я устал\nот всего"},
    {"role": "assistant", "content": "От чего именно? 🙂"},
    {"role": "user", "content": "От себя."},
    {"role": "assistant", "content": "Тогда отдохни  от себя."},
]
THOUGHTS = [
    DIALOGUE[0],
    {"role": "assistant", "content": "<think>\nПервая мысль.\n</think>\n\nПервый ответ."},
    DIALOGUE[2],
    {"role": "assistant", "content": "<think>\nВторая мысль.\n</think>\n\nВторой ответ."},
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "Город"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Погода.", "parameters": SCHEMA}}]
CALL = {"name": "get_weather", "arguments": '{"city": "Тверь"}'}
CALLS = [
    {"role": "user", "content": "Какая погода в Твери?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call00001", "type": "function", "function": CALL}],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "Снегопад"},
    {"role": "assistant", "content": "В Твери снегопад."},
]


class Family(NamedTuple):
    end: str
    """What the model says behind its words."""
    begin: str = ""
    """What it says before them, because the template's generation prompt does not."""
    last_only: bool = False
    """Rows of several answers train the last one."""
    system: str = ""
    """Why a system message is refused."""
    tools: str = ""
    """Why calls are refused."""
    thoughts: str = ""
    """Why thoughts are refused."""
    eos: str | None = None
    """The tokenizer's eos, if another than what ends a turn."""
    parts: bool = False
    """Content must be a list of parts; servers see that from the template."""


NO_CALLS = "leaves out a call"
QWEN = Family("<|im_end|>")
NO_THINK = "<think>\n\n</think>\n\n"
CLOSED = "\n</think>\n\n"  # the prompt ends in <think> and a line break
COHERE = Family("<|END_OF_TURN_TOKEN|>", tools=NO_CALLS)
DEEPSEEK = Family("<｜end▁of▁sentence｜>", CLOSED, last_only=True)
GEMMA = Family("<end_of_turn>", tools=NO_CALLS)
NEMOTRON = Family("<|im_end|>", "</think>", last_only=True)
FAMILIES = {
    "cohere": COHERE,
    "cohere2": COHERE._replace(end="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": DEEPSEEK._replace(tools="leaves out the tools"),
    "deepseekv3": DEEPSEEK,
    "diffusion_gemma": Family("<turn|>"),
    "gemma": GEMMA._replace(system="refuses a system message .*beginning of the first user message"),
    "gemma3": GEMMA,
    **{f"gemma4{version}": Family("<turn|>") for version in ("", "_v2", "_v3", "_v4", "_v5")},
    "glm4moe": Family("<|user|>", "\n<think></think>\n", eos="<|endoftext|>"),
    "gptoss": Family("<|return|>", "<|channel|>final<|message|>", last_only=True),
    "idefics3": Family("<end_of_utterance>", " ", tools=NO_CALLS, parts=True),
    "lfm2": QWEN._replace(tools=NO_CALLS),
    "lfm2_2_5": QWEN,
    "lfm2_2_5_v2": QWEN,
    "lfm2_2_5_vl": QWEN,
    "lfm2_v2": QWEN,
    "llama3": Family("<|eot_id|>", tools=NO_CALLS),
    "llama3_1": Family("<|eot_id|>"),
    "llama3_2": Family("<|eot_id|>"),
    "llava_next": Family("</s>", " ", tools=NO_CALLS, parts=True),
    "muse_glimmer": Family("<|eot|>", " to=user<|message|>"),
    **{f"nemotron_3{size}": NEMOTRON for size in ("_5_lightning", "_nano", "_super", "_ultra")},
    "phi3": Family("<|end|>", tools=NO_CALLS, eos="<|endoftext|>"),
    "phi3_5": Family("<|end|>", tools=NO_CALLS, eos="<|endoftext|>"),
    "qwen2_5": QWEN,
    "qwen2_5_vl": QWEN._replace(tools=NO_CALLS),
    "qwen3": QWEN._replace(begin=NO_THINK, last_only=True),
    "qwen3_training": QWEN._replace(begin=NO_THINK),
    "qwen3_5_nothink": QWEN._replace(last_only=True, thoughts="take a thought out of the answer"),
    "qwen3_5_nothink_training": QWEN._replace(thoughts="take a thought out of the answer"),
    "qwen3_5_think": QWEN._replace(begin=CLOSED, last_only=True),
    "qwen3_6": QWEN._replace(begin=CLOSED, last_only=True),
    # The prompt's line break and that of the empty thought make one token, which a served prompt does not end in
    "qwen3_8": QWEN._replace(begin=CLOSED, last_only=True),
    "qwen3_instruct_2507": QWEN,
    "qwen3_vl": QWEN,
    "smolvlm": Family("<end_of_utterance>", " ", tools=NO_CALLS, parts=True),
}
FILES = sorted(SHIPPED.glob("*.jinja"))


def shipped(name: str) -> str:
    return (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")


# Ours. Edited: TRL knows Qwen3 by its exact text
EDITED_QWEN3 = shipped("qwen3").replace("'<|im_start|>system\\n'", "'<|im_start|>system\\nОтвечай по-русски.\\n'")
MISTRAL = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set messages = messages[1:] %}{%- endif %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content|trim + eos_token }}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}{%- endfor %}"
)
YANDEX = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'assistant' and not loop.last %}"
    "{{- ' Ассистент: ' + m.content + '\\n\\n' }}{%- elif m.role != 'assistant' %}"
    "{{- ' Пользователь: ' + m.content + '\\n\\n' }}{%- endif %}"
    "{%- if loop.last %}{{- ' Ассистент:[SEP]' }}{%- endif %}{%- endfor %}"
)
OLD_LLAMA3 = (  # as Llama 3 came out: the opening of the next answer always stands at the end
    "{%- for m in messages %}{{- (bos_token if loop.first else '') + '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}{%- endfor %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
THINKING_CHATML = (  # strips earlier thoughts itself, and its prompt opens one
    "{%- for m in messages %}{%- set text = m.content %}{%- if m.role == 'assistant' and not loop.last %}"
    "{%- set text = text.split('</think>')[-1]|trim %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)
OURS = {
    "edited qwen3": (EDITED_QWEN3, FAMILIES["qwen3"]),
    # The system message stands before the last question, so each rendering with a later one is another
    "mistral": (MISTRAL, Family("</s>", " ", tools=NO_CALLS)),
    "yandex": (YANDEX, Family("</s>", last_only=True, tools="leaves out the tools")),
    "old llama 3": (OLD_LLAMA3, Family("<|eot_id|>", tools=NO_CALLS)),
    "thinking chatml": (THINKING_CHATML, Family("<|im_end|>", CLOSED, last_only=True, tools="leaves out the tools")),
}
ALL = {path.stem: (path.read_text(encoding="utf-8"), family_of) for path in FILES
       for family_of in [FAMILIES.get(path.stem) or FAMILIES[path.stem.removesuffix("_training")]]} | OURS  # fmt: skip


@pytest.fixture
def tokenizer_of(tokenizer_with):
    """A small tokenizer with the template of a family."""

    def make(template: str, family: Family):
        ends = SPECIAL.findall(family.end)
        return tokenizer_with(template, [*SPECIAL.findall(template), *ends], family.eos or ends[-1])

    return make


@pytest.fixture(params=ALL)
def case(request, tokenizer_of):
    """(tokenizer, what is to be expected, encode)"""
    template, family = ALL[request.param]
    tokenizer = tokenizer_of(template, family)
    stop = tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"]) if "glm4" in request.param else []

    def encode(messages, tools=None):
        return encode_row(tokenizer, Row(7, messages, tools), stop=stop)

    return tokenizer, family, encode


def served(tokenizer, family, messages, tools=None) -> list[int]:
    """The prompt's ids as transformers makes them for a server."""
    shown = [{k: v for k, v in message.items() if k != "weight"} for message in messages]
    if family.parts:
        shown = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in shown]
    return tokenizer.apply_chat_template(shown, tools=tools, add_generation_prompt=True, return_dict=False)


def trained(tokenizer, encoded) -> list[str]:
    """Every stretch of trained tokens, decoded."""
    stretches, before = [], IGNORE_INDEX
    for label in encoded.labels:
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                stretches.append([])
            stretches[-1].append(label)
        before = label
    return [tokenizer.decode(stretch) for stretch in stretches]


def require(case, messages, *, rewritten: bool | None = None) -> None:
    """Trained are the answers alone, each after the very prompt that a server feeds the model before it."""
    tokenizer, family, encode = case
    encoded = encode(messages)
    at = [i for i, message in enumerate(messages) if message["role"] == "assistant" and message.get("weight", 1)]
    last_only = len(at) > 1 and (family.last_only if rewritten is None else rewritten)
    at = at[-1:] if last_only else at
    assert encoded.last_turn_only == last_only
    assert trained(tokenizer, encoded) == [family.begin + messages[i]["content"] + family.end for i in at]
    for index, (start, end) in zip(at, encoded.answers, strict=True):
        assert encoded.input_ids[:start] == served(tokenizer, family, messages[:index])
        assert encoded.labels[start:end] == encoded.input_ids[start:end]
    assert encoded.input_ids[encoded.answers[-1][1] - 1] == encoded.end_of_turn
    assert tokenizer.decode([encoded.end_of_turn]) == SPECIAL.findall(family.end)[-1]


def test_one_answer(case):
    require(case, DIALOGUE[:2])


def test_several_answers(case):
    require(case, DIALOGUE)


def test_weight_zero_is_context(case):
    require(case, [DIALOGUE[0], {**DIALOGUE[1], "weight": 0}, *DIALOGUE[2:]])


def test_system_message(case):
    tokenizer, family, encode = case
    messages = [SYSTEM, *DIALOGUE]
    if family.system:
        with pytest.raises(DataError, match=f"row at line 7: the chat template {family.system}"):
            encode(messages)
        return
    require(case, messages, rewritten=True if tokenizer.chat_template == MISTRAL else None)
    assert SYSTEM["content"] in tokenizer.decode(encode(messages).input_ids)


def test_thoughts(case):
    """The last answer is trained with its thought whole; an earlier one with it or not at all."""
    tokenizer, family, encode = case
    if family.thoughts:
        with pytest.raises(DataError, match=f"row at line 7.*{family.thoughts}"):
            encode(THOUGHTS)
        return
    encoded = encode(THOUGHTS)
    *earlier, last = trained(tokenizer, encoded)
    assert encoded.last_turn_only == (not earlier)
    assert re.search(r"Вторая мысль\..*Второй ответ\.", last, re.DOTALL)
    assert last.endswith(family.end)
    assert all(re.search(r"Первая мысль\..*Первый ответ\.", text, re.DOTALL) for text in earlier)
    before = tokenizer.decode(encoded.input_ids[: encoded.answers[-1][0]])
    assert "Второй" not in before
    assert before.count("Первый ответ.") == 1
    assert last.count("<think>") <= 1


def test_calls(case):
    """The call and the answer after its result; the functions and the result are context."""
    tokenizer, family, encode = case
    if family.tools:
        with pytest.raises(DataError, match=f"row at line 7: the chat template {family.tools}"):
            encode(CALLS, TOOLS)
        return
    encoded = encode(CALLS, TOOLS)
    *call, answer = trained(tokenizer, encoded)
    assert encoded.last_turn_only == (not call)
    assert re.fullmatch(
        rf"(.*\n|{re.escape(family.begin)})?В Твери снегопад\.{re.escape(family.end)}", answer, re.DOTALL
    )
    for said in call:
        assert "get_weather" in said
        assert "Тверь" in said
        assert "Снегопад" not in said
    assert "Снегопад" in tokenizer.decode(encoded.input_ids[: encoded.answers[-1][0]])
    if call:
        assert encoded.labels[encoded.answers[0][1] - 1] in tokenizer.all_special_ids


ODD_ANSWERS = ("\n\nДа.", "  Да  \n", "Да <|im_end|>", "🙂", "END", "<think>\nХм.\n</think>\n\nДа.", "e\u0301\u00a0")
"""Answers at whose edges tokens may lie across, or that read like a template's own text."""


def conversations():
    """Rows with and without a system message, several answers, odd ones, one of weight 0, a question at the end."""
    yield from (DIALOGUE, DIALOGUE[:2], [SYSTEM, *DIALOGUE], THOUGHTS, [*DIALOGUE, DIALOGUE[0]])
    yield [DIALOGUE[0], {**DIALOGUE[1], "weight": 0}, *DIALOGUE[2:]]
    yield [*DIALOGUE[:3], {**DIALOGUE[3], "weight": 0}]
    for text in ODD_ANSWERS:
        yield [*DIALOGUE[:3], {"role": "assistant", "content": text}]
        yield [DIALOGUE[0], {"role": "assistant", "content": text}, *DIALOGUE[2:]]


def test_one_pass_tells_what_prefixes_tell(case):
    """Ids, labels, spans and errors of rows that are tokenized once are those of comparing prefixes."""
    tokenizer, family, encode = case
    rows = [(messages, None) for messages in conversations()] + [(CALLS, TOOLS)]
    stop = tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"]) if family.end == "<|user|>" else []
    told = 0
    for messages, tools in rows:
        answers = trained_answers(messages)
        try:
            with open_conversation(tokenizer, messages, tools, "row at line 7", stop=stop) as (chat, _):
                expected = prefixes.find_answers(chat, answers)
                rendered = one_pass.render_whole(chat, answers)
                (encoding,) = one_pass.tokenize(tokenizer, [rendered.whole])
                single = one_pass.find_answers(rendered, encoding)
                chat.require_all(answers[-1], rendered.prompts[-1])
        except (BaseError, DataError) as error:
            with pytest.raises(type(error), match=re.escape(str(error))):
                encode(messages, tools)
            continue
        assert single in (None, expected)
        told += single is not None
        encoded = encode(messages, tools)
        assert (encoded.input_ids, encoded.answers, encoded.last_turn_only) == expected
    if family.end + family.begin in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>"):
        assert told >= len(rows) / 2, "ordinary templates are told in one pass"


def test_every_shipped_file_is_here():
    names = {path.stem for path in FILES}
    assert len(names) > 60
    assert set(FAMILIES) <= names
    assert {name.removesuffix("_training") for name in names} <= set(FAMILIES)


OTHER_IDS = re.compile(r"deepseek|nemotron|qwen3_5_think|qwen3_6|qwen3_8")
"""TRL's training variants whose answers do not follow the prompt that the same template makes: `<think>` and a line
break end the prompt, and the rendered answer has `<think></think>` or no thought. What they train is never served."""


@pytest.mark.parametrize("name", [path.stem for path in FILES if path.stem.endswith("_training")])
def test_trl_mask(name, tokenizer_of):
    """{% generation %} marks our tokens; what it marks beside them no model says: the prompt's opening of the answer,
    line breaks and the end of the conversation behind the end of the turn."""
    template, family = ALL[name]
    tokenizer = tokenizer_of(template, family)
    stop = [tokenizer.convert_tokens_to_ids("<|user|>")] if "glm4" in name else []
    messages = [{**message, "content": message["content"].removesuffix(" 🙂")} for message in DIALOGUE]
    encoded = encode_row(tokenizer, Row(1, messages), stop=stop)
    if family.parts:
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert sum(theirs["assistant_masks"]) > 0
    if OTHER_IDS.match(name):
        prompt = encoded.input_ids[: encoded.answers[-1][0]]
        assert theirs["input_ids"][: len(prompt)] != prompt
        return
    assert theirs["input_ids"] == encoded.input_ids[: len(theirs["input_ids"])]
    openings = [len(tokenizer.apply_chat_template(messages[:i], return_dict=False)) for i in (1, 3)]
    for at, (token, marked) in enumerate(zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)):
        ours = any(start <= at < end for start, end in encoded.answers)
        assert marked or not ours
        if marked and not ours and at >= encoded.answers[0][0]:
            in_prompt = any(
                opening <= at < start for opening, (start, _) in zip(openings, encoded.answers, strict=False)
            )
            assert in_prompt or token == tokenizer.eos_token_id or not tokenizer.decode([token]).strip()


@pytest.mark.slow
def test_trl_refuses_what_we_train(tokenizer_of):
    """The ground for rendering prefixes: TRL knows templates by their exact text."""
    from trl.chat_template_utils import get_training_chat_template

    for name in ("edited qwen3", "mistral", "gemma4_v5", "llama3_2", "yandex"):
        with pytest.raises(ValueError, match=r"not supported|does not"):
            get_training_chat_template(tokenizer_of(*ALL[name]))


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3", "mistral", "phi3", "edited qwen3"])
def test_without_an_end_of_turn_nothing_is_trained(name, tokenizer_of):
    template, family = ALL[name]
    cut = template.replace(family.end, "").replace("eos_token", "''")
    with pytest.raises(BaseError, match="would never learn to stop"):
        encode_row(tokenizer_of(cut, family), Row(1, DIALOGUE))


@pytest.mark.parametrize("name", ["gemma3", "llama3"])
def test_an_end_of_turn_that_is_no_token_is_an_error(name, words):
    from transformers import PreTrainedTokenizerFast

    core = copy.deepcopy(words)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=ALL[name][0], eos_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    with pytest.raises(BaseError, match="would never learn to stop"):
        encode_row(tokenizer, Row(1, DIALOGUE))


def test_the_date_can_be_set(tokenizer_of):
    """Llama 3.2 and gpt-oss write today's date: it is told, and what they render says so."""
    from datetime import datetime

    for name in ("llama3_2", "gptoss", "muse_glimmer"):
        tokenizer = tokenizer_of(*ALL[name])
        first, second = (encode_row(tokenizer, Row(1, DIALOGUE[:2]), today=datetime(2031, 5, day)) for day in (6, 7))
        assert first.dated
        assert first.input_ids != second.input_ids
        assert "2031" in tokenizer.decode(first.input_ids)
        prompt = render(tokenizer, DIALOGUE[:1], today=datetime(2031, 5, 6))
        assert first.input_ids[: len(prompt)] == prompt
        now = tokenizer.apply_chat_template(DIALOGUE[:1], tokenize=False)
        assert f"{datetime.now():%Y}" in now, "the template has its own clock again"
    tokenizer = tokenizer_of(*ALL["llama3_1"])
    assert not encode_row(tokenizer, Row(1, DIALOGUE)).dated


def test_a_closed_thought_is_not_closed_again(tokenizer_of):
    """A prompt that holds an empty thought, over a template that renders none: the answer follows as it is."""
    template = THINKING_CHATML.replace("<think>\\n'", "<think>\\n\\n</think>\\n\\n'")
    tokenizer = tokenizer_of(template, Family("<|im_end|>"))
    encoded = encode_row(tokenizer, Row(1, DIALOGUE))
    assert trained(tokenizer, encoded) == [DIALOGUE[-1]["content"] + "<|im_end|>"]
    with pytest.raises(DataError, match="writes another <think> before that of message 4: take the thought out"):
        encode_row(tokenizer, Row(1, THOUGHTS))


def test_a_second_thought_is_an_error(tokenizer_of):
    template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
        "{%- if m.role == 'assistant' %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
        "{{- m.content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    with pytest.raises(DataError, match="writes another <think> before that of message 2: take the thought out"):
        encode_row(tokenizer_of(template, Family("<|im_end|>")), Row(1, THOUGHTS))


def test_what_a_template_leaves_out_is_an_error(tokenizer_of):
    users = (
        "{%- for m in messages %}{%- if m.role in ('user', 'assistant') %}{{- m.content + '<|im_end|>' }}{%- endif %}"
        "{%- endfor %}"
    )
    tokenizer = tokenizer_of(users, Family("<|im_end|>"))
    encode_row(tokenizer, Row(1, DIALOGUE))
    with pytest.raises(
        DataError, match=r"row at line 3: the chat template leaves out message 1 \(system\): put the text"
    ):
        encode_row(tokenizer, Row(3, [SYSTEM, *DIALOGUE]))
    with pytest.raises(DataError, match="conversation: the chat template leaves out message 1"):
        render(tokenizer, [SYSTEM, *DIALOGUE[:1]])
    short = users.replace("m.content +", "m.content[:9] +")
    with pytest.raises(DataError, match="leaves out part of the text of message 2, an answer: take it out"):
        encode_row(tokenizer_of(short, Family("<|im_end|>")), Row(3, DIALOGUE))


def test_two_bos_tokens_are_an_error(tokenizer_of):
    tokenizer = tokenizer_of(shipped("gemma3").replace("{{ bos_token }}", "{{ bos_token }}<s>"), FAMILIES["gemma3"])
    assert "<s>" in tokenizer.chat_template
    with pytest.raises(BaseError, match="writes <s> twice: take one out"):
        encode_row(tokenizer, Row(1, DIALOGUE))


def test_a_template_that_is_no_jinja_is_an_error(tokenizer_of):
    with pytest.raises(BaseError, match=r"its chat template is no valid one: .*end of print statement"):
        encode_row(tokenizer_of("{{ messages[0].content + }}", Family("<|im_end|>")), Row(1, DIALOGUE))
