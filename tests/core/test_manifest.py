"""Damaged files of a run folder: a line that names the file, for each kind of file that later verbs read."""

import json

import pytest

from tests.conftest import govor
from train.core.errors import BaseError, RunError
from train.models.safetensors_files import read_headers, weight_files


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda m: [], "the whole"),
        (lambda m: m | {"base": None}, "base"),
        (lambda m: m | {"template": m["template"] | {"end_of_turn": "2"}}, "template.end_of_turn"),
        (lambda m: m | {"data": m["data"] | {"held_out": []}}, "data.held_out"),
        (lambda m: m | {"template": m["template"] | {"date": "heute"}}, "template.date"),
        (lambda m: m | {"parity": {"prompts": 3}}, "parity.differing"),
    ],
)
def test_a_manifest(run, damage, named):
    run.manifest_file.write_text(json.dumps(damage(run.manifest())))
    result = govor("chat", str(run.path), "--prompt", "x")
    if named == "template.date":
        with pytest.raises(RunError, match=r"template\.date is no date"):
            run.template_date()
    elif named != "parity.differing" or result.exit_code:
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert f"manifest.json: damaged, {named}: " in result.stderr and "train again" in result.stderr


def test_an_entry_that_is_missing(run):
    manifest = run.manifest()
    for path in (["template", "sha256"], ["base", "weights"], ["data", "held_out"], ["lengths"], ["parameters"]):
        tree = json.loads(json.dumps(manifest))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        run.manifest_file.write_text(json.dumps(tree))
        with pytest.raises(RunError, match=f"manifest.json: damaged, .*{path[-1]}"):
            found = run.manifest()
            for key in path:
                found = found[key]


@pytest.mark.parametrize("line", ["[]", "{}", "x", '{"step": "1"}', '{"step": 1, "loss": []}', "[" * 5000])
def test_metrics(run, line):
    with run.metrics_file.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl:\d+: damaged"):
        run.metrics()


def test_what_is_no_text(run):
    run.samples_file.write_bytes(b"\xff\xfe")
    result = govor("push", str(run.path), "a/b", "--dry-run", "--base", "x/y", "--license", "mit")
    assert result.exit_code == 2 and "samples.md: damaged" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b'{"a": {}}', b'{"a": {"data_offsets": 1}}', b'{"a": 5}'])
def test_weights(tmp_path, header):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"xx")
    with pytest.raises(BaseError, match=r"model\.safetensors"):
        read_headers([file])
    file.unlink()
    (tmp_path / "model.safetensors.index.json").write_bytes(header)
    with pytest.raises(BaseError, match=r"index\.json is damaged"):
        weight_files(tmp_path)
