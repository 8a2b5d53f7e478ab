"""What vLLM is told before it starts, which no vLLM is needed for."""

import shutil

import pytest

from train.core.cards import CardMemory, first_card_memory
from train.core.errors import MachineError
from train.core.runs import Run
from train.serving import choose_engine, vllm

GIB = 2**30


@pytest.fixture
def share(run, base, working_folder, monkeypatch):
    """Call it with free and total GiB of the first card, or None: what an engine is given as its share, as told."""
    program = working_folder / "vllm"
    program.touch(mode=0o755)

    def find(gib, *flags, engines=1):
        memory = gib and CardMemory(*(round(number * GIB) for number in gib))
        monkeypatch.setattr(choose_engine, "first_card_memory", lambda: memory)
        runs = [run]
        for number in range(1, engines):
            other = working_folder / f"runs/other{number}"
            if not other.exists():
                shutil.copytree(run.path, other)
                shutil.copytree(run.adapter, other / "merged")  # another folder of weights: an engine of its own
                shutil.rmtree(other / "adapter")
                shutil.copyfile(base / "config.json", other / "merged/config.json")
            runs.append(Run(other))
        served = choose_engine.served_models(runs, program=str(program), flags=flags)
        assert len({id(model.engine) for model in served}) == engines
        words = list(served[0].engine.command(8001))
        given = [words[at + 1] for at, word in enumerate(words) if word == "--gpu-memory-utilization"]
        assert len(given) <= 1
        return float(given[0]) if given else None

    return find


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        ((139, 140), 0.9),
        ((7.5, 8), 0.875),  # half a GiB stays free
        ((5.5, 8), 0.625),
        ((5.51, 8), 0.626),  # rounded down
    ],
)
def test_vllm_gets_what_is_free_of_the_card_less_a_margin(share, gib, expected):
    assert share(gib) == expected
    assert expected * gib[1] <= gib[0] - 0.5


def test_several_engines_share_it(share):
    assert share((139, 140), engines=2) == 0.45
    assert share((7, 8), engines=2) == 0.375
    assert share((7, 8)) == 0.812


def test_the_user_s_own_share_stands(share):
    assert share((1, 8), "--gpu-memory-utilization", "0.3") == 0.3
    assert share((1, 8), "--gpu_memory_utilization=0.3") is None, "it stands there under the other name alone"


def test_without_a_card_vllm_decides(share):
    assert share(None) is None
    assert share(None, engines=2) == 0.45


def test_a_full_card_is_refused_in_one_line(share):
    with pytest.raises(MachineError, match=r"^of the GPU's 8\.0 GiB only 0\.5 are free, too little for vLLM"):
        share((0.5, 8))


def test_torch_is_asked_in_a_process_of_its_own(tmp_path, monkeypatch):
    assert first_card_memory() is None
    fake = f"class cuda:\n    mem_get_info = lambda: ({3 * GIB}, {8 * GIB})\n"
    (tmp_path / "torch.py").write_text(fake, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert first_card_memory() == (3 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("template", "flags", "parser"),
    [
        ("{{ '<tool_call>' + (call | tojson) + '</tool_call>' }}", [], "hermes"),
        ("{{ '<tool_call><function=' + call.name + '>' }}", [], "qwen3_coder"),
        ("{{ message.content }}", [], None),
        ("<tool_call>", ["--tool-call-parser=mistral", "--enable-auto-tool-choice"], None),
    ],
)
def test_functions_are_read_as_the_template_writes_them(template, flags, parser):
    expected = ["--enable-auto-tool-choice", "--tool-call-parser", parser] if parser else []
    assert vllm.tool_flags(template, flags) == expected
