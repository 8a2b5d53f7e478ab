"""Every text that a page shows stands in both languages, and is shown somewhere."""

import re

from tests.conftest import REPOSITORY

STATIC = REPOSITORY / "train/studio/static"
OURS = [path for path in sorted(STATIC.glob("*.js")) if path.name not in ("uplot.js", "texts.js")]
ENTRY = re.compile(r'^  (\w+): \[("(?:[^"\\]|\\.)*"),\s*("(?:[^"\\]|\\.)*")\],$', re.MULTILINE)


def test_both_languages_have_every_text():
    table = (STATIC / "texts.js").read_text(encoding="utf-8")
    entries = {key: (english, russian) for key, english, russian in ENTRY.findall(table)}
    assert len(entries) == len(re.findall(r"^  \w+: \[", table, re.MULTILINE))
    for key, (english, russian) in entries.items():
        fields = [sorted(re.findall(r"\{\w+\}", text)) for text in (english, russian)]
        assert fields[0] == fields[1], key
        assert not re.search("[А-я]", english) or key == "other_language", key
    source = "".join(path.read_text(encoding="utf-8") for path in OURS)
    used = set(re.findall(r'\bt\("(\w+)"', source)) | set(re.findall(r'"(\w+)"', source))
    built = re.compile(r"(nav|state|long|do_eval)_\w+")  # of a page, a state, an option
    assert {key for key in entries if key not in used and not built.fullmatch(key)} == set()
    assert set(re.findall(r'\bt\("(\w+)"', source)) <= entries.keys()


def test_no_page_makes_html_of_text():
    for path in (*OURS, REPOSITORY / "train/remote/vote.js"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source), (
            path
        )
