"""govor fetch, from a Hub on this machine that breaks off, throttles and gives wrong bytes."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from tests.conftest import govor
from tests.exports.hub_server import hub_server
from train.core.config import Model
from train.core.errors import BaseError
from train.models.base import find_base, local_folder
from train.models.fetch import fetch_from_hub

NAME = "acme/tiny"
WEIGHTS = bytes(range(256)) * 1024
ADDRESS = "/{repo_id}/resolve/{revision}/{filename}"
STORE = r"^/store/"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
}
OTHER_FORMS = {
    "pytorch_model.bin": b"x",
    "consolidated.safetensors": b"y",
    "original/consolidated.00.safetensors": b"z",
    "onnx/config.json": b"{}",
    "modeling_tiny.py": b"raise SystemExit",
}


@pytest.fixture
def hub(working_folder, monkeypatch):
    """A Hub with a base in two shards; the client in this process talks to it and has an empty cache."""
    with hub_server() as server:
        server.put(NAME, FILES | OTHER_FORMS)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + ADDRESS)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(working_folder / "cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)
        monkeypatch.setattr("time.sleep", server.slept.append)
        yield server
        close_session()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_weights_tokenizer_and_configs_without_code(hub):
    result = govor("fetch", NAME)
    assert result.exit_code == 0, result.stderr
    folder = local_folder(Model(name_or_path=NAME))
    assert contents(folder) == FILES
    assert f"{NAME}: 4 of 4 files, 524.3 kB" in result.stderr
    assert result.stdout == (
        f"{NAME} is in {folder}, its hashes are right; write into the config: model.name_or_path: {NAME}\n"
    )
    asked = len(hub.requests)
    assert find_base(Model(name_or_path=NAME)) == folder
    assert hub.sent("GET", STORE) == 2
    assert len(hub.requests) > asked, "the Hub is asked whether there is a newer commit"


def test_code_where_it_is_asked_for(hub):
    assert govor("fetch", NAME).exit_code == 0
    folder = find_base(Model(name_or_path=NAME, trust_remote_code=True))
    assert contents(folder) == FILES | {"modeling_tiny.py": OTHER_FORMS["modeling_tiny.py"]}
    assert govor("fetch", NAME, "--trust-remote-code").exit_code == 0


def test_pickled_weights_are_not_fetched(hub):
    hub.put("acme/old", {"config.json": b"{}", "pytorch_model.bin": b"old"})
    with pytest.raises(BaseError, match=r"^acme/old has no weights as safetensors: take a revision that has them"):
        fetch_from_hub("acme/old", None, code=False)
    assert local_folder(Model(name_or_path="acme/old")) is None


def test_it_goes_on_after_a_broken_connection(hub):
    for sha in list(hub.large):
        hub.fail("GET", STORE + sha, sends=len(WEIGHTS) // 2)
    result = govor("fetch", NAME)
    assert result.exit_code == 0, result.stderr
    assert contents(local_folder(Model(name_or_path=NAME))) == FILES
    assert hub.sent("GET", STORE) == 4
    assert hub.sent_bytes(STORE) < 2.5 * len(WEIGHTS), "the rest alone is asked for"


def test_it_waits_where_it_is_throttled(hub):
    hub.fail("GET", STORE, times=2, status=429)
    assert govor("fetch", NAME).exit_code == 0
    assert contents(local_folder(Model(name_or_path=NAME))) == FILES
    assert hub.slept


def test_the_next_call_fetches_what_is_missing(hub):
    hub.fail("GET", STORE, times=1, status=403, error="no more today")
    result = govor("fetch", NAME)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {NAME} could not be fetched from the Hub: ")
    assert "goes on with the files that are not here yet" in result.stderr
    before = hub.sent("GET", STORE)
    assert govor("fetch", NAME).exit_code == 0
    assert hub.sent("GET", STORE) - before == 1
    assert contents(local_folder(Model(name_or_path=NAME))) == FILES


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
def test_a_wrong_hash(hub, name):
    entry = hub.repos[NAME].files[name]
    stored, key = (hub.large, entry[0]) if isinstance(entry, tuple) else (hub.small, entry)
    right = stored[key]
    stored[key] = b"!" + right[1:]
    result = govor("fetch", NAME)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {name}: its ") and "and is removed; fetch it again" in last
    assert [path for path in Path("cache").rglob("*") if path.is_file() and path.read_bytes() == stored[key]] == []
    stored[key] = right
    assert govor("fetch", NAME).exit_code == 0
    assert contents(local_folder(Model(name_or_path=NAME))) == FILES


def test_training_checks_what_it_fetches_and_fetch_everything(hub):
    folder = find_base(Model(name_or_path=NAME))
    file = (folder / "model-00001-of-00002.safetensors").resolve()
    file.write_bytes(b"!" + WEIGHTS[1:])
    assert find_base(Model(name_or_path=NAME)) == folder, "what was here is not hashed at every start"
    with pytest.raises(
        BaseError, match=r"^model-00001-of-00002\.safetensors: its sha256 is .* it was there before; remove"
    ):
        fetch_from_hub(NAME, None, code=False, check_all=True)
    assert file.read_bytes() == b"!" + WEIGHTS[1:], "somebody may have meant it"


def test_a_mirror_is_sent_no_token(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9" + ADDRESS)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Qz7" * 12)  # the server refuses tokens that it does not know
    result = govor("fetch", NAME, "--endpoint", hub.url)
    assert result.exit_code == 0, result.stderr
    assert contents(local_folder(Model(name_or_path=NAME))) == FILES


def test_a_revision(hub):
    first = hub.repos[NAME].head
    hub.put(NAME, {"config.json": b'{"new": 1}'})
    result = govor("fetch", NAME, "--revision", first)
    assert result.stdout.endswith(f"model.name_or_path: {NAME}, model.revision: {first}\n")
    assert (local_folder(Model(name_or_path=NAME, revision=first)) / "config.json").read_bytes() == b"{}"


def test_no_such_base(hub):
    result = govor("fetch", "acme/nothing")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: acme/nothing could not be fetched from the Hub: ")


def test_without_a_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BaseError, match=rf"^{NAME} is not in the local cache and the Hub cannot be .*govor fetch {NAME} "
    ):
        find_base(Model(name_or_path=NAME))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    folder = find_base(Model(name_or_path=NAME))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_base(Model(name_or_path=NAME)) == folder


def test_modelscope_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    result = govor("fetch", NAME, "--from", "modelscope")
    assert (result.exit_code, result.stderr) == (
        2, "error: the package modelscope is not installed: pip install 'govor[modelscope]'\n",
    )  # fmt: skip
    result = govor("fetch", NAME, "--from", "modelscope", "--endpoint", "http://127.0.0.1:9")
    assert "leave it out" in result.stderr
