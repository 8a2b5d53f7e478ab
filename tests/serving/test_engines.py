"""govor serve with vLLM behind it. It has an environment of its own (`make test-engines` builds one for the CPU)."""

import http.client
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import openai
import psutil
import pytest
import torch
from click.testing import CliRunner

from tests.serving.test_serve import KEY, TALK, Server, gone, make_run, user
from train.cli import main
from train.encoding.loss_mask import render
from train.models.load import load_merged, load_tuned
from train.serving.answering import engine_request
from train.serving.api_errors import read_request
from train.serving.chat import chat
from train.serving.chat_request import ChatRequest
from train.serving.choose_engine import find_vllm, served_base, served_beside, served_models
from train.serving.engine import EngineRefusedError, request_json
from train.serving.in_engine.govor_engine_key import KEY_VARIABLE
from train.serving.prompt_check import check_served_prompts

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(find_vllm(None) is None, reason="no vllm executable on PATH: make test-engines"),
]
FLAGS = ["--", "--enforce-eager", "--gpu-memory-utilization", "0.1"]
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}


TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}{{- '<tool_call>' + (call | tojson) + '</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""ChatML that renders functions, and calls of them."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """vLLM's attention on a CPU wants heads of 32."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "tools.jinja").write_text(TEMPLATE, encoding="utf-8")
    shape = {"hidden_size": 128, "template": folder / "tools.jinja"}
    made = make_run(folder, "natasha", **shape, steps=60)
    return made, make_run(folder, "болтун", **shape, steps=1, max_new_tokens=20)


@pytest.fixture(scope="module", params=["adapters", "merged"])
def server(runs, request):
    """Base + two adapters in one engine; or the merged model of one run."""
    if request.param == "adapters":
        started = Server(*(str(run.path) for run in runs), *FLAGS, env=CPU)
    else:
        started = Server(str(runs[0].path), "--merged", *FLAGS, env=CPU)
    started.merged = request.param == "merged"
    yield started
    below = started.descendants()
    assert len([process for process in below if "supervisor.py" in " ".join(process.cmdline())]) == 1
    started.close()
    assert gone(below, 5)
    assert started.process.returncode == 0


def test_the_list_at_start(server):
    lines = {line.split()[0]: line for line in server.output.splitlines() if "prompts as trained" in line}
    assert set(lines) == ({"natasha"} if server.merged else {"natasha", "болтун"})
    assert ("merged from base128" if server.merged else "adapter over base128") in lines["natasha"]
    assert "vLLM" in lines["natasha"]
    assert lines["natasha"].rstrip().endswith("5 of 5 prompts as trained")


@pytest.mark.parametrize("question", [question for question, _ in TALK])
def test_tokens_are_those_of_chat_and_of_plain_transformers(server, runs, question, capsys):
    got = server.ask("natasha", question)
    chat(str(runs[0].path), merged=server.merged, prompt=question)
    plain, tokenizer = load_merged(runs[0]), load_tuned(runs[0])[1]
    prompt = render(tokenizer, [user(question)])
    output = plain.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[0, len(prompt) :]
    assert got.choices[0].message.content == capsys.readouterr().out.strip()
    assert got.choices[0].message.content == tokenizer.decode(output, skip_special_tokens=True).strip()
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(prompt), len(output))
    assert (got.choices[0].finish_reason, got.model) == ("stop", "natasha")


def test_each_name_is_its_own_adapter(server):
    if server.merged:
        pytest.skip("one model is served")
    answers = {name: server.ask(name, "Кто я?").choices[0].message.content for name in ("natasha", "болтун")}
    assert answers["natasha"] != answers["болтун"]
    assert server.ask("болтун", "Кто я?").usage.completion_tokens == 20, "the run's own max_new_tokens"
    with pytest.raises(openai.NotFoundError):
        server.ask("base:", "Кто я?")


def test_streaming(server):
    whole = server.ask("natasha", "Где ты живёшь?")
    chunks = list(server.ask("natasha", "Где ты живёшь?", stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(filter(None, pieces)) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 2
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage) and whole.usage.completion_tokens > 2
    assert {chunk.model for chunk in chunks} == {"natasha"}


def test_several_clients_at_once(server):
    questions = [question for question, _ in TALK] * 4
    expected = {question: server.ask("natasha", question).choices[0].message.content for question in questions[:4]}
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda question: server.ask("natasha", question).choices[0].message.content, questions))
    assert got == [expected[question] for question in questions]


def test_stop_several_answers_and_probabilities(server):
    whole = server.ask("natasha", "Кто я?").choices[0].message.content
    got = server.ask("natasha", "Кто я?", stop=[whole[6:9]])
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == (whole[:6], "stop")
    got = server.ask("natasha", "Кто я?", n=3, temperature=2, logprobs=True, top_logprobs=2, seed=1)
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert all(len(choice.logprobs.content[0].top_logprobs) == 2 for choice in got.choices)
    assert len({choice.message.content for choice in got.choices}) > 1


@pytest.mark.parametrize("stream", [True, False])
def test_hang_up_frees_the_engine(server, runs, stream):
    """By the tokens that the engine counts: the client goes while it is at work, with most of the answers to come."""
    model = "natasha" if server.merged else "болтун"
    endless = {str(token): -100 for token in runs[0].manifest()["template"]["end_of_turn"]}
    busy = {"max_tokens": 900, "temperature": 2, "logit_bias": endless, "repetition_penalty": 2.0, "stream": stream}
    busy["n"] = 4  # so long that it cannot be done before the client has gone, on no machine
    for _ in range(3):
        before = engine_metric(server, "generation_tokens_total")
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        body = {"model": model, "messages": [user("Кто я?")], **busy}
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        if stream:
            assert connection.getresponse().read(10)
        deadline = time.monotonic() + 60
        while engine_metric(server, "generation_tokens_total") == before:
            assert time.monotonic() < deadline, "it did not begin"
        assert engine_metric(server, "num_requests_running") > 0, "it is done before the client has gone"
        connection.close()
        at_least = engine_metric(server, "generation_tokens_total") - before
        while engine_metric(server, "num_requests_running") > 0:
            assert time.monotonic() < deadline, "it works on for nobody"
            time.sleep(0.1)
        generated = engine_metric(server, "generation_tokens_total") - before
        assert generated < 0.7 * 4 * 900, f"of 3600 tokens that nobody waited for it generated {at_least}, {generated}"


def engine_metric(server, name: str) -> float:
    """One of the engine's own metrics."""
    import httpx2

    commands = [process.cmdline() for process in server.descendants()]
    [command] = [words for words in commands if "serve" in words and "supervisor.py" not in " ".join(words)]
    port = command[command.index("--port") + 1]
    [key] = {process.environ()[KEY_VARIABLE] for process in server.descendants() if KEY_VARIABLE in process.environ()}
    url = f"http://127.0.0.1:{port}/metrics"
    assert httpx2.get(url).status_code == 401
    lines = httpx2.get(url, headers={"authorization": f"Bearer {key}"}).text.splitlines()
    [line] = [line for line in lines if line.startswith(f"vllm:{name}{{")]
    return float(line.split()[-1])


def test_refusals(server):
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask("natasha", "слово " * 2000)
    assert caught.value.code == "context_length_exceeded"
    assert server.ask("natasha", "Кто я?", max_tokens=5000).choices[0].finish_reason == "stop"
    with pytest.raises(openai.AuthenticationError) as caught:
        server.client.with_options(api_key="wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as caught:
        server.ask("gpt-4o", "Кто я?")
    assert caught.value.code == "model_not_found"


CITIES = ["Тверь", "Москва"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,  # else vLLM holds the arguments to JSON alone
        "parameters": {
            "type": "object", "properties": {"city": {"enum": CITIES}}, "required": ["city"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_tools(server, runs, choice):
    """A call whose arguments fit, streamed or not; the conversation goes on with its result; by responses too."""
    tokenizer = load_tuned(runs[0])[1]  # so small a model would spend all its tokens on the white space of JSON
    blanks = {"logit_bias": {str(at): -100 for at in range(len(tokenizer)) if tokenizer.decode([at]).isspace()}}
    free = server.ask("natasha", "Кто я?", tools=[WEATHER]).choices[0].message
    assert free.content and not free.tool_calls, "its own choice: it has learned no calls"
    asked = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 200, **blanks}
    answer = server.ask("natasha", "Кто я?", **asked).choices[0].message
    [call] = answer.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in CITIES
    deltas = [
        part
        for chunk in server.ask("natasha", "Кто я?", **asked, stream=True)
        for choice in chunk.choices
        for part in choice.delta.tool_calls or ()
    ]
    assert "".join(part.function.arguments or "" for part in deltas) == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "Дождь."}
    messages = [user("Кто я?"), answer.to_dict(), result]
    unforced = {"model": "natasha", "tool_choice": "none"}
    after = server.client.chat.completions.create(messages=messages, tools=[WEATHER], **unforced)
    assert after.choices[0].message.tool_calls is None and after.choices[0].message.content
    flat = {"type": "function", **WEATHER["function"]}
    named = {"type": "function", "name": "weather"} if choice is NAMED else choice
    forced = {"model": "natasha", "tools": [flat], "tool_choice": named, "extra_body": blanks, "max_output_tokens": 200}
    response = server.client.responses.create(input="Кто я?", **forced)
    [item] = [item for item in response.output if item.type == "function_call"]
    assert (item.name, item.arguments) == ("weather", call.function.arguments)
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "Дождь."}
    ended = server.client.responses.create(input=[user("Кто я?"), item.to_dict(), result], tools=[flat], **unforced)
    assert ended.output_text == after.choices[0].message.content


def test_penalties_reach_the_engine(server):
    """By what they change in a text that repeats itself."""
    model = "natasha" if server.merged else "болтун"
    ends = {"extra_body": {"ignore_eos": True}, "max_tokens": 60, "temperature": 0}
    plain = server.ask(model, "Кто я?", **ends).choices[0].message.content
    for penalty in ({"frequency_penalty": 2}, {"presence_penalty": 2}):
        changed = server.ask(model, "Кто я?", **ends, **penalty).choices[0].message.content
        assert changed != plain, penalty
        assert len(set(changed)) > len(set(plain)), "more different letters"


def test_json_schema(server):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    got = server.ask("natasha", "Кто я?", response_format=form).choices[0].message.content
    squeezed = "".join(got.split())  # so small a model may spend all its tokens on white space
    assert squeezed and any(whole.startswith(squeezed) for whole in ('{"a":true}', '{"a":false}'))
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    assert server.client.responses.create(model="natasha", input="Кто я?", text=text).output_text == got
    any_object = server.ask("natasha", "Кто я?", response_format={"type": "json_object"}).choices[0].message.content
    assert any_object.lstrip().startswith("{")


def ask_engine(served, text: str = "Кто я?", **fields) -> str:
    """The answer of an engine without a server of ours in front of it, greedy."""
    raw = json.dumps({"model": served.name, "messages": [user(text)], "temperature": 0, **fields}).encode()
    asked, _ = engine_request(served, read_request(ChatRequest, raw))
    del asked["stream_options"]
    answer = request_json(served.engine, "/v1/chat/completions", asked | {"stream": False})
    return answer["choices"][0]["message"]["content"]


def test_one_engine_takes_in_adapters_while_it_runs(runs, tmp_path, monkeypatch):
    """As govor jobs serve has it do: another adapter and the base are served beside the first, also after it died."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    [first] = served_models(runs[:1], flags=FLAGS[1:], later=[run.adapter for run in runs])
    first.engine.start()
    try:
        first.engine.wait_ready(900, say=print)
        alone = ask_engine(first)
        second = served_beside(first, runs[1])
        config = runs[0].config()
        base = served_base("base", config, Path(config.model.name_or_path), tmp_path, running=first)
        assert second.engine is base.engine is first.engine and first.engine.starts == 1
        assert check_served_prompts(second).differences == []
        expected = {served.name: ask_engine(served, max_tokens=20) for served in (first, second, base)}
        assert expected["natasha"] == alone == "Ты Пётр, мой старый друг."
        assert len({expected["болтун"], expected["natasha"]}) == 2
        for process in psutil.Process().children(recursive=True):
            if "serve" in process.cmdline() and "supervisor.py" not in " ".join(process.cmdline()):
                process.kill()
        while first.engine.starts == 1:
            time.sleep(0.1)
        assert {served.name: ask_engine(served, max_tokens=20) for served in (first, second, base)} == expected
        assert ask_engine(second, guided_choice=["да", "нет"]) in ("да", "нет")
        assert ask_engine(second, structured_outputs={"regex": "[0-9]{3}"}).isdigit()
        with pytest.raises(EngineRefusedError):
            ask_engine(second, min_tokens=9, max_tokens=3)
        assert ask_engine(first, chat_template_kwargs={"enable_thinking": False}) == alone
    finally:
        first.engine.stop()


def test_govor_s_own_options_are_not_handed_on(runs):
    result = CliRunner().invoke(main, ["serve", str(runs[0].path), *FLAGS, "--api-key=x"])
    assert (result.exit_code, result.stderr) == (
        2, "error: --api-key=x behind -- goes to vLLM, where govor sets it: put govor's own options before --\n",
    )  # fmt: skip


def test_engine_that_dies_at_start(runs, working_folder):
    """One line of ours, then its own."""
    shutil.copytree(runs[0].path, "runs/copy")
    result = CliRunner().invoke(main, ["serve", "runs/copy", "--port", "0", "--", "--max-model-len", "9999999"])
    assert result.exit_code == 2
    first, *lines = result.stderr.split("error: ", 1)[1].splitlines()
    assert first == "vLLM (copy) ended while it started (exit code 1):"
    assert any("max_model_len" in line for line in lines)
    assert len(lines) <= 6
