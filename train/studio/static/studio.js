// The frame of the studio: which page is shown, in which language, and the key where the server wants one.
import { field, fill, h, notice, prose } from "./dom.js";
import { get, onKey, setKey } from "./net.js";
import { language, setLanguage, t } from "./texts.js";

const PAGES = { runs: "./runs.js", run: "./run.js", rows: "./rows.js", chat: "./chat.js", votes: "./votes.js", new: "./new.js" };
const main = document.getElementById("main");
let leave = new AbortController();

document.documentElement.lang = language;
document.getElementById("skip").textContent = t("skip");
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
const other = document.getElementById("language");
other.textContent = t("other_language");
other.lang = language === "ru" ? "en" : "ru";
other.addEventListener("click", () => setLanguage(other.lang));

let about = null;
const links = () => !about ? [] : about.jobs ? ["runs", "rows", "chat", "votes"] : ["runs", "rows", "chat", "votes", "new"];

async function show() {
  const [page, ...rest] = location.hash.slice(1).split("/");
  const chosen = PAGES[page] ? page : "runs";
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const current = chosen === "run" ? "runs" : chosen;
  const nav = () => fill(document.getElementById("nav"), links().map((one) =>
    h("a", { href: `#${one}`, id: `nav-${one}`, "aria-current": one === current ? "page" : null }, t(`nav_${one}`))));
  nav();
  document.title = `${t(`nav_${current}`)} – govor`;
  fill(main, h("p.aid", {}, t("loading")));
  try {
    about ??= await get("/studio/about", signal);
    nav();
    const module = await import(PAGES[chosen]);
    if (!signal.aborted) await module.show(main, { about, signal, id: decodeURIComponent(rest.join("/")) });
  } catch (error) {
    if (!signal.aborted && error.name !== "AbortError") failed(error);
  }
}

function failed(error) {
  if (main.querySelector("form.key")) return;
  fill(main, h("p.bad", { role: "alert" }, prose(error.message)));
}

onKey(() => {
  leave.abort();
  const input = h("input", { type: "password", autocomplete: "off", required: true });
  const enter = (event) => { event.preventDefault(); setKey(input.value.trim()); show(); };
  fill(main, h("form.key", { onsubmit: enter }, h("h1", {}, t("key_wanted")), field(t("key"), input, t("key_aid")),
    h("button.main", { type: "submit" }, t("enter"))));
  input.focus();
});

addEventListener("hashchange", () => show().then(() => main.focus({ preventScroll: true })));
addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  if (event.reason?.name !== "AbortError") notice(event.reason?.message ?? String(event.reason), true);
});
show();
