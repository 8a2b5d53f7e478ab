"""govor eval: losses as transformers computes them, answers that stay the same, pages for people, JSON for programs."""

import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    Qwen3NextConfig,
)

from tests.conftest import govor
from train.chats.readers import read_rows
from train.core.config import Generation, load_config
from train.core.errors import GovorError
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import encode_row, render
from train.evaluation.beside import Beside
from train.evaluation.generate import answer, answer_batch
from train.evaluation.intervals import Interval
from train.evaluation.judge import Evaluation, verdict
from train.evaluation.meter import score
from train.evaluation.sampling import (
    AnswerFile,
    Prompt,
    Server,
    ask_server,
    collect_answers,
    find_server,
    held_out_prompts,
)
from train.evaluation.style import Answer
from train.models.load import load_tuned
from train.sft import train


def test_losses_samples_and_report(run):
    result = govor("eval", str(run.path), "--quick")
    assert result.exit_code == 0, result.output
    found = re.search(r"held-out loss: ([\d.]+) before, ([\d.]+) after", result.stdout)
    assert float(found[2]) < float(found[1])
    samples = run.samples_file.read_text(encoding="utf-8")
    assert samples.count("**Base**") == samples.count("**Tuned**") == 2
    assert "Кто я?" in samples
    assert "От себя." in samples
    report = run.report_file.read_text(encoding="utf-8")
    assert report.count("<svg") == 2
    assert "Кто я?" in report
    assert not re.search(r"<(script|link|img)|src=|url\(http", report), "one page, nothing to fetch"
    assert run.manifest()["evaluation"]["rows"] == 5
    assert not run.evaluation.exists()


def test_loss_is_that_of_every_trained_token(write_config):
    """Against transformers' own loss, row by row, weighted by tokens; the run's curve ends with the same number."""
    run = train(load_config(write_config(training={"max_steps": 2, "per_device_eval_batch_size": 2})))
    model, tokenizer = load_tuned(run)
    total, right, count = 0.0, 0, 0
    for row in read_rows(run.held_out_file):
        encoded = encode_row(tokenizer, row)
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
        n = int((labels != -100).sum())
        with torch.inference_mode():
            made = model(input_ids=ids, labels=labels)
        total += made.loss.item() * n
        right += int((made.logits[0, :-1].argmax(-1) == labels[0, 1:]).sum())
        count += n
    found = score(model, encode_held_out(run, tokenizer, held_out_rows(run)))
    assert (found.loss, found.accuracy) == pytest.approx((total / count, right / count), rel=1e-5)
    curve = [entry for entry in run.metrics() if "eval_loss" in entry][-1]
    assert curve["eval_loss"] == pytest.approx(found.loss, rel=1e-5)


def test_same_answers_every_time(run):
    govor("eval", str(run.path), "--quick")
    first = run.samples_file.read_text(encoding="utf-8").split("\n", 3)[3]
    govor("eval", str(run.path), "--quick")
    assert run.samples_file.read_text(encoding="utf-8").split("\n", 3)[3] == first


def test_fully_tuned_run(write_config):
    training = {"max_steps": 3, "learning_rate": 1e-3}
    run = train(load_config(write_config(lora=None, training=training)))
    assert govor("eval", str(run.path), "--samples", "1").exit_code == 0
    assert run.manifest()["evaluation"]["tuned_loss"] < run.manifest()["evaluation"]["base_loss"]


def test_answers_made_together_are_those_made_alone(run):
    """Greedy, with a penalty for repetition that must not count the padding."""
    model, tokenizer = load_tuned(run)
    generation = Generation(do_sample=False, max_new_tokens=12, repetition_penalty=1.3)
    prompts = [prompt.messages for prompt in held_out_prompts(held_out_rows(run))]
    alone = [answer(model, tokenizer, prompt, generation, stop=run.end_of_turn()) for prompt in prompts]
    ids = [render(tokenizer, prompt) for prompt in prompts]
    assert len({*map(len, ids)}) > 2
    assert answer_batch(model, tokenizer, ids, generation, stop=run.end_of_turn(), seed=0) == alone


def load_page(run):
    page = (run.evaluation / "evaluation.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)|src=|url\(http", page), "one page, nothing to fetch"
    return page


def test_a_model_without_positions_answers(tokenizer):
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2, pad_token_id=0)
    model, messages = BloomForCausalLM(config), [{"role": "user", "content": "Кто я?"}]
    said = answer(model, tokenizer, messages, Generation(max_new_tokens=4), stop=[1])
    assert isinstance(said, str)


@pytest.mark.parametrize("kind", [BloomConfig, MambaConfig, Qwen3NextConfig])
def test_models_of_any_memory_answer_together(kind, tokenizer):
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "state_size": 4,
             "intermediate_size": 64, "layer_types": ["linear_attention", "full_attention"], "num_experts": 0,
             "linear_num_key_heads": 2, "linear_num_value_heads": 2}  # fmt: skip
    known = sizes if kind is Qwen3NextConfig else {"num_hidden_layers": 2}
    model = AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), hidden_size=32, pad_token_id=0, **known))
    generation = Generation(max_new_tokens=40, do_sample=False)
    prompts = [render(tokenizer, [{"role": "user", "content": text}]) for text in ("Кто я?", "Где ты?")]
    prompts = [ids[: min(map(len, prompts))] for ids in prompts]
    together = answer_batch(model, tokenizer, prompts, generation, stop=[1], seed=0)
    assert together == [answer_batch(model, tokenizer, [ids], generation, stop=[1], seed=0)[0] for ids in prompts]


def test_answers_leave_their_batch_beyond_a_sliding_window(tokenizer, monkeypatch):
    """Each is what transformers' own cache gives, while buffers are made anew and others have ended."""
    monkeypatch.setattr("train.evaluation.cache.ROOM", 6)
    monkeypatch.setattr("train.evaluation.generate.STAGE", 10)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model, generation = AutoModelForCausalLM.from_config(config).eval(), Generation(do_sample=False, max_new_tokens=90)
    asked = [[{"role": "user", "content": text}] for text in ("Кто я?", "Где ты теперь живёшь?", "Да", "Зачем море?")]
    prompts = [render(tokenizer, messages) for messages in asked]
    ids = torch.tensor([prompts[0]])
    stop = [1, model.generate(ids, do_sample=False, max_new_tokens=90)[0, ids.shape[1] + 40].item()]
    alone = [answer(model, tokenizer, messages, generation, stop=stop) for messages in asked]
    assert len({len(tokenizer(text)["input_ids"]) // 10 for text in alone}) > 1, "they end at different stages"
    assert answer_batch(model, tokenizer, prompts, generation, stop=stop, seed=0) == alone


def test_the_whole_evaluation(run):
    result = govor("eval", str(run.path), "--samples", "2")
    assert result.exit_code == 0, result.output
    found = json.loads((run.evaluation / "evaluation.json").read_bytes())
    prompts = len(held_out_prompts(held_out_rows(run)))
    assert found["answers"] == {"prompts": prompts, "dialogues": 5, "samples": 2, "judged": 2 * prompts}
    assert found["style"]["markers"]["question"].keys() == {"name", "real", "base", "tuned", "difference", "flagged"}
    assert found["leakage"]["longest_copy"].keys() == {"tuned", "held_out", "base", "ceiling"}
    assert found["leakage"]["recites"] is False and found["forgetting"]["log_loss"]["tuned"]["value"] > 0
    assert found["loss"]["base"] == run.manifest()["evaluation"]["base_loss"]
    value, low, high = found["loss_interval"]["tuned"]
    assert value == pytest.approx(found["loss"]["tuned"]) and low < value < high
    assert found["not_measured"] and found["verdict"]["en"] in result.stdout
    page = load_page(run)
    assert found["verdict"]["ru"] in page and found["verdict"]["en"] in page
    lines = (run.evaluation / "answers.jsonl").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 * prompts + 1
    govor("eval", str(run.path), "--quick")
    assert run.manifest()["evaluation"]["verdict"] == found["verdict"], "a quick one knows nothing else"


def test_a_training_file_that_grew_is_not_what_was_trained(run):
    """Nobody can say then what is a copy: --gate does not pass."""
    file = run.config().data.train_file
    Path("grown.jsonl").write_bytes(file.read_bytes() + b"\n")
    config = run.config_file.read_text(encoding="utf-8").replace(str(file), "grown.jsonl")
    run.config_file.write_text(config, encoding="utf-8")
    shutil.rmtree(run.checkpoints)
    result = govor("eval", str(run.path), "--samples", "1", "--gate")
    assert result.exit_code == 2 and "error: --gate: nothing was measured that it asks for" in result.stderr
    assert "not measured: Manner and copies: grown.jsonl is gone, or no longer what was trained on" in result.stdout
    result = govor("eval", str(run.path), "--samples", "1", "--checkpoints")
    assert result.exit_code == 2 and "checkpoints holds no saved state" in result.stderr


def test_a_model_whose_weights_are_no_numbers(run):
    file = run.adapter / "adapter_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file)
    result = govor("eval", str(run.path), "--samples", "1")
    assert result.exit_code == 2
    assert result.stderr.endswith(": its held-out loss after training is no number: weights are damaged\n")


def test_the_state_to_keep_is_the_nearest_to_the_persona():
    """A model that overdoes her manner lies beyond 1."""
    places = [("a", 0.7, False), ("b", 1.3, False), ("c", 0.9, False), ("d", 1.0, True)]
    states = [(name, Interval(value, value, value), recites) for name, value, recites in places]
    assert Evaluation(None, None, checkpoints=(*states, ("e", None, False))).keep == "c"
    assert Evaluation(None, None, checkpoints=(("e", None, False),)).keep is None


@pytest.mark.long
def test_nothing_is_sampled_twice(run, monkeypatch):
    govor("eval", str(run.path), "--samples", "2")
    file, asked = run.evaluation / "answers.jsonl", []
    before = file.read_text(encoding="utf-8")
    file.write_text("\n".join(before.split("\n")[:-2])[:-5], encoding="utf-8")  # a kill in the middle of a line
    real = AnswerFile.append

    def append(self, model, settings, answers):
        asked.extend(answers)
        real(self, model, settings, answers)

    monkeypatch.setattr(AnswerFile, "append", append)
    govor("eval", str(run.path), "--samples", "2")
    assert len(asked) == 2
    govor("eval", str(run.path), "--samples", "2")
    govor("eval", str(run.path), "--samples", "1")
    assert len(asked) == 2
    govor("eval", str(run.path), "--samples", "3")
    assert len(asked) == 2 + 2 * len(held_out_prompts(held_out_rows(run)))


@pytest.mark.long
def test_each_saved_state(write_config):
    training = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.02}
    run = train(load_config(write_config(training=training)))
    result = govor("eval", str(run.path), "--samples", "1", "--checkpoints", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [state["name"] for state in found["checkpoints"]] == ["checkpoint-2", "checkpoint-4"]
    by_model = {}
    for line in (run.evaluation / "answers.jsonl").read_text(encoding="utf-8").strip().split("\n"):
        record = json.loads(line)
        by_model.setdefault(record["model"], []).append(record["answer"])
    tuned, first, base = by_model.values()
    assert tuned != first != base, "the last saved state is the tuned model, and is not asked again"


@pytest.mark.long
def test_beside_the_run_that_it_began_with(write_config, finished_run):
    """A training that moves next to nothing is neither better nor worse; that of the start's own answers is found."""
    shutil.copytree(finished_run.path, "start")
    lora = {"r": 16, "lora_alpha": 32, "start_from": "start"}
    run = train(load_config(write_config(lora=lora, training={"max_steps": 1, "learning_rate": 1e-12})))
    result = govor("eval", str(run.path), "--samples", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["beside"]["run"] == "start" and set(found["beside"]["better"].values()) == {0.0}
    assert "Beside start: " in found["verdict"]["en"] and "Рядом с start: " in found["verdict"]["ru"]
    by_model = {}
    for line in (run.evaluation / "answers.jsonl").read_text(encoding="utf-8").strip().split("\n"):
        record = json.loads(line)
        by_model.setdefault(record["model"], []).append(record["answer"])
    tuned, begun, base = by_model.values()
    assert tuned == begun != base
    shutil.rmtree("start")
    result = govor("eval", str(run.path), "--samples", "1", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["beside"] is None
    assert any("Better or worse than start" in reason for reason in json.loads(result.stdout)["not_measured"])


def test_better_or_worse_than_before():
    before, after = Interval(0.6, 0.5, 0.7), Interval(0.8, 0.7, 0.9)
    found = Beside("natasha", (before, after), (72, 60), 58, (5, 9))
    assert verdict(Evaluation(None, None, beside=found), "en") == (
        "Beside natasha: manner 0.60 → 0.80 (better), median length 72 → 60 characters, the persona's 58 (better), "
        "longest copy 5 → 9 words (worse)."
    )
    found = Beside("natasha", (after, before), (60, 61), 30, None)
    assert verdict(Evaluation(None, None, beside=found), "ru") == (
        "Рядом с natasha: манера 0,80 → 0,60 (хуже), медиана длины 60 → 61 знаков, у персоны 30 (без перемен)."
    )


def test_answers_from_anywhere(run):
    """The persona's own answers: told from nothing, and what they are compared with stays as it was."""
    govor("eval", str(run.path), "--samples", "1")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with Path("answers.jsonl").open("w", encoding="utf-8") as file:
        for prompt in held_out_prompts(held_out_rows(run)):
            messages = [*prompt.messages, {"role": "assistant", "content": prompt.real.text}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    result = govor("eval", str(run.path), "--answers", "answers.jsonl", "--samples", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["leakage"]["longest_copy"]["tuned"] == found["leakage"]["longest_copy"]["held_out"]
    assert not any(mark["flagged"] for mark in found["style"]["markers"].values())
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


class Answering(BaseHTTPRequestHandler):
    """A server that always says the same, and keeps what it was asked."""

    asked: list = []  # noqa: RUF012
    says: object = None
    """What it says in the place of a list of models or an answer: a page, an object, or after how many it fails."""

    def do_GET(self):
        if isinstance(self.says, str):
            self.reply(self.says)
            return
        self.reply({"object": "list", "data": [{"id": "n1", "object": "model"}, {"id": "n2", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((request, self.headers["authorization"]))
        if isinstance(self.says, dict):
            self.reply(self.says)
            return
        if self.says == len(self.asked):
            self.send_response(400)
            self.end_headers()
            return
        message = {"role": "assistant", "content": "Тишина."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        self.reply(made)

    def reply(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_in_place_of_the_model(run, url, monkeypatch):
    monkeypatch.setenv("GOVOR_API_KEY", "sk-1")
    Answering.asked.clear()
    result = govor("eval", str(run.path), "--samples", "1", "--via", url, "--model", "n2", "--json")
    assert result.exit_code == 0, result.output
    prompts = held_out_prompts(held_out_rows(run))
    assert len(Answering.asked) == len(prompts) and {key for _, key in Answering.asked} == {"Bearer sk-1"}
    assert {request["model"] for request, _ in Answering.asked} == {"n2"}
    assert Answering.asked[0][0]["messages"][-1]["role"] == "user"
    assert json.loads(result.stdout)["leakage"]["longest_copy"]["tuned"] <= 1
    assert "n2" in load_page(run)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("<html>", "/v1: no OpenAI-compatible server: it lists no models"),
        ({"choices": []}, "/v1, n1: an answer without a message"),
        (3, "what it has answered is kept"),
    ],
)
def test_a_server_that_fails_is_one_line_and_keeps_what_was_answered(run, url, monkeypatch, says, expected):
    Answering.asked.clear()
    monkeypatch.setattr(Answering, "says", says)
    file, prompts = AnswerFile(Path("kept") / "answers.jsonl"), held_out_prompts(held_out_rows(run))
    with pytest.raises(GovorError) as caught:
        ask = ask_server(find_server(url, None), Generation(), 1)
        collect_answers(file, "m", "s", prompts, 1, ask, "answers", batch_size=1)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert len(file.read("m", "s")) == (2 if says == 3 else 0)


def test_half_a_character_in_an_answer_is_kept_as_a_question_mark(url, monkeypatch):
    monkeypatch.setattr(Answering, "says", {"choices": [{"message": {"content": "\ud83d да"}}]})
    file, prompts = AnswerFile(Path("kept/answers.jsonl")), [Prompt([], None, Answer(1, "Полдень"))]
    ask = ask_server(Server(f"{url}/v1", "n1"), Generation(), 1)
    assert collect_answers(file, "m", "s", prompts, 1, ask, "answers")[0].text == "? да"


def test_a_server_is_told_of_the_functions(url):
    Answering.asked.clear()
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    prompt = Prompt([{"role": "user", "content": "Который час?"}], tools, Answer(1, "Полдень"))
    ask_server(Server(f"{url}/v1", "n1"), Generation(), 1)([prompt, prompt._replace(tools=None)], 0)
    assert [request.get("tools") for request, _ in Answering.asked] == [tools, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--quick", "--checkpoints"), "--quick does not go with --checkpoints"),
        (("--quick", "--gate"), "--gate does not go with --quick, which looks for no copies"),
        (("--model", "x"), "--model names a server's model: give --via URL too"),
        (("--via", "127.0.0.1:9", "--samples", "1"), "http://127.0.0.1:9/v1: Connection error"),
        (("--answers", "none.jsonl"), "none.jsonl"),
    ],
)
def test_wrong_use_is_one_line(run, options, said):
    from train.cli import main

    result = CliRunner().invoke(main, ["eval", str(run.path), *options])
    assert result.exit_code != 0 and said in result.output + str(result.exception)


def test_a_run_that_held_out_nothing(write_config):
    run = train(load_config(write_config(data={"eval_fraction": 0}, training={"max_steps": 1})))
    result = govor("eval", str(run.path))
    assert result.exit_code == 0, result.output
    assert "not measured: Manner and copies: no row was held out" in result.stdout
    assert "General knowledge has not suffered." in result.stdout
