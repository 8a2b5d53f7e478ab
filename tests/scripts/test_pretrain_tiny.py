"""The Russian base in data/tiny-ru, the script that made it, and the figures it is compared with."""

import gzip
import json
import math
from pathlib import Path

import pytest
import yaml
from bits_per_character import model_bits, ngram_bits, xz_bits
from click.testing import CliRunner
from make_tiny_base import train_tokenizer
from pretrain_tiny import Schedule, batch_of, main
from tiny_text import (
    HELD_OUT,
    IGNORE_INDEX,
    TRIED_ON,
    dialogues,
    pack,
    play_text,
    read_plays,
    read_prose,
)

from tests.conftest import REPOSITORY

TINY = REPOSITORY / "data/tiny-ru"
SMALL = [
    *("--tokens", "3072", "--batch", "256", "--short", "32", "--long", "64", "--warm-up", "2", "--eval-steps", "4"),
    *("--layers", "1", "--hidden-size", "64", "--vocab-size", "400", "--no-compile"),
]


@pytest.fixture
def corpora() -> list[str]:
    """Two small files of the scripts' form, out of the shipped dialogues."""
    lines = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").split("\n")[:60]
    said = [message["content"] for line in lines for message in json.loads(line)["messages"][1:]]
    plays = [
        {"play": f"p{place % 3}", "title": "П", "scene": place % 2, "speaker_id": f"s{place // 6 % 2}", "speaker": "С"}
        | {"text": text}
        for place, text in enumerate(said)
    ]
    for name, objects in (("plays", plays), ("prose", [{"title": "О себе", "text": "\n".join(said)}])):
        with gzip.open(f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    return ["--plays", "plays.jsonl.gz", "--prose", "prose.jsonl.gz"]


def pretrain(out: str, corpora: list[str], *more: str) -> str:
    result = CliRunner().invoke(main, [out, *corpora, *SMALL, *more])
    assert result.exit_code == 0, result.output
    return result.output


def test_stopped_in_every_phase_and_resumed_it_ends_with_the_same_bytes(corpora):
    """12 steps: 8 at the full rate, then 3 falling, then 1 with dialogue."""
    pretrain("whole", corpora, "--work", "a")
    pretrain("parts", corpora, "--work", "b", "--stop-at", "5")
    for stop in ("9", "11"):
        pretrain("parts", corpora, "--work", "b", "--resume", "--stop-at", stop)
    assert not Path("parts").exists()
    pretrain("parts", corpora, "--work", "b", "--resume")
    files = sorted(file.name for file in Path("whole").glob("[!.]*"))
    assert "model.safetensors" in files
    assert [file.name for file in sorted(Path("parts").glob("[!.]*"))] == files
    for name in files:
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    first, *_, last = (json.loads(line) for line in Path("a/log.jsonl").read_text().splitlines())
    assert last["bits"] < first["bits"] < math.log2(400)


@pytest.mark.long
def test_a_finished_run_goes_on_from_before_its_rate_fell(corpora):
    pretrain("short", corpora, "--work", "a")
    output = pretrain("long", corpora, "--work", "a", "--resume", "--tokens", "6144")
    assert "steps 8 to 24" in output
    pretrain("straight", corpora, "--work", "b", "--tokens", "6144")
    assert Path("long/model.safetensors").read_bytes() == Path("straight/model.safetensors").read_bytes()


def test_it_overwrites_nothing_and_takes_up_no_other_plan(corpora):
    pretrain("out", corpora, "--work", "a", "--stop-at", "2")
    for arguments, problem in (
        (["out", "--work", "a"], "--resume goes on with it"),
        (["a", "--work", "b"], "a is there already"),
        (["out", "--work", "a", "--resume", "--seed", "1"], "a was begun with --seed 0: only"),
        (["out", "--work", "a", "--resume", "--tokens", "256"], "a is at step 2, the rate is to fall from 1 on"),
    ):
        result = CliRunner().invoke(main, [*arguments[:1], *corpora, *SMALL, *arguments[1:]])
        assert result.exit_code == 1
        assert problem in result.output


def speech(by: str, text: str, scene: str = "1") -> dict[str, str]:
    return {"by": by, "text": text, "scene": scene, "role": f"Ты {by}."}


def test_dialogues_are_two_people_in_turn():
    plays = {
        "p": [
            *(speech(by, by * 2) for by in "abab"),
            speech("c", "cc"),  # a third one: with b before it she begins anew
            speech("a", "aa"),
            speech("a", "xx"),  # the same one again
            speech("b", "bb"),
            speech("a", "л" * 401),  # a monologue
            speech("b", "bb"),
            speech("a", "aa", scene="2"),
            speech("b", "bb", scene="2"),
        ]
    }
    found = [[(message["role"], message["content"]) for message in chat] for chat in dialogues(plays)]
    assert found == [
        [("user", "aa"), ("assistant", "bb"), ("user", "aa"), ("assistant", "bb")],
        [("system", "Ты a."), ("user", "cc"), ("assistant", "aa")],
        [("user", "xx"), ("assistant", "bb")],
        [("system", "Ты b."), ("user", "aa"), ("assistant", "bb")],
    ]
    many = dialogues({"p": [speech("ab"[place % 2], "х") for place in range(15)]})
    assert [sum(message["role"] != "system" for message in chat) for chat in many] == [6, 6, 2]


def test_only_answers_and_their_end_cost_in_the_chats():
    chats = [[{"role": "user", "content": "Кто там?"}, {"role": "assistant", "content": "Это я."}]] * 3
    tokenizer = train_tokenizer(["Кто там? Это я."], 300)
    ids, labels = pack(tokenizer, chats, 64)
    seen = [token for token in labels.flatten().tolist() if token != IGNORE_INDEX]
    assert tokenizer.decode(seen, skip_special_tokens=False) == "Это я.<|im_end|>" * 3
    assert all(
        label in (IGNORE_INDEX, token)
        for row in zip(ids, labels, strict=True)
        for token, label in zip(*row, strict=True)
    )
    text = tokenizer.decode(ids[0].tolist(), skip_special_tokens=False)
    assert text.startswith("<|im_start|>user\nКто там?<|im_end|>\n<|im_start|>assistant\nЭто я.<|im_end|>\n")


def test_a_work_that_holds_a_play_set_aside_is_left_out(capsys):
    play = [speech("a", f"Реплика номер {place}, сказанная со сцены впервые.") for place in "абвгд"]
    works = {
        "Сборник": "Начало. " + " ".join(one["text"].replace(",", " –") for one in play),
        "Рассказ": "Реплика номер один, и больше ничего.",
    }
    with Path("prose.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"title": title, "text": text}) + "\n" for title, text in works.items())
    assert read_prose(Path("prose.jsonl"), {"play": play}) == [works["Рассказ"]]
    assert "Сборник" in capsys.readouterr().out


def test_the_rate_warms_up_stays_and_falls_and_windows_follow_it():
    import numpy as np

    plan = Schedule(tokens=25600, batch=256, short=32, long=64, decay=0.3, chat=0.1, plays=0.35, learning_rate=1,
                muon_rate=1, layers=1, hidden_size=64, vocab_size=300, seed=0, warm_up=10)  # fmt: skip
    rates = [plan.rate(step) for step in range(plan.steps)]
    assert rates[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert set(rates[10:70]) == {1.0}
    assert rates[70:] == pytest.approx([(100 - step) / 30 for step in range(70, 100)])
    stream, chat = np.arange(1000, dtype=np.uint16), np.full((5, 64), 7, dtype=np.uint16)
    data = {"plays": stream, "prose": stream, "chat": chat, "chat_labels": chat.astype(np.int16)}
    shapes = [batch_of(data, plan, step)[0].shape for step in (0, 69, 70, 99)]
    assert shapes == [(8, 32), (8, 32), (4, 64), (4, 64)]
    chats = [int((batch_of(data, plan, step)[0] == 7).all(axis=1).sum()) for step in (89, 90)]
    assert chats == [0, 2]


# --- what it is compared with -------------------------------------------------------------------------------------


def test_the_ngram_model_is_a_probability():
    """What one character costs after the beginning, turned back: over all characters it makes one, nearly."""
    train = ["мама мыла раму\nпапа мыл машину\n" * 20]
    alphabet = sorted(set(train[0]))
    chances = {character: 2 ** -ngram_bits(train, [character], 5) for character in alphabet}
    assert 0.9 < sum(chances.values()) <= 1  # the rest is for characters never seen
    assert max(chances, key=chances.get) in "мп"
    assert ngram_bits(train, ["мама мыла раму\n"], 5) < 1 < ngram_bits(train, ["умар алым амам\n"], 5)
    assert 20 < ngram_bits(train, ["@"], 5) < 40


def test_a_longer_memory_helps_and_xz_counts_characters():
    train = ["абвг деёж зийк абвг зийк деёж\n" * 30]
    assert ngram_bits(train, train, 5) < ngram_bits(train, train, 2) < ngram_bits(train, train, 1)
    assert xz_bits(["а" * 100_000]) < 0.1
    assert xz_bits(["аб"]) > 100  # the file's head alone


def test_model_bits_are_what_one_window_says(base):
    """Overlapping windows and one long window measure the same characters; a random model knows nothing."""
    text = "Здравствуй, это я. " * 12
    whole, cut = model_bits(base, [text], 512), model_bits(base, [text], 64)
    assert whole == pytest.approx(cut, rel=0.2)
    from train.models.load import load_tokenizer

    tokens = len(load_tokenizer(base)(text)["input_ids"])
    assert whole == pytest.approx(tokens * math.log2(600) / len(text), rel=0.2)


# --- the model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), AutoTokenizer.from_pretrained(TINY)


def test_the_shipped_model_is_what_its_readme_says(tiny):
    model, tokenizer = tiny
    config = json.loads((TINY / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert (config["max_position_embeddings"], tokenizer.model_max_length) == (1024, 1024)
    assert config["hidden_size"] % 256 == 0  # every quantised GGUF type needs it
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 4_000_000 <= count <= 8_000_000
    assert f"{count:,}" in (TINY / "README.md").read_text(encoding="utf-8")
    assert (TINY / "model.safetensors").stat().st_size <= 16_000_000
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("<|im_end|>", "<|endoftext|>", 8192)
    assert config["eos_token_id"] == model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_any_text_survives_its_tokenizer(tiny):
    _, tokenizer = tiny
    for text in (
        "Ёжик, «привет» — 12,5 %",
        "Hello, world! it's",
        "🙂👩‍👩‍👧 漢字 \t x\n\n y",
        "да))) \u0301 й",
        "  \r\n",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    words = tokenizer("Здравствуйте, как вы поживаете?")["input_ids"]
    assert len(words) <= 10


def test_it_knows_russian():
    """Own lines: an even guess among its tokens would be near 3.5 bits, letters by their frequency 4.5."""
    lines = (
        "Утром он вышел на крыльцо и долго смотрел на дорогу. Никого не было видно.\n"
        "— Скажите, пожалуйста, где живёт доктор? — спросила она у старика.\n"
        "Я не знаю, что вам ответить. Приходите завтра, мы обо всём поговорим.\n"
    )
    assert model_bits(TINY, [lines], 1024) < 2.2


def test_it_knows_plays_that_it_has_not_seen(shared):
    plays = read_plays(shared("data/rusdracor_speeches.jsonl.gz"))
    assert set(HELD_OUT + TRIED_ON) <= set(plays)
    assert model_bits(TINY, [play_text(plays["chekhov-vishnevyi-sad"])[:8000]], 1024) < 2.1


def test_it_answers_in_russian_and_ends(tiny):
    """The demo's prompts, sampled: what `before` shows there."""
    import torch

    model, tokenizer = tiny
    config = yaml.safe_load((REPOSITORY / "configs/tiny.yaml").read_text(encoding="utf-8"))
    assert REPOSITORY / config["model"]["name_or_path"] == TINY
    torch.manual_seed(0)
    for prompt in config["prompts"]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        output = model.generate(ids, do_sample=True, temperature=0.7, max_new_tokens=200)[0, ids.shape[1] :]
        assert output[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(output, skip_special_tokens=True)
        assert sum("а" <= letter.lower() <= "я" or letter in "ёЁ" for letter in text) > 0.6 * len(text) > 0
