"""Models and rows made on the spot; every test works in a folder of its own, without a network."""

import copy
import gc
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ or os.environ.get("OMP_NUM_THREADS") == "1":
    # Each worker has a core, and so has what it starts: two threads of a tiny model would wait for each other. Training
    # takes a plain 1 for accelerate's and replaces it, and accelerate sets its 1 over ours: the limit holds there.
    os.environ |= {"OMP_NUM_THREADS": "01", "OMP_THREAD_LIMIT": "1"}

import pytest
import yaml
from click.testing import CliRunner

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Hide every card, so that the tests are the same everywhere; `-m gpu`, as `make test-gpu` says, sees the first."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = first if config.option.markexpr == "gpu" else ""


LONG = ("bot/test_kills", "jobs/test_jobs_crash", "test_readme", "tuning/test_resume", "jobs/test_jobs_api",
        "serving/test_serve", "test_last_version", "scripts/test_upload_script", "tuning/test_sft",
        "evaluation/test_evaluate", "tuning/test_kernels", "jobs/test_jobs_load", "jobs/test_jobs_fuzz",
        "scripts/test_pretrain_tiny", "scripts/test_bench_train", "tuning/test_machines", "test_verbs",
        "merging/test_merge")  # fmt: skip
"""Files of more than half a minute. They begin first, lest one of them run on while the other cores have no work."""


def pytest_collection_modifyitems(items):
    """Files go to the workers in this order (--no-loadscope-reorder); xdist's own is by the number of their tests."""
    order = {REPOSITORY / f"tests/{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


modules_looked_through = 0


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item):
    """Spare the garbage collector the libraries: each of a merge's collections would walk through a million objects."""
    global modules_looked_through
    if len(sys.modules) > modules_looked_through + 200:
        gc.freeze()
        modules_looked_through = len(sys.modules)


def govor(*arguments: str, **kwargs):
    """A verb as a person types it: exit code and what it printed."""
    from train.cli import main

    return CliRunner().invoke(main, arguments, catch_exceptions=False, **kwargs)


def require_equal_up_to_rounding(one, two):
    """Adapters {name: weight} of the same training, added up in another order: single weights may differ by more.

    Measured over the tiny base (4 rows a step, once as 2 × 2; a step is 1e-2 long): weights are 3e-9 apart after the
    first step. In the second A has its first gradient, since B was zero, and of one weight it is -4.6e-9 here and
    -4.4e-9 there, where the median is 4e-4. Adam divides it by its own size + 1e-8, and that weight is 6e-5 apart.
    """
    assert one.keys() == two.keys()
    differences = {name: (weight - two[name]).abs() for name, weight in one.items()}
    assert all(float(difference.max()) < 3e-4 for difference in differences.values()), differences
    apart = sum(int((difference > 1e-5).sum()) for difference in differences.values())
    assert apart <= 1e-3 * sum(weight.numel() for weight in one.values()), f"{apart} weights are more than 1e-5 apart"


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shared():
    """Call it with a path: that file or folder of ../shared, which is no part of the repository.

    A test skips where it is not at hand, and fails there with GOVOR_REQUIRE_SHARED=1, as .ci/run sets it.
    """

    def find(path: str) -> Path:
        found = REPOSITORY.parent / "shared" / path
        if not found.exists():
            refuse = pytest.fail if os.environ.get("GOVOR_REQUIRE_SHARED") == "1" else pytest.skip
            refuse(f"needs ../shared/{path} beside the repository")
        return found

    return find


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory) -> Path:
    """24 of the shipped dialogues, single and multi-turn, cut to short answers."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").split("\n")[:24]
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            messages = [{**m, "content": m["content"][:60].strip()} for m in json.loads(line)["messages"]]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory, rows_file) -> Path:
    """A Qwen3 of two layers with random weights; tests only read it."""
    from make_tiny_base import make_tiny_base

    folder = tmp_path_factory.mktemp("bases") / "base"
    make_tiny_base(folder, rows_file, vocab_size=600, hidden_size=64, layers=2)
    return folder


@pytest.fixture(scope="session")
def tokenizer(base):
    from train.models.load import load_tokenizer

    return load_tokenizer(base)


@pytest.fixture(scope="session")
def words(rows_file):
    """A tokenizer of 600 tokens, without a template."""
    from make_tiny_base import texts_of, train_tokenizer

    return train_tokenizer(texts_of(rows_file), 600)


@pytest.fixture(scope="session")
def tokenizer_with(words):
    """Call it with a chat template, its special tokens and the end of a turn: a small tokenizer of its own."""
    from transformers import PreTrainedTokenizerFast

    def make(template: str, special: list[str], eos: str):
        made = PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(words), chat_template=template, clean_up_tokenization_spaces=False
        )
        made.add_special_tokens({"extra_special_tokens": sorted({*special})})
        made.add_special_tokens({"bos_token": "<s>", "eos_token": eos})
        return made

    return make


@pytest.fixture
def write_config(base, rows_file, working_folder):
    """Writes a config for the tiny base and returns its path; keyword arguments replace whole sections' entries."""

    def write(**sections) -> Path:
        tree = {
            "name": "x",
            "model": {"name_or_path": str(base), "dtype": "float32"},
            "data": {"train_file": str(rows_file), "eval_fraction": 0.2},
            "lora": {"r": 4, "lora_alpha": 8},
            "training": {
                "use_cpu": True,
                "learning_rate": 0.01,
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "activation_checkpointing": False,
                "logging_steps": 1,
                "max_length": 512,
            },
            "generation": {"max_new_tokens": 8},
            "prompts": ["Кто я?", [{"role": "user", "content": "Я устал."}]],
        }
        for name, value in sections.items():
            tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
        path = working_folder / f"{tree['name']}.yaml"
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, base, rows_file):
    """A trained run (LoRA, float32) that tests only read; its config's paths are absolute."""
    from train.core.config import load_config
    from train.sft import train

    folder = tmp_path_factory.mktemp("finished")
    tree = {
        "name": "done",
        "model": {"name_or_path": str(base), "dtype": "float32"},
        "data": {"train_file": str(rows_file), "eval_fraction": 0.2},
        "training": {"use_cpu": True, "learning_rate": 0.02, "max_steps": 6, "logging_steps": 2, "max_length": 512},
        "generation": {"max_new_tokens": 8},
        "prompts": ["Кто я?", [{"role": "user", "content": "Я устал."}, {"role": "assistant", "content": "От чего?"},
                               {"role": "user", "content": "От себя."}]],
    }  # fmt: skip
    config = folder / "done.yaml"
    config.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        run = train(load_config(config))
    finally:
        os.chdir(before)
    return type(run)(folder / run.path)


@pytest.fixture
def run(finished_run, working_folder):
    """A copy of the finished run that the test may change."""
    shutil.copytree(finished_run.path, "runs/done")
    return type(finished_run)(Path("runs/done"))
