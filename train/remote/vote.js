// The page of govor vote: shows a pair, sends what was said of it, and knows nothing of whose answers they are.

const element = (id) => document.getElementById(id);
let at = null;
let busy = false;

async function ask(path, body) {
  if (busy) return;
  busy = true;
  try {
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const answer = await fetch(path, sent);
    if (answer.ok) show(await answer.json());
    else show(await (await fetch("/state")).json());
    scrollTo(0, 0);
  } catch {
    element("count").textContent = element("keys").dataset.gone;
  } finally {
    busy = false;
  }
}

function show(state) {
  at = state.at;
  element("done").max = state.of;
  element("done").value = state.done;
  element("count").textContent = `${state.done} / ${state.of}`;
  element("pair").hidden = at === null;
  element("all").hidden = at !== null || state.result !== null;
  element("keys").hidden = state.result !== null;
  for (const button of document.querySelectorAll("[data-said]")) {
    button.hidden = at === null && !["back", "reveal"].includes(button.dataset.said);
  }
  if (at !== null) {
    element("asked").textContent = state.asked;
    element("left").textContent = state.answers[0];
    element("right").textContent = state.answers[1];
  }
  element("result").hidden = state.result === null;
  if (state.result !== null) element("result").innerHTML = state.result; // escaped by the server
}

function say(said) {
  if (said === "back") return ask("/back", { at });
  if (said === "reveal") {
    if (at === null || confirm(element("keys").dataset.confirm)) return ask("/reveal", {});
    return undefined;
  }
  return at === null ? undefined : ask("/vote", { at, said });
}

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", " ": "skip", Backspace: "back" };
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || !(event.key in KEYS)) return;
  if (event.key === " " && event.target instanceof HTMLButtonElement) return; // the key presses the button
  if (element("keys").hidden) return;
  event.preventDefault();
  say(KEYS[event.key]);
});
element("keys").addEventListener("click", (event) => {
  const said = event.target.dataset.said;
  if (event.detail) event.target.blur(); // clicked, so the space bar is no longer the button's
  if (said) say(said);
});
ask("/state");
