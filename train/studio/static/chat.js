// One model or two side by side, over the OpenAI API of running servers; what is said of their answers is kept.
import { field, fill, h, name, notice, prose, select, text } from "./dom.js";
import { get, post, postEvents } from "./net.js";
import { t } from "./texts.js";

const HERE = "";  // the server of this page, which has models of its own where it is a jobs server

export async function show(main, { about, signal }) {
  const found = (await get("/studio/chat/models", signal)).servers;
  if (about.jobs) {
    const { data } = await get("/v1/models", signal);
    found.unshift({ server: HERE, models: data.map((one) => ({ id: one.id, system: one.metadata?.system_message })), problem: null });
  }
  const models = found.flatMap(({ server, models: listed }) => listed.map((one) => ({ ...one, server, key: JSON.stringify([server, one.id]) })));
  const problems = found.filter((one) => one.problem).map((one) => h("p.problem", {}, text(one.problem, "span")));
  if (!models.length) { fill(main, h("h1", {}, t("nav_chat")), problems, h("p", {}, prose(t("no_models")))); return; }
  const options = models.map((one) => [one.key, one.server === HERE ? one.id : `${one.id} · ${one.server}`]);
  const sides = [{ key: models[0].key, history: [] }, { key: models[1]?.key ?? "", history: [] }];
  const heads = h("div.columns"), talk = h("div", { "aria-live": "polite" });
  const system = h("textarea", { rows: 2, dir: "auto", value: models[0].system ?? "" });
  const settings = { temperature: h("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0.8 }), top_p: h("input", { type: "number", min: 0.05, max: 1, step: 0.05, value: 0.9 }), max_tokens: h("input", { type: "number", min: 1, step: 1, value: 400 }) };
  const question = h("textarea", { rows: 3, dir: "auto", required: true, onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); } } });
  const send = h("button.main", { type: "submit", id: "send" }, t("send"));
  const cease = h("button", { type: "button", id: "cease", disabled: true }, t("cease"));
  const model = (side) => models.find((one) => one.key === side.key);
  const active = () => sides.filter((side) => side.key);

  function heading(at) {
    const choices = at ? [["", t("no_second")], ...options] : options;
    return field(at ? t("second_model") : t("first_model"), select(choices, sides[at].key, (event) => {
      sides[at].key = event.target.value;
      if (!at) system.value = model(sides[0]).system ?? "";
      anew();
    }));
  }

  function anew() { for (const side of sides) side.history = []; fill(talk); }

  async function answer(side, messages, place, stop) {
    const body = { model: model(side).id, messages };
    for (const [key, input] of Object.entries(settings)) if (input.value !== "") body[key] = Number(input.value);
    const [path, asked] = model(side).server === HERE ? ["/v1/chat/completions", { ...body, stream: true }] : ["/studio/chat/answer", { ...body, server: model(side).server }];
    let said = "";
    for await (const event of postEvents(path, asked, stop)) {
      if (event.data === "[DONE]") break;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Error(chunk.error.message);
      said += chunk.choices?.[0]?.delta?.content ?? "";
      place.textContent = said;
    }
    return said;
  }

  async function ask(event) {
    event.preventDefault();
    const said = question.value.trim();
    if (!said || send.disabled) return;
    question.value = "";
    send.disabled = true;
    cease.disabled = false;
    const stop = new AbortController();
    cease.onclick = () => stop.abort();
    signal.addEventListener("abort", () => stop.abort(), { signal: stop.signal });
    const turns = active().map((side) => {
      const opening = system.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
      const before = [...opening, ...side.history, { role: "user", content: said }];
      return { side, before, place: text(""), tools: h("div"), answer: null };
    });
    talk.append(h("div.message.user", {}, h("h4", {}, t("you")), text(said)),
      h("div.columns", {}, turns.map((turn) => h("div.card", {}, h("h3", {}, name(model(turn.side).id)), turn.place, turn.tools))));
    talk.lastElementChild.scrollIntoView({ block: "nearest" });
    await Promise.all(turns.map(async (turn) => {
      try {
        turn.answer = await answer(turn.side, turn.before, turn.place, stop.signal);
        turn.side.history.push({ role: "user", content: said }, { role: "assistant", content: turn.answer });
      } catch (error) {
        turn.tools.append(h("p.problem", {}, error.name === "AbortError" ? t("ceased") : error.message));
      }
    }));
    for (const turn of turns) if (turn.answer) fill(turn.tools, judge(turn, turns));
    send.disabled = false;
    cease.disabled = true;
    question.focus();
  }

  function judge(turn, turns) {
    const other = turns.find((one) => one !== turn && one.answer && JSON.stringify(one.before) === JSON.stringify(turn.before));
    const tell = async (more) => {
      const told = await post("/studio/chat/feedback", { messages: turn.before, ...more });
      notice(t("kept_in", { file: told.file }));
    };
    const better = async () => {
      await tell({ answer: turn.answer, worse: other.answer });
      for (const { side } of turns) side.history[side.history.length - 1] = { role: "assistant", content: turn.answer };
      mark(up);
    };
    const mark = (button) => { for (const one of [up, down]) one.setAttribute("aria-pressed", String(one === button)); };
    const up = h("button", { type: "button", "aria-pressed": "false", "aria-label": t(other ? "better" : "good"), title: t(other ? "better" : "good"),
      onclick: async () => { if (other) await better(); else { await tell({ answer: turn.answer, liked: true }); mark(up); } } }, "👍");
    const down = h("button", { type: "button", "aria-pressed": "false", "aria-label": t("poor"), title: t("poor"),
      onclick: async () => { await tell({ answer: turn.answer, liked: false }); mark(down); } }, "👎");
    const editor = h("div");
    const pen = h("button", { type: "button", onclick: () => {
      const area = h("textarea", { rows: 5, value: turn.answer, dir: "auto" });
      fill(editor, field(t("better_answer"), area), h("button.main", { type: "button", onclick: async () => {
        const said = area.value.trim();
        if (!said || said === turn.answer) return;
        await tell({ answer: said, worse: turn.answer });
        turn.side.history[turn.side.history.length - 1] = { role: "assistant", content: said };
        turn.place.textContent = turn.answer = said;
        fill(editor);
        pen.focus();
      } }, t("save_edit")));
      area.focus();
    } }, t("edit_row"));
    return [h("div.bar", {}, up, down, pen), editor];
  }

  const form = h("form", { onsubmit: ask }, field(t("message"), question, t("message_aid")), h("div.bar", {}, send, cease, h("button", { type: "button", id: "anew", onclick: () => { anew(); question.focus(); } }, t("anew"))));
  fill(heads, heading(0), heading(1));
  fill(main, h("h1", {}, t("nav_chat")), problems, heads,
    h("details", { id: "chat-settings" }, h("summary", {}, t("chat_settings")), field(t("system_message"), system),
      h("div.columns", {}, field("temperature", settings.temperature, t("temperature_aid")), field("top_p", settings.top_p, t("top_p_aid")), field("max_tokens", settings.max_tokens, t("max_tokens_aid")))),
    talk, form);
}
