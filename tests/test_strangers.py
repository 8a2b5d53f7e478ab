"""A run, a base or an adapter from somebody else runs no code of theirs, in no verb, whatever stands in its files."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.conftest import govor
from train.cli import main
from train.core.runs import open_run
from train.models.load import load_run_tokenizer
from train.serving.choose_engine import served_models
from train.serving.transformers_serve import _processor

EVIL = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n{more}"
TOKENIZER = (
    "from transformers import PreTrainedTokenizerFast\nclass MyTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    "class MyConfig:\n    pass\n"
)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that hostile code would write."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hostile code ran"


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries, ensure_ascii=False))


def put_code(folder: Path, marker: Path, *, tokenizer: bool = True, model: bool = True, known: bool = True) -> None:
    """Code in a model folder. `known`: its classes are also transformers' own, so it could do without."""
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker), more=TOKENIZER))
    if tokenizer and (folder / "tokenizer_config.json").is_file():
        entries = {} if known else {"tokenizer_class": "MyTokenizer"}
        edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.MyTokenizer"]}, **entries)
    if model and (folder / "config.json").is_file():
        names = {"AutoConfig": "evil.MyConfig", "AutoModelForCausalLM": "evil.MyModel", "AutoTokenizer": "evil.X"}
        edit(folder / "config.json", auto_map=names, **({} if known else {"model_type": "evil"}))


@pytest.fixture
def stranger(run, base, marker):
    """A run that asks for trust in its config and brings a base along."""
    shutil.copytree(base, run.path / "base")
    edit(run.manifest_file, base=run.manifest()["base"] | {"path": str(run.path / "base")})
    tree = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
    tree["model"]["trust_remote_code"] = True
    run.config_file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return run


def every_verb(run) -> list[list[str]]:
    path = str(run.path)
    return [
        ["chat", path, "--prompt", "Кто я?"],
        ["eval", path, "--samples", "1"],
        ["merge", path, "--no-drift", "--force"],
        ["chat", path, "--merged", "--prompt", "Кто я?"],
        ["chat", str(run.merged), "--prompt", "Кто я?"],
        ["export", path, "--to", "llamafactory", "--force"],
        ["export", path, "--to", "gguf", "--force"],
        ["export", path, "--to", "ollama", "--force"],
        ["push", path, "a/b", "--dry-run", "--base", "x/y", "--license", "mit"],
        ["serve", path, "--engine", "transformers", "--port", "0", "--host", "256.1.1.1"],
        ["train", str(run.config_file), "name=again", "training.max_steps=1"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.long
def test_no_verb_runs_what_a_run_folder_brings(stranger, marker, known):
    for folder in (stranger.path / "base", stranger.adapter):
        put_code(folder, marker, known=known)
    for verb in every_verb(stranger):
        if verb[0] == "train":
            continue
        result = CliRunner().invoke(main, verb, input="y\ny\ny\ny\n")
        assert not marker.exists(), verb
        assert result.exit_code in (0, 1, 2), (verb, result.output)
        assert "[y/N]" not in result.output and "Traceback" not in result.output, verb
        assert "(unexpected" not in result.output, (verb, result.output)
        if known is False and verb[0] in ("chat", "eval", "merge"):
            assert result.exit_code == 2 and result.stderr.strip().count("\n") == 0, (verb, result.stderr)
        if stranger.merged.is_dir():
            put_code(stranger.merged, marker, known=known)
    if known:
        opened = open_run(stranger.path)
        [served] = served_models([opened], engine="transformers")
        assert "--trust-remote-code" not in served.engine.command(1)
        _processor(stranger.merged, opened.trust_remote_code)
        assert not marker.exists()


def test_a_config_inside_a_run_folder_is_not_the_user_s_own(stranger):
    from train.core.config import load_config

    assert stranger.config().model.trust_remote_code is False
    assert load_config(stranger.config_file).model.trust_remote_code is False
    said = load_config(stranger.config_file, ["model.trust_remote_code=true"])
    assert said.model.trust_remote_code is True
    assert open_run(stranger.path, trust_remote_code=True).config().model.trust_remote_code is True


@pytest.mark.long
def test_the_converter_for_gguf_runs_none(stranger, marker):
    """llama.cpp's own would: for Qwen 1, ChatGLM, Hunyuan and others it trusts what lies beside the model."""
    pytest.importorskip("conversion.base")
    assert govor("merge", str(stranger.path), "--no-drift").exit_code == 0
    put_code(stranger.merged, marker, known=True)
    for architecture in ("QWenLMHeadModel", "ChatGLMModel", "HunYuanMoEV1ForCausalLM", "DreamModel", "LLaDAModelLM"):
        edit(stranger.merged / "config.json", architectures=[architecture])
        result = CliRunner().invoke(main, ["export", str(stranger.path), "--to", "gguf", "--force"], input="y\n")
        assert not marker.exists(), architecture
        assert "Traceback" not in result.output


@pytest.mark.slow
def test_with_the_user_s_word_it_works_wholly(run, write_config, base, working_folder, marker):
    """Code of a tokenizer: not run without the word; with it trained, its code copied, evaluated, merged, chatted."""
    own = working_folder / "own"
    shutil.copytree(base, own)
    put_code(own, marker, model=False, known=False)
    govor("inspect", str(write_config(model={"name_or_path": str(own)})))  # tokenizer.json may do without the class
    assert not marker.exists()
    from train.core.config import load_config
    from train.sft import train

    config = write_config(name="trusted", model={"name_or_path": str(own), "trust_remote_code": True},
                          training={"max_steps": 1})  # fmt: skip
    made = train(load_config(config))
    assert marker.exists()
    assert (made.adapter / "evil.py").is_file()
    marker.unlink()
    for verb in (["eval", "--samples", "1"], ["merge", "--no-drift"], ["chat", "--prompt", "Кто я?"]):
        marker.unlink(missing_ok=True)
        result = govor(verb[0], str(made.path), *verb[1:])
        assert "[y/N]" not in result.output and not marker.exists(), verb
        result = govor(verb[0], str(made.path), *verb[1:], "--trust-remote-code")
        assert result.exit_code == 0, (verb, result.stderr)
    trusted = open_run(made.path, trust_remote_code=True)
    assert type(load_run_tokenizer(trusted)).__name__ == "MyTokenizer"
    [served] = served_models([trusted], engine="transformers")
    assert "--trust-remote-code" in served.engine.command(1)


class Exploit:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickles_are_never_read(run, base, marker, working_folder):
    payload = pickle.dumps(Exploit(marker))
    (run.adapter / "adapter_model.safetensors").unlink()
    (run.adapter / "adapter_model.bin").write_bytes(payload)
    for verb in (["chat", str(run.path), "--prompt", "x"], ["eval", str(run.path)], ["merge", str(run.path)]):
        result = govor(*verb)
        assert result.exit_code == 2 and "pickled weights (.bin) are never read" in result.stderr, result.stderr
    folder = working_folder / "pickled"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(payload)
    result = govor("chat", str(folder), "--prompt", "x")
    assert result.exit_code == 2 and "safetensors" in result.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config"),
        ({"megatron_core": "evil"}, "megatron_core"),
        ({"init_lora_weights": "corda", "corda_config": {"cache_file": "evil.pt"}}, "corda_config"),
    ],
)
def test_an_adapter_that_names_code_is_refused(run, marker, monkeypatch, working_folder, entries, named):
    (working_folder / "evil.py").write_text(EVIL.format(marker=str(marker), more=""))
    monkeypatch.syspath_prepend(str(working_folder))
    edit(run.adapter / "adapter_config.json", **entries)
    for verb in (["chat", str(run.path), "--prompt", "x"], ["merge", str(run.path)]):
        result = govor(*verb)
        assert result.exit_code == 2 and named in result.stderr and result.stderr.count("\n") == 1
    assert not marker.exists()


def test_attention_from_the_hub_is_code_too(run, write_config):
    tree = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
    tree["model"] |= {"attn_implementation": "evil/kernels", "trust_remote_code": True}
    run.config_file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    result = govor("chat", str(run.path), "--prompt", "x")
    assert result.exit_code == 2 and "evil/kernels is code from the Hub" in result.stderr


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ joiner.__init__.__globals__['os'].system('touch MARKER') }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ raise_exception.__globals__ }}{{ messages.append(1) }}",
    "{% set x = messages[0].update({'content': 'x'}) %}",
    "{{ ('%s' | format(messages)).__class__.__base__.__subclasses__() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch MARKER') }}",
    "{{ lipsum.__globals__.os.system('touch MARKER') }}",
    "{{ ''['format_map'](namespace) }}{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
]


@pytest.mark.parametrize("template", HOSTILE)
def test_templates_stay_in_the_sandbox(run, marker, template):
    own = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (run.adapter / "chat_template.jinja").write_text(template.replace("MARKER", str(marker)) + own)
    result = govor("chat", str(run.path), "--prompt", "Кто я?")
    assert not marker.exists()
    assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1, result.output
    assert "(unexpected" not in result.stderr and "root:" not in result.output
