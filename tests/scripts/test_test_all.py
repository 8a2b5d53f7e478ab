"""`make test-all`: every target runs to its end, and the table says what became of each."""

import os
import subprocess
import sys
from pathlib import Path

import test_all

MAKEFILE = """
good:
\t@echo '..s'; echo '12 passed, 3 skipped in 61.20s (0:01:01)'; echo '2 passed, 40 deselected in 9.00s'
bad:
\t@echo 'E   assert 1 == 2'; echo '2 failed, 7 passed, 1 error in 3.21s'; exit 1
broken:
\t@echo 'train/x.py:1: error: no such name'; exit 2
plain:
\t@echo 'no pytest in it'
peers:
\t@echo 'ERROR: Could not find a version that satisfies vllm'; exit 1
needs-peers: peers
\t@echo '1 passed in 0.10s'
"""


def test_each_runs_to_its_end_and_has_its_line(working_folder, monkeypatch, capsys):
    (working_folder / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    targets = {"bad": None, "broken": None, "needs-peers": "peers", "plain": None, "good": None}
    for name, value in (("REPOSITORY", working_folder), ("LOGS", working_folder / "logs"), ("TARGETS", targets)):
        monkeypatch.setattr(test_all, name, value)
    monkeypatch.setenv("MAKEFLAGS", "n")
    assert test_all.main([]) == 1
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()[-6:]]
    assert [line[:2] for line in lines] == [
        ["target", "result"], ["bad", "FAIL"], ["broken", "FAIL"], ["needs-peers", "SKIP"], ["plain", "PASS"],
        ["good", "PASS"],
    ]  # fmt: skip
    assert [line[3] for line in lines[1:4]] == [
        "2 failed, 7 passed, 1 error",
        "train/x.py:1: error: no such name",
        "make peers: ERROR: Could not find a version that satisfies vllm",
    ]
    assert lines[4][2] == "0:00" and lines[5][3] == "14 passed, 3 skipped"
    assert (working_folder / "logs/bad.log").read_text(encoding="utf-8").startswith("E   assert 1 == 2")
    assert test_all.main(["good", "plain"]) == 0
    assert test_all.main(["needs-peers"]) == 0


def test_every_test_target_of_the_makefile_is_among_them():
    makefile = (test_all.REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = {line.split(":")[0] for line in makefile.splitlines() if line.startswith("test") and ":" in line}
    assert targets == {*test_all.TARGETS, "test-all", "test-fast"}, "test-fast is a part of test"
    for needed in filter(None, test_all.TARGETS.values()):
        assert f"\n{needed}:" in makefile


def test_without_a_card_the_gpu_is_not_tested_and_one_line_says_so(tmp_path):
    makefile = test_all.REPOSITORY / "Makefile"
    command = ["make", "-f", makefile, "-o", ".venv/installed", "test-gpu", f"BIN={Path(sys.executable).parent}"]
    outer = {"MAKEFLAGS", "MAKELEVEL"}  # `make test` runs this, and a make within a make names folders too
    env = {name: value for name, value in os.environ.items() if name not in outer}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[0] == "error: no CUDA card is visible"
    assert result.stderr.count("\n") == 2, "make adds its own"
