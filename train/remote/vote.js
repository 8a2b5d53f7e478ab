// Two answers to a prompt: shows a pair, sends what was said of it, and knows nothing of whose answers they are.
// The page of govor vote, and a page of the studio.

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", " ": "skip", Backspace: "back" };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const table = ([head, ...rows]) => element("div", { class: "scroll" }, element("table", {},
  element("tr", {}, ...head.map((cell) => element("th", {}, cell))),
  ...rows.map(([first, ...cells]) => element("tr", {}, element("th", {}, first), ...cells.map((cell) => element("td", {}, cell))))));

// `ask(path, body)`: what the server says, a POST where there is a body; `signal`: the page is left.
export async function vote(place, ask, signal) {
  const language = `?lang=${document.documentElement.lang}`;
  const texts = await ask(`texts${language}`);
  const outlook = element("p", {}, texts.outlook), aid = element("p", { class: "aid" }, texts.keys);
  const done = element("progress", { id: "done", value: 0, max: 1 }), count = element("span", { id: "count", class: "number" });
  const [asked, left, right, result] = ["asked", "left", "right", "result"].map((id) => element("div", { id, dir: "auto" }));
  asked.className = "asked";
  const pair = element("section", { id: "pair", "aria-live": "polite" }, asked, element("div", { class: "answers" }, left, right));
  const all = element("p", { id: "all" }, texts.all);
  const keys = element("div", { class: "keys", id: "keys" }, ...Object.entries(texts.buttons).map(
    ([said, label]) => element("button", { type: "button", "data-said": said }, label)));
  for (const each of [pair, all, result]) each.hidden = true;
  let at = null, busy = false;

  function show(state) {
    at = state.at;
    done.max = state.of;
    done.value = state.done;
    count.textContent = `${state.done} / ${state.of}`;
    pair.hidden = at === null;
    all.hidden = at !== null || state.result !== null;
    keys.hidden = aid.hidden = outlook.hidden = state.result !== null;
    for (const button of keys.children) button.hidden = at === null && !["back", "reveal"].includes(button.dataset.said);
    if (at !== null) [asked.textContent, left.textContent, right.textContent] = [state.asked, ...state.answers];
    result.hidden = state.result === null;
    result.replaceChildren(...(state.result ?? []).map((part) => typeof part === "string" ? element("p", {}, part) : table(part)));
  }

  async function send(path, body) {
    if (busy) return;
    busy = true;
    try {
      show(await ask(path + language, body));
      scrollTo(0, 0);
    } catch {  // refused, as by another tab that has revealed the models, or gone
      await ask(`state${language}`).then(show, (error) => { count.textContent = error.message; });
    } finally {
      busy = false;
    }
  }

  function say(said) {
    if (said === "back") send("back", { at });
    else if (said === "reveal") { if (at === null || confirm(texts.confirm)) send("reveal", {}); }
    else if (at !== null) send("vote", { at, said });
  }

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || !(event.key in KEYS)) return;
    if (event.key === " " && event.target instanceof HTMLButtonElement) return; // the key presses the button
    if (keys.hidden) return;
    event.preventDefault();
    say(KEYS[event.key]);
  }, { signal });
  keys.addEventListener("click", (event) => {
    const { said } = event.target.dataset;
    if (event.detail) event.target.blur(); // clicked, so the space bar is no longer the button's
    if (said) say(said);
  });
  place.classList.add("ballot");
  place.replaceChildren(outlook, aid, element("p", {}, done, " ", count), pair, all, keys, result);
  await send("state");
}

const alone = document.querySelector("main[data-gone]");
if (alone) {
  const ask = async (path, body) => {
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const answer = await fetch(`/${path}`, sent).catch(() => { throw new Error(alone.dataset.gone); });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    return answer.json();
  };
  vote(alone, ask, new AbortController().signal);
}
