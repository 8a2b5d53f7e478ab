"""What the tools themselves make of our exports: LLaMA-Factory 0.9.5, llama.cpp, transformers' reader of GGUF, Go.

`make test-peers` installs them apart, under .peers/, and runs this.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY
from tests.exports.test_exports import SHIPPED, SYSTEM, TALK, merged_run, tokenizer_of  # noqa: F401 (fixtures)
from train.chats.readers import read_rows
from train.chats.rows import Row
from train.core.config import OWNED, load_config
from train.core.runs import Run
from train.encoding.rows import encode_rows
from train.exports.gguf.prompts import comparison_prompts, prompt_of
from train.exports.llamafactory.export import export_llamafactory
from train.exports.llamafactory.settings import NEWER_FIELDS, NO_COUNTERPART, TRANSLATED, TRL_ONLY
from train.exports.llamafactory.templates import TEMPLATES, choose_template, prompt_ids, row_ids
from train.exports.ollama import find_pieces, go_template
from train.merging.merge import merge
from train.models.load import load_tokenizer, load_tuned
from train.sft import train

PEERS = Path(os.environ.get("GOVOR_PEERS") or "none")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not PEERS.is_dir(), reason="GOVOR_PEERS names no folder of other tools: make test-peers"),
]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
BASES = {
    "qwen3_instruct_2507": ("qwen3", "qwen3_nothink"),  # Qwen3-4B-Instruct-2507
    "qwen3": ("qwen3", "qwen3"),  # Qwen3-0.6B
    "qwen3_5_nothink": ("qwen3_5_text", "qwen3"),
    "qwen2_5": ("qwen2", "qwen"),
    "llama3": ("llama", "llama3"),
    "gemma3": ("gemma3_text", "gemma"),
    "phi3_5": ("phi3", "phi"),
    "cohere": ("cohere", "cohere"),
}
"""Chat template that TRL ships → model_type, and LLaMA-Factory's template that renders its prompts."""


def llamafactory(*words: object, cwd: Path) -> str:
    """LLaMA-Factory's program in a folder, or with a .py a program of ours in its environment."""
    binary = PEERS / "llamafactory/bin"
    program = [binary / "python"] if str(words[0]).endswith(".py") else [binary / "llamafactory-cli"]
    command = list(map(str, [*program, *words]))
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def within_llamafactory(mode: str, *words: object, cwd: Path):
    out = cwd / f"{mode}.json"
    llamafactory(REPOSITORY / "tests/exports/with_llamafactory.py", mode, *words, out, cwd=cwd)
    return json.loads(out.read_text(encoding="utf-8"))


def govor(*words: object, peers: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-m", "train.cli", *map(str, words)]
    env = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(str(PEERS / peer) for peer in peers)}
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_llamafactory_takes_the_medical_rows_and_settings_as_they_are(tmp_path, base):
    """The guide's folder, on a CPU: only what needs a GPU is said otherwise."""
    generator = REPOSITORY / "scripts/simple_finetuning_generator.py"
    words = [sys.executable, generator, "--base", base, "-o", tmp_path / "finetuning_output"]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    on_a_cpu = ("max_steps=1", "quantization_bit=null", "bf16=false", "use_cpu=true")
    settings = tmp_path / "finetuning_output/llamafactory_config.yaml"
    said = llamafactory("train", settings, *on_a_cpu, cwd=tmp_path)
    assert "train_loss" in said and "eval_loss" in said
    assert (tmp_path / "finetuning_output/saves/adapter_model.safetensors").is_file()


def parted(messages: list[dict]) -> tuple[str | None, list[dict]]:
    """(system text, the other messages)."""
    return (messages[0]["content"], messages[1:]) if messages[0]["role"] == "system" else (None, messages)


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory, base, rows_file) -> tuple[Run, Path]:
    """A run of ours, and its exported folder in which LLaMA-Factory has trained and merged."""
    place = tmp_path_factory.mktemp("side")
    (place / "side.yaml").write_text(
        json.dumps(
            {
                "name": "side",
                "model": {"name_or_path": str(base), "dtype": "float32"},
                "data": {"train_file": str(rows_file), "eval_fraction": 0.2},
                "training": {
                    "use_cpu": True, "learning_rate": 0.02, "max_steps": 5, "logging_steps": 1, "max_length": 512,
                    "gradient_accumulation_steps": 2,
                    "per_device_eval_batch_size": 8,  # one batch: the means of several are taken otherwise
                },
                "generation": {"max_new_tokens": 8},
                "prompts": ["Кто я?"],
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    before = Path.cwd()
    os.chdir(place)
    try:
        run = train(load_config(Path("side.yaml")))
        run = Run(place / run.path)
        merge(run, measure=False)
        folder = run.path / "exports/llamafactory"
        export_llamafactory(run)
    finally:
        os.chdir(before)
    llamafactory("train", "train.yaml", cwd=folder)
    llamafactory("export", "merge.yaml", cwd=folder)
    return run, folder


class TestLlamaFactory:
    def test_trains_on_the_same_ids_and_labels(self, side_by_side):
        run, folder = side_by_side
        theirs = within_llamafactory("rows", "train.yaml", cwd=folder)
        rows = read_rows(run.config().data.train_file)
        held_out = read_rows(run.held_out_file)
        ours = [row for row in rows if row.messages not in [row.messages for row in held_out]]
        tokenizer = load_tokenizer(run.adapter)
        for name, part in (("train", ours), ("eval", held_out)):
            expected = encode_rows(tokenizer, part, max_length=512).encoded
            assert theirs[name] == [[one.input_ids, one.labels] for one in expected]
        assert len(theirs["train"]) == run.manifest()["data"]["train"]["rows"]

    def test_the_same_loss_at_every_step(self, side_by_side):
        """The first before anything is learned; the later ones follow the same order, warm-up and optimizer."""
        run, folder = side_by_side
        history = json.loads((folder / "saves/trainer_state.json").read_bytes())["log_history"]
        for name in ("loss", "eval_loss", "grad_norm", "learning_rate"):
            ours = [entry[name] for entry in run.metrics() if name in entry]
            theirs = [entry[name] for entry in history if name in entry]
            print(name, ours, theirs)
            assert len(ours) == len(theirs) > 1
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
            assert ours == pytest.approx(theirs, abs=1e-3)
        losses = [entry["loss"] for entry in history if "loss" in entry]
        assert losses[-1] < losses[0] - 0.1

    def test_merges_our_adapter_to_our_merged_model(self, side_by_side):
        run, folder = side_by_side
        ours, theirs = (load_file(path / "model.safetensors") for path in (run.merged, folder / "merged"))
        assert ours.keys() == theirs.keys()
        assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5
        untouched = load_file(Path(run.config().model.name_or_path) / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        assert (ours[name] - untouched[name]).abs().max() > 0.01

    @pytest.mark.parametrize("what", ["adapter", "merged"])
    def test_answers_as_we_do(self, side_by_side, tmp_path, what):
        """base + adapter, and the merged folder, through the exported settings."""
        run, folder = side_by_side
        settings = folder / "api.yaml"
        if what == "merged":
            text = re.sub(r"(?m)^(adapter_name_or_path|model_name_or_path):.*\n", "", settings.read_text("utf-8"))
            settings = folder / "merged.yaml"
            settings.write_text(f"model_name_or_path: {run.merged}\n{text}", encoding="utf-8")
        prompts = comparison_prompts(run, 4)
        (folder / "prompts.json").write_text(json.dumps([parted(m) for m in prompts]), encoding="utf-8")
        theirs = within_llamafactory("answer", settings.name, "prompts.json", cwd=folder)
        model, tokenizer = load_tuned(run, use_cpu=True)
        for messages, text in zip(prompts, theirs, strict=True):
            ids = tokenizer(prompt_of(tokenizer, messages), add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                said = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, repetition_penalty=1.0)
            assert tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True) == text
            assert text

    def test_rows_as_text_give_the_same_ids(self, side_by_side, tmp_path):
        """Without tokenized/ it renders them itself: only the line break behind an answer is learned besides."""
        run, folder = side_by_side
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("tokenized", "saves", "merged"))
        theirs = within_llamafactory("rows", "train.yaml", cwd=copy)
        ours = within_llamafactory("rows", "train.yaml", cwd=folder)
        tokenizer = load_tokenizer(run.adapter)
        (line_break,), end = tokenizer.encode("\n"), tokenizer.eos_token_id
        for name in ("train", "eval"):
            for (ids, labels), (our_ids, our_labels) in zip(theirs[name], ours[name], strict=True):
                assert ids == our_ids
                differing = {at for at, pair in enumerate(zip(labels, our_labels, strict=True)) if len({*pair}) == 2}
                assert differing == {at + 1 for at, label in enumerate(our_labels) if label == end}
                assert {labels[at] for at in differing} == {line_break}

    def test_knows_every_setting_that_goes_over(self, write_config, working_folder):
        """A field of SFTConfig that it does not know would make it refuse the file."""
        known = set(within_llamafactory("settings", cwd=working_folder))
        fields = set(type(load_config(write_config()).training).model_fields) - {
            *OWNED,
            *TRANSLATED,
            *TRL_ONLY,
            *NEWER_FIELDS,
        }
        assert fields - {*NO_COUNTERPART} <= known
        assert {*NEWER_FIELDS}.isdisjoint(known)

    def test_our_idea_of_its_templates(self, tokenizer_of, tmp_path):  # noqa: F811
        """Every template that we know, on talks with and without a system message, a thought, line breaks."""
        tokenizer = tokenizer_of("qwen3")
        marks = {
            mark for t in TEMPLATES for piece in (*t.user, *t.assistant, *t.system) for mark in MARK.findall(piece)
        }
        tokenizer.add_special_tokens({"extra_special_tokens": sorted(marks)})
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        thought = [TALK[0], {"role": "assistant", "content": "<think>\nМысль.\n</think>\n\nДа."}, *TALK[2:]]
        rows = [[SYSTEM, *TALK], TALK, TALK[:2], thought]
        cases = [
            (template, thinking, last_turn)
            for template in TEMPLATES
            for thinking in ((True, False) if template.thought_words else (True,))
            for last_turn in (False, True)
        ]
        theirs = self.render(tmp_path, [(tmp_path / "tokenizer", *case, rows) for case in cases])
        for (template, thinking, last_turn), made in zip(cases, theirs, strict=True):
            for messages, (prompt, ids, labels) in zip(rows, made, strict=True):
                row, name = Row(1, messages), f"{template.name} {thinking} {last_turn}"
                assert prompt_ids(tokenizer, template, row, thinking=thinking) == prompt, name
                ours = row_ids(tokenizer, template, row, thinking=thinking, last_turn=last_turn)
                assert ours == (ids, labels), name

    def test_the_chosen_template_feeds_the_trained_prompts(self, tokenizer_of, tmp_path):  # noqa: F811
        """The chat template of each family of bases against LLaMA-Factory's own rendering."""
        rows = [Row(1, TALK), Row(2, TALK[:2]), Row(3, [SYSTEM, *TALK])]
        cases, expected = [], []
        for shipped, (model_type, name) in BASES.items():
            tokenizer = tokenizer_of(shipped)
            tokenizer.save_pretrained(tmp_path / shipped)
            encoding = encode_rows(tokenizer, rows, max_length=999)
            choice = choose_template(tokenizer, encoding, model_type)
            assert choice is not None and choice.template.name == name
            cases.append((tmp_path / shipped, choice.template, choice.thinking, False, [row.messages for row in rows]))
            expected.append([one.input_ids[: one.answers[-1][0]] for one in encoding.encoded])
        for shipped, made, ours in zip(BASES, self.render(tmp_path, cases), expected, strict=True):
            assert [prompt for prompt, _, _ in made] == ours, shipped

    def render(self, folder: Path, cases: list[tuple]):
        """[prompt ids, ids, labels] of every row of every case."""
        job = [
            {
                "tokenizer": str(tokenizer),
                "template": template.name,
                "thinking": thinking,
                "last_turn": last_turn,
                "rows": [parted(messages) for messages in rows],
            }
            for tokenizer, template, thinking, last_turn, rows in cases
        ]  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
        return within_llamafactory("render", "job.json", cwd=folder)


MARK = re.compile(r"<\|[^\s|<>{}]+\|?>|<[^\s|<>{}/]+\|>|<｜[^<>]+｜>|<(?:start|end)_of_\w+>|\[/?[A-Z_]+\]")


class TestLlamaCpp:
    @pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_k_m"])
    def test_the_file_answers_as_the_merged_model(self, merged_run, tmp_path, kind):  # noqa: F811
        words = ("--to", "gguf", "--quantization", kind, "-o", tmp_path / "x.gguf")
        said = govor("export", merged_run.path, *words, peers=("llama",))
        found = re.search(r"same tokens of (\d+) of (\d+) prompts; (\d+) greedy .*? (\d+) of (\d+) tokens", said)
        assert found, said
        same, prompts, answers, chosen, tokens = map(int, found.groups())
        print(kind, found[0])
        assert same == prompts == 5
        if kind in ("f32", "f16", "bf16"):
            assert (answers, chosen) == (prompts, tokens)
        assert chosen >= 0.8 * tokens

    def test_transformers_reads_the_file(self, merged_run, rows_file, tmp_path):  # noqa: F811
        """Its own reader, for which heads have 128: the same ids, and logits as near as half precision allows."""
        from make_tiny_base import make_tiny_base

        run = Run(tmp_path / "wide")
        shutil.copytree(merged_run.path, run.path)
        shutil.rmtree(run.merged)
        make_tiny_base(run.merged, rows_file, vocab_size=600, hidden_size=512, layers=1)
        govor("export", run.path, "--to", "gguf", "--quantization", "f16", "-o", tmp_path / "x.gguf")
        code = (
            "import sys, torch\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            "folder, merged = sys.argv[1:]\n"
            "read = AutoModelForCausalLM.from_pretrained(folder, gguf_file='x.gguf', dtype=torch.float32).eval()\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file='x.gguf')\n"
            "own = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()\n"
            "words = 'Привет, 2026!\\n\\nКак ты?'\n"
            "text = AutoTokenizer.from_pretrained(merged)(words, return_tensors='pt').input_ids\n"
            "assert tokenizer(words, return_tensors='pt').input_ids.equal(text)\n"
            "with torch.no_grad():\n"
            "    one, two = read(text).logits, own(text).logits\n"
            "print((one - two).abs().max().item())\n"
            "assert (one - two).abs().max() < 0.05 and one.argmax(-1).equal(two.argmax(-1))\n"
        )
        env = {**ENVIRONMENT, "PYTHONPATH": str(PEERS / "gguf")}
        command = [sys.executable, "-c", code, str(tmp_path), str(run.merged)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """render_go_template.go, compiled."""
    folder = tmp_path_factory.mktemp("go")
    env = {**ENVIRONMENT, "GOCACHE": str(folder / "cache"), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    source = REPOSITORY / "tests/exports/render_go_template.go"
    command = [str(PEERS / "go/bin/go"), "build", "-o", str(folder / "render"), str(source)]
    subprocess.run(command, env=env, cwd=folder, check=True, timeout=600)
    return folder / "render"


class TestGo:
    def test_the_template_renders_as_the_chat_template(self, program, tokenizer_of):  # noqa: F811
        quoted = [{"role": "user", "content": 'Он сказал: "да" {{ .System }} \\n'}]
        chats = [TALK[:1], TALK[:3], [SYSTEM, *TALK[:1]], [SYSTEM, *TALK[:3]], quoted]
        for shipped in [*BASES, "qwen3_5_think", "deepseekv3", "gemma4"]:
            tokenizer = tokenizer_of(shipped)
            text = go_template(find_pieces(tokenizer))
            assert go(program, text, chats) == [prompt_of(tokenizer, chat) for chat in chats], shipped

    def test_the_exported_modelfile(self, program, merged_run, tmp_path):  # noqa: F811
        govor("export", merged_run.path, "--to", "ollama", "-o", tmp_path / "ollama")
        text = (tmp_path / "ollama/Modelfile").read_text(encoding="utf-8")
        template = text.split('TEMPLATE """')[1].split('"""')[0]
        chats = comparison_prompts(merged_run, 9)
        tokenizer = load_tokenizer(merged_run.merged)
        assert go(program, template, chats) == [prompt_of(tokenizer, chat) for chat in chats]


def go(program: Path, template: str, chats: list) -> list[str]:
    job = json.dumps({"template": template, "chats": chats})
    done = subprocess.run([program], input=job, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
