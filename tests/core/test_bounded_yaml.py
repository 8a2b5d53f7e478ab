"""YAML files that would keep their reader busy are refused within a second, in one line, wherever YAML is read."""

import time
from pathlib import Path

import pytest

from tests.conftest import govor

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{one}'] * 9)}]\n" for one, after in zip("abcdefgh", "bcdefghi", strict=True)
)
DOUBLED = [f"a{n + 1}: &a{n + 1} {{x: *a{n}, y: *a{n}}}\n" for n in range(1, 40)]
MERGED = [f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}], k{n}: *a{n}}}\n" for n in range(40)]
BOMBS = {
    "aliases": f"name: x\n{LAUGHS}",
    "mappings": "a1: &a1 {x: 1}\n" + "".join(DOUBLED),
    "merge keys": "a0: &a0 {x: 1}\n" + "".join(MERGED),
    "itself": "a: &a [*a]\n",
    "itself in a mapping": "a: &a {b: *a}\n",
    "deep lists": "a: " + "[" * 100_000,
    "deep closed lists": "a: " + "[" * 5000 + "]" * 5000,
    "deep mappings": "a: " + "{a: " * 5000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(500)),
    "deep dashes": "a: \n" + "- " * 5000,
    "large": "a: " + "x" * 3_000_000,
    "digits": "training: {max_steps: " + "9" * 5000 + "}",
    "control characters": "a: \x00\x01",
    "a date beyond the calendar": "a: 2026-99-99",
    "an unknown tag": "a: !!python/object/apply:os.system ['touch ran']",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_config(working_folder, name):
    (working_folder / "bomb.yaml").write_text(BOMBS[name], encoding="utf-8")
    for verb in ("plan", "inspect", "train"):
        began = time.process_time()
        result = govor(verb, "bomb.yaml")
        took = time.process_time() - began
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ") and "(unexpected" not in result.stderr
        if name != "a date beyond the calendar":  # it is a text for us
            assert result.stderr.count("\n") == 1 and len(result.stderr) < 400
        if verb != "plan":  # whose first call imports
            assert took < 1, took
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "a date beyond the calendar"])
def test_an_override_a_catalogue_topics_and_a_card(working_folder, write_config, name):
    from train.exports.hub.licences import front_matter

    text = BOMBS[name]
    (working_folder / "bomb.yaml").write_text(text, encoding="utf-8")
    (working_folder / "rows.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
    )
    config = str(write_config())
    for verb in (
        ["inspect", config, f"prompts={text.replace(chr(0), '')}"],
        ["jobs", "serve", "--catalogue", "bomb.yaml", "--data-dir", "data", "--port", "0"],
        ["analyze", "rows.jsonl", "--topics", "bomb.yaml"],
    ):
        began = time.process_time()
        result = govor(*verb)
        assert result.exit_code == 2 and "(unexpected" not in result.stderr, result.output
        assert time.process_time() - began < 3  # with imports
    assert not Path("data").exists()
    began = time.process_time()
    assert isinstance(front_matter(f"---\n{text}\n---\n"), dict)
    assert time.process_time() - began < 1


def test_the_attack(shared, working_folder):
    began = time.process_time()
    result = govor("inspect", str(shared("cases/attack/bomb.yaml")))
    assert result.exit_code == 2 and "aliases stand for more than" in result.stderr
    assert time.process_time() - began < 1


def test_aliases_as_people_use_them(write_config):
    text = write_config().read_text()
    path = write_config()
    path.write_text(text.replace("prompts:", "prompts:\n- &ask Кто ты?\n- *ask\n", 1), encoding="utf-8")
    from train.core.config import load_config

    assert len(load_config(path).prompts) == 4
