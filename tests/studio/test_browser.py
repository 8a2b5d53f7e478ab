"""The pages in Debian's Chromium, driven by Playwright; `make test-studio` runs this."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.conftest import REPOSITORY
from tests.studio.openai_server import openai_server
from tests.studio.studio_server import StudioServer
from tests.studio.test_follow import line
from tests.studio.test_votes import write_comparison
from train.core.locks import lock_holder

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("GOVOR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = int(os.environ.get("GOVOR_PATIENCE", "60")) * 1000  # milliseconds that a page may take on a slow machine
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>"\u202e\u2067перевёрнуто'
WORDS = {
    "ru-RU": {"runs": "Обучения", "rows": "Строки", "chat": "Чат", "votes": "Голосование", "new": "Новое обучение"},
    "en-US": {"runs": "Runs", "rows": "Rows", "chat": "Chat", "votes": "Votes", "new": "New run"},
}


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="make test-studio installs Playwright")
    assert CHROMIUM, "no Chromium: apt-get install chromium, or name it in GOVOR_CHROMIUM"
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def page_of(browser, server, **context):
    """A page that has said nothing on its console and asked nobody else when the block ends."""
    found = []
    opened = browser.new_context(**{"locale": "en-US", **context})
    page = opened.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(server.url) else found.append(request.url))
    yield page
    assert page.evaluate("window.hit") is None
    opened.close()
    assert found == []


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose run, rows and texts are hostile; its server and a model to talk to."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"да {HOSTILE}"}]
    rows = [{"messages": [{"role": "user", "content": f"Вопрос {n}"}, {"role": "assistant", "content": f"Ответ {n}"}]}
            for n in range(30)]  # fmt: skip
    lines = [json.dumps({"messages": messages}, ensure_ascii=False), '{"messages": [<b>', *(
        json.dumps(row, ensure_ascii=False) for row in rows)]  # fmt: skip
    (folder / "data/rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = folder / "runs" / "<b onclick=alert(1)>\u202eночь"
    run.mkdir(parents=True)
    (run / ".lock").write_text("1 2020-01-01T00:00:00+00:00 training")
    (run / "metrics.jsonl").write_text("".join(line(step, eval_loss=2.5) for step in range(20)))
    write_comparison(folder / "compare/вечер", said=HOSTILE)
    answers = {"добрая": f"Здравствуй, {HOSTILE}", "злая": "Уходи."}
    with openai_server(answers) as (url, _), StudioServer(folder, "--server", url) as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", WORDS)
def test_every_page_in_both_languages(browser, project, locale, scheme):
    """No error, no foreign request, hostile text inert, nothing wider than a phone of 400 px."""
    size = {"width": 400, "height": 800}
    with page_of(browser, project, locale=locale, color_scheme=scheme, viewport=size) as page:
        for name, title in WORDS[locale].items():
            page.goto(f"{project.url}/#{name}")
            page.locator("h1", has_text=title).wait_for()
            assert page.locator("html").get_attribute("lang") == locale[:2]
            page.locator("main > *").nth(1).wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
        page.goto(f"{project.url}/#runs")
        page.locator("article a").first.click()
        page.locator("h1 bdi", has_text="ночь").wait_for()
        assert page.locator("h1 bdi").evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"


def test_hostile_rows_are_text(browser, project):
    with page_of(browser, project) as page:
        page.goto(f"{project.url}/#rows/rows.jsonl")
        card = page.locator("[data-line='1']")
        card.wait_for()
        assert HOSTILE in card.inner_text() and card.locator("img, script").count() == 0
        broken = page.locator("[data-line='2']")
        assert "not valid JSON" in broken.inner_text() and "<b>" in broken.inner_text()


@pytest.mark.parametrize("locale", WORDS)
def test_a_vote_by_keyboard(browser, project, locale):
    """Four pairs, a reload between, on a phone: the page of `govor vote`, and nobody is named before the reveal."""
    better, revealed = {"ru-RU": ("Лучше первый", "Решённые пары"), "en-US": ("The first is", "Decided pairs")}[locale]
    shutil.rmtree(project.folder / "compare" / locale, ignore_errors=True)
    write_comparison(project.folder / "compare" / locale, said=HOSTILE)
    with page_of(browser, project, locale=locale, viewport={"width": 400, "height": 800}) as page:
        page.goto(f"{project.url}/#votes")
        page.locator(f"#vote-{locale}").focus()
        page.keyboard.press("Enter")
        page.locator("#count", has_text="0 / 4").wait_for()
        assert HOSTILE in page.locator("#left").inner_text() and page.locator("#pair img, #pair script").count() == 0
        page.locator("[data-said=left]", has_text=better).wait_for()
        for done, key in enumerate(["ArrowLeft", "ArrowRight", "ArrowDown", " "], 1):
            page.keyboard.press(key)
            page.locator("#count", has_text=f"{done} / 4").wait_for()
            if done == 2:
                page.reload()
                page.locator("#count", has_text="2 / 4").wait_for()
        assert "model-" not in page.locator("body").inner_text()
        page.keyboard.press("Backspace")
        page.locator("#asked").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("[data-said=reveal]").click()
        page.locator("#result", has_text=revealed).wait_for()
        assert "model-x" in page.locator("#result table").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    said = (project.folder / "compare" / locale / "votes.jsonl").read_text().splitlines()
    assert len(said) == 5 and "revealed" in said[-1]


def test_points_come_while_they_are_written_and_after_a_kill(browser, tmp_path):
    run = tmp_path / "runs/x"
    run.mkdir(parents=True)
    (run / ".lock").write_text("1 2020-01-01T00:00:00+00:00 training")
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(map(line, range(10))))
    server = StudioServer(tmp_path)
    opened = browser.new_context()
    page = opened.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(f"{server.url}/#run/x")
        page.locator("figure[data-points='10'] canvas").wait_for()
        with metrics.open("a") as file:
            file.write(line(10))
        began = time.monotonic()
        page.locator("figure[data-points='11']").wait_for()
        assert time.monotonic() - began < 1 + 5 * (os.getloadavg()[0] > 4)  # within a second, on a machine not overrun
        server.kill()
        with metrics.open("a") as file:
            file.write(line(11))
        server.start()
        page.locator("figure[data-points='12']").wait_for()
    finally:
        opened.close()
        server.stop()


def test_a_hundred_thousand_points(browser, tmp_path):
    run = tmp_path / "runs/x"
    run.mkdir(parents=True)
    (run / ".lock").write_text("1 2020-01-01T00:00:00+00:00 training")
    (run / "metrics.jsonl").write_text("".join(map(line, range(100_000))))
    with StudioServer(tmp_path) as server, page_of(browser, server) as page:
        page.goto(f"{server.url}/#run/x")
        page.locator("figure[data-points='100000'] canvas").wait_for()
        drawn = page.evaluate(
            """() => {
                const steps = Array.from({length: 100000}, (_, at) => at);
                const place = document.createElement('div');
                document.body.append(place);
                const options = {width: 1000, height: 320, scales: {x: {time: false}},
                    series: [{}, {stroke: 'blue', points: {show: false}}, {stroke: 'red', points: {show: false}}]};
                const data = [steps, steps.map((at) => Math.sin(at / 999)), steps.map((at) => at % 500 ? null : 1)];
                const began = performance.now();
                new uPlot(options, data, place);
                const seen = (done) => setTimeout(() => done(performance.now() - began));
                return new Promise((done) => requestAnimationFrame(() => seen(done)));
            }"""
        )
        assert drawn < 500 * (1 + 4 * (os.getloadavg()[0] > 4)), drawn


def test_by_keyboard_alone(browser, project):
    """From the first Tab to a row that is dropped and an answer that is liked."""
    with page_of(browser, project) as page:
        page.goto(f"{project.url}/#runs")
        page.locator("article").first.wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "skip"
        tab_to(page, "nav-rows")
        page.keyboard.press("Enter")
        page.locator("[data-line='5']").wait_for()
        tab_to(page, "say-5-n")
        page.keyboard.press("Space")
        page.locator("#say-5-n[aria-pressed=true]").wait_for()
        assert page.evaluate("document.activeElement.id") == "say-5-n", "the focus stays where it was"
        page.evaluate("document.getElementById('nav-chat').focus()")
        page.keyboard.press("Enter")
        page.locator("#send").wait_for()
        page.keyboard.press("Tab")
        page.locator("form textarea").focus()
        page.keyboard.type("Кто ты?")
        page.keyboard.press("Enter")
        page.locator("button[aria-label^=Better]").first.wait_for()
        page.locator("button[aria-label^=Better]").first.focus()
        page.keyboard.press("Enter")
        page.locator("button[aria-label^=Better][aria-pressed=true]").wait_for()
        kept = (project.folder / "data/feedback.jsonl").read_text(encoding="utf-8").splitlines()
        row = json.loads(kept[-1])
        assert row["preferred_output"][0]["content"] == f"Здравствуй, {HOSTILE}"
        assert row["non_preferred_output"][0]["content"] == "Уходи."


def tab_to(page, id_: str) -> None:
    for _ in range(80):
        if page.evaluate("document.activeElement.id") == id_:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no Tab leads to {id_}")


def test_rows_are_searched_edited_and_written(browser, project):
    with page_of(browser, project) as page:
        page.goto(f"{project.url}/#rows/rows.jsonl")
        page.locator("#search").fill("ответ 17")
        page.keyboard.press("Enter")
        card = page.locator("[data-line='20']")
        page.locator("[data-line]:not([data-line='20'])").first.wait_for(state="detached")
        card.locator("#say-20-edit").click()
        card.locator("textarea").fill("Ответ получше")
        card.get_by_text("Save").click()
        card.get_by_text("Ответ получше").wait_for()
        page.locator("#kept-name").fill("browser.jsonl")
        page.locator("#write").click()
        page.locator("#notice", has_text="browser.jsonl").wait_for()
        written = (project.folder / "data/browser.jsonl").read_text(encoding="utf-8")
        assert "Ответ получше" in written and "Ответ 17" not in written


def test_a_key_is_asked_for(browser, tmp_path):
    with StudioServer(tmp_path, key="k-1") as server:
        opened = browser.new_context(locale="en-US")
        page = opened.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(server.url)
        page.locator("input[type=password]").fill("k-1")
        page.keyboard.press("Enter")
        page.get_by_text("No runs here yet").wait_for()
        assert page.locator("main code").inner_text() == "govor train CONFIG"
        opened.close()


def test_a_whole_life(browser, base, rows_file, tmp_path):
    """Chats are dropped, rows looked at, a run planned, begun and watched, its page read, the model talked to."""
    (tmp_path / "data").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "data/base").symlink_to(base)
    said = ("Маша: А что сегодня", "Наташа: Сегодня снег, и ветер,")
    times = [f"{1 + n // 50:02}.03.2026, 1{n // 10 % 10}:{n % 10 * 5:02}" for n in range(200)]
    chat = tmp_path / "WhatsApp.txt"
    chat.write_text("\n".join(f"{at} - {said[n % 2]} {n}." for n, at in enumerate(times)), encoding="utf-8")
    with (
        openai_server({"наташа": "Снег.", "база": "Не знаю."}) as (url, _),
        StudioServer(tmp_path, "--server", url) as server,
    ):
        with page_of(browser, server) as page:
            page.goto(f"{server.url}/#new")
            page.locator("#export-file").set_input_files(chat)
            page.locator("#collect").wait_for()
            page.locator("section select").select_option(label="Наташа (100)")
            page.locator("#collect").click()
            page.locator("summary .good").first.wait_for()
            page.locator("summary", has_text="govor collect").click()
            page.get_by_text("200 messages read").wait_for()
            page.locator("#nav-rows").click()
            page.get_by_text("Сегодня снег").first.wait_for()
            page.locator("#nav-new").click()
            page.locator("form input").first.fill("life")
            page.get_by_label("base").fill("data/base")
            page.get_by_label("Steps at most").fill("3")
            page.get_by_label("train on the processor").check()
            page.get_by_label("Prompts, one a line").fill("Кто ты?")
            page.locator("#plan").click()
            page.get_by_text("What it needs").wait_for()
            page.locator("#start").click()
            page.locator("#notice", has_text="govor train configs/life.yaml").wait_for()
            page.locator("#nav-runs").click()
            page.locator("[data-run=life] .finished").wait_for(timeout=10 * PATIENCE)
            page.locator("#open-life").click()
            page.locator("figure canvas").wait_for()
            page.get_by_text("training.max_steps", exact=True).wait_for()
            page.get_by_role("button", name="Evaluate quickly").click()
            page.locator("#samples-file summary").wait_for(timeout=10 * PATIENCE)
            page.locator("section p", has_text="Held-out loss:").wait_for()
            page.locator("#nav-chat").click()
            page.locator("form textarea").fill("Что сегодня?")
            page.locator("#send").click()
            page.locator("button[aria-label^=Better]").first.click()
            page.locator("#notice", has_text="feedback.jsonl").wait_for()
            (tmp_path / "prompts.txt").write_text("Кто ты?\nЧто сегодня?\n", encoding="utf-8")
            models = (f"{url}#наташа", f"{url}#база", "--max-tokens", "100000", "--prompts", "prompts.txt")
            subprocess.run(
                [sys.executable, "-m", "train.cli", "compare", "trial", *models], env=ENVIRONMENT, check=True
            )
            page.locator("#nav-votes").click()
            page.locator("#vote-trial").click()
            for done in (1, 2):
                side = "left" if page.locator("#left").inner_text() == "Снег." else "right"
                page.locator(f"[data-said={side}]").click()
                page.locator("#count", has_text=f"{done} / 2").wait_for()
            page.locator("[data-said=reveal]").click()
            page.locator("#result", has_text="наташа against база").wait_for()
            assert "100%" in page.locator("#result").inner_text()
        liked = json.loads((tmp_path / "data/feedback.jsonl").read_text())
        assert liked["preferred_output"][0]["content"] == "Снег."
    assert len((tmp_path / "compare/trial/preferences.jsonl").read_text().splitlines()) == 2


def test_every_button_of_a_run(browser, write_config, tmp_path):
    """One that was begun in a terminal is stopped, resumed, evaluated, merged and exported, each command as shown."""
    write_config(
        training={"max_steps": 40, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1}, prompts=[]
    )
    command = [sys.executable, "-m", "train.cli", "train", "x.yaml"]
    elsewhere = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs/x"

    def press(target: str, command: str, ends: str = "done") -> None:
        button = page.locator(f"#do-x-{target}")
        assert button.get_attribute("title") == f"runs: {command}"
        button.click()
        line = page.locator("details", has=page.locator("summary code", has_text=command)).locator("summary")
        line.get_by_text(ends).wait_for(timeout=10 * PATIENCE)

    with StudioServer(tmp_path) as server, page_of(browser, server) as page:
        page.goto(f"{server.url}/#runs")
        page.locator("#open-x").click(timeout=10 * PATIENCE)
        page.locator("figure[data-points]:not([data-points='0'])").wait_for(timeout=10 * PATIENCE)
        assert page.locator("#do-x-stop-").get_attribute("title") == f"runs: kill -TERM {lock_holder(run).pid}"
        page.locator("#do-x-stop-").click()
        elsewhere.wait(300)
        page.locator("h1 .stopped").wait_for()
        press("resume-", "govor train runs/x/config.yaml --resume")
        page.locator("h1 .finished").wait_for()
        page.locator("#commands-x summary").click()
        shown = page.locator("#commands-x code").all_inner_texts()
        assert {"govor eval runs/x", "govor merge runs/x", "govor export runs/x --to gguf"} <= set(shown)
        press("eval-quick", "govor eval runs/x --quick")
        page.locator("section p", has_text="Held-out loss:").wait_for()
        press("merge-", "govor merge runs/x")
        page.locator("section p", has_text="Drift of the merged model").wait_for()
        press("export-llamafactory", "govor export runs/x --to llamafactory")
    assert (run / "merged/config.json").is_file()
    assert list((run / "exports/llamafactory").iterdir())
