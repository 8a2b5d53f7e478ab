// Requests to the server that the page came from; a key, where it wants one, is kept for this tab alone.
import { t } from "./texts.js";

let askKey = null;
const KEY = "govor-key";
export const onKey = (ask) => { askKey = ask; };
export const setKey = (key) => sessionStorage.setItem(KEY, key);

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

async function checked(response) {
  if (response.ok) return response;
  if (response.status === 401) askKey?.();
  let message = `${response.status} ${response.statusText}`;
  try { message = (await response.json()).error.message; } catch { /* no envelope: the status says it */ }
  throw new Error(message);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("server_gone"));
  }
}

export async function get(path, signal) {
  return (await checked(await reach(path, { headers: headers(), signal }))).json();
}

export async function post(path, body, signal) {
  const options = { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body), signal };
  return (await checked(await reach(path, options))).json();
}

export async function upload(path, file, signal) {
  const options = { method: "POST", headers: headers({ "content-type": "application/octet-stream" }), body: file, signal };
  return (await checked(await reach(path, options))).json();
}

// Server-sent events of one answer: {id, event, data} one after another, until it ends.
async function* read(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = { id: null, event: "message", data: "" };
      for (const line of part.split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) event[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
      }
      if (event.data) yield event;
    }
  }
}

export async function* postEvents(path, body, signal) {
  const options = { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body), signal };
  yield* read(await checked(await reach(path, options)));
}

// Follows a stream for good: after a break it goes on behind the last event that came.
export async function follow(path, take, signal, onState = () => {}) {
  let last = null;
  let wait = 200;
  while (!signal.aborted) {
    try {
      const more = last ? { "last-event-id": last } : {};
      const response = await checked(await reach(path, { headers: headers(more), signal }));
      onState(true);
      wait = 200;
      for await (const event of read(response)) {
        take(event.event, JSON.parse(event.data));
        if (event.event === "reset") last = null;
        if (event.id) last = event.id;
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    onState(false);
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(3000, wait * 2);
  }
}
