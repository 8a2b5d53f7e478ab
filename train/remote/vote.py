"""govor vote: a page on this machine that shows two answers to a prompt, without a word of who gave them."""

import sys
from contextlib import closing, nullcontext
from html import escape

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse

from train.core.pages import Language, html_page, language_of_locale, speaker
from train.remote.answers import folder_of
from train.remote.ballot import RUSSIAN, SCRIPT, STYLE, Voting, add_ballot, open_voting, outlook, texts_of
from train.serving.api_errors import install_error_handlers
from train.serving.guard import Access, guard

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-store", "x-content-type-options": "nosniff"}
GONE = "The server has ended: start it again with govor vote {name}."
GONE_IN_RUSSIAN = "Сервер остановлен: запустите его снова командой govor vote {name}."


def vote(name: str, *, port: int, lang: Language | None) -> None:
    """Serve the page until Ctrl-C; every vote is on disk at once. RunError where another process takes votes."""
    import uvicorn

    from train.serving.serve import listen

    with open_voting(folder_of(name)) as voting, closing(listen("127.0.0.1", port, None)) as listener:
        app = vote_app(voting, lang or language_of_locale())
        print(outlook(voting.compared, list(voting.votes.pairs), speaker("en", {})))
        print(f"page: http://127.0.0.1:{listener.getsockname()[1]}; Ctrl-C ends it, votes are kept", flush=True)
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)


def vote_app(voting: Voting, lang: Language) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    name = voting.compared.folder.name
    title = texts_of(*voting, speaker(lang, RUSSIAN))["title"]
    gone = speaker(lang, {GONE: GONE_IN_RUSSIAN})(GONE, name=name)
    body = f"""<style>{STYLE.read_text(encoding="utf-8")}</style>
<main id="vote" data-gone="{escape(gone)}"></main>
<script type="module" src="/vote.js"></script>"""
    page = html_page(title, body, lang)

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/vote.js")
    async def javascript() -> Response:
        return FileResponse(SCRIPT, media_type="text/javascript", headers=HEADERS)

    add_ballot(app, lambda _: nullcontext(voting))
    guard(app, Access())
    install_error_handlers(app)
    return app
