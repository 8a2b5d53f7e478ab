"""A page in Chromium: plain fetch from a page of an allowed origin; a page of another origin must read nothing."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from attempt import KEY, MODEL, QUESTION, URL, attempt

ALLOWED = os.environ["GOVOR_PAGE"]
"""The page's origin, as the server's --allow-origin names it."""
PAGE = """<!doctype html><meta charset="utf-8"><script>
const ask = async (path, body) => {
  const headers = {authorization: 'Bearer KEY', 'content-type': 'application/json'}
  const asked = JSON.stringify({model: MODEL, temperature: 0, ...body})
  let answer
  while (!answer || answer.status === 503) { // the model is being loaded
    if (answer) await new Promise((done) => setTimeout(done, 1000 * (answer.headers.get('retry-after') ?? 2)))
    answer = await fetch('URL' + path, {method: 'POST', headers, body: asked})
  }
  if (!answer.ok) throw new Error(await answer.text())
  return answer
}
const read = async (answer) => {
  let text = '', said = ''
  for await (const bytes of answer.body.pipeThrough(new TextDecoderStream())) text += bytes
  for (const line of text.split('\\n').filter((line) => line.startsWith('data: {'))) {
    const event = JSON.parse(line.slice(6))
    said += event.choices?.[0]?.delta?.content ?? (event.type === 'response.output_text.delta' ? event.delta : '')
  }
  return said
}
const messages = [{role: 'user', content: QUESTION}]
const work = {
  chat: async () => (await (await ask('/chat/completions', {messages})).json()).choices[0].message.content,
  stream: async () => read(await ask('/chat/completions', {messages, stream: true})),
  responses: async () => (await (await ask('/responses', {input: QUESTION})).json()).output[0].content[0].text,
  responses_stream: async () => read(await ask('/responses', {input: QUESTION, stream: true})),
}
const main = async () => {
  const report = {}
  for (const [name, operation] of Object.entries(work)) {
    try { report[name] = {said: await operation()} } catch (error) { report[name] = {error: String(error)} }
  }
  await fetch('/report', {method: 'POST', body: JSON.stringify(report)})
}
main()
</script>"""


class Site(BaseHTTPRequestHandler):
    """Serves the page, and takes what it reports."""

    def do_GET(self):
        page = PAGE.replace("KEY", KEY).replace("URL", URL)
        page = page.replace("MODEL", json.dumps(MODEL)).replace("QUESTION", json.dumps(QUESTION)).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.server.report = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()
        self.server.reported.set()

    def log_message(self, *_):
        pass


def visit(origin: str) -> dict:
    """What the page reports when it is opened under that origin."""
    host, _, port = origin.removeprefix("http://").partition(":")
    site = HTTPServer(("127.0.0.1", int(port)), Site)
    site.reported = threading.Event()
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [
                sys.argv[1], "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", f"--user-data-dir={profile}",
                f"--host-resolver-rules=MAP {host} 127.0.0.1", origin,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if not site.reported.wait(900):
                raise TimeoutError("the page reported nothing in 15 minutes")
        finally:
            browser.terminate()
            browser.wait()
            site.shutdown()
            site.server_close()
    return site.report


reports: dict = {}


def reported(operation: str):
    def read():
        if not reports:
            reports.update(visit(ALLOWED))
        if "error" in reports[operation]:
            raise RuntimeError(reports[operation]["error"])
        return reports[operation]["said"]

    read.__name__ = operation
    return read


def other_origin():
    """The browser lets a page that is not allowed read nothing."""
    report = visit(ALLOWED.replace("://", "://other-"))
    assert all("Failed to fetch" in one.get("error", "") for one in report.values()), report
    return {"refused": len(report)}


attempt(*map(reported, ("chat", "stream", "responses", "responses_stream")), other_origin)
