// A file of rows: paged and searched, each row as the model sees it, with what validate says; kept, dropped or edited.
import { field, fill, h, name, notice, prose, select, text } from "./dom.js";
import { get, post } from "./net.js";
import { number, t } from "./texts.js";

const COUNT = 10;

export async function show(main, { signal, id }) {
  const { files, configs } = await get("/studio/rows", signal);
  if (!files.length) { fill(main, h("h1", {}, t("nav_rows")), h("p", {}, prose(t("no_files")))); return; }
  const view = { file: files.some((one) => one.id === id) ? id : files[0].id, start: 0, search: "", config: "", signal };
  const list = h("div"), counts = h("div"), checks = h("div");
  const api = () => `/studio/rows/${encodeURIComponent(view.file)}`;

  let newest = 0;  // an answer that is overtaken by a later question is not shown

  async function draw() {
    const own = ++newest;
    const page = await get(`${api()}?start=${view.start}&count=${COUNT}&search=${encodeURIComponent(view.search)}`, signal);
    if (own !== newest) return;
    const last = Math.min(view.start + COUNT, page.found);
    fill(counts, h("div.bar", { role: "status" }, h("span", {}, page.found ? t("rows_shown", { a: number(view.start + 1), b: number(last), c: number(page.found), d: number(page.rows) }) : t("nothing_found")),
      h("button", { type: "button", id: "earlier", disabled: view.start === 0, onclick: () => turn(-COUNT) }, t("previous")),
      h("button", { type: "button", id: "later", disabled: last >= page.found, onclick: () => turn(COUNT) }, t("next")),
      page.decided.y + page.decided.n + page.decided.edit > 0 && h("span", {}, t("decided", { y: number(page.decided.y), n: number(page.decided.n), e: number(page.decided.edit) }))));
    const seen = view.config && page.lines.length ? await look(page.lines) : new Map();
    if (!signal.aborted && own === newest) fill(list, page.lines.map((line) => card(line, seen.get(line.line))));
  }

  async function turn(by) { view.start = Math.max(0, view.start + by); await draw(); scrollTo(0, 0); }

  async function look(lines) {
    const valid = lines.filter((one) => !one.errors.length).map((one) => one.line);
    if (!valid.length) return new Map();
    fill(list, h("p.aid", {}, t("looking")));
    try {
      const told = await get(`${api()}/seen?config=${encodeURIComponent(view.config)}&lines=${valid.join(",")}`, signal);
      return new Map(told.lines.map((one) => [one.line, one]));
    } catch (error) {
      if (!signal.aborted) notice(error.message, true);
      return new Map();
    }
  }

  async function decide(line, said, answer) {
    await post(`${api()}/decide`, { line: line.line, said, text: answer ?? null });
    await draw();
  }

  function card(line, seen) {
    const said = line.decision?.said;
    const button = (value, label) => h("button", { type: "button", id: `say-${line.line}-${value}`, "aria-pressed": String(said === value),
      onclick: () => value === "edit" ? edit(line) : decide(line, said === value ? null : value) }, label);
    const editor = h("div", { id: `editor-${line.line}` });
    return h("article.card", { "aria-label": t("line", { n: line.line }), "data-line": line.line },
      h("h2", {}, t("line", { n: number(line.line) })),
      line.errors.map((one) => h("p.problem", { lang: "en" }, "✗ ", text(one, "span"))),
      line.warnings.map((one) => h("p.warning", { lang: "en" }, "! ", text(one, "span"))),
      seen ? seenParts(seen) : line.raw !== null ? text(line.raw, "pre") : line.messages.map(message),
      said === "edit" && h("div.message.assistant", {}, h("h4", {}, t("edited_answer")), text(line.decision.text)),
      h("div.bar", {}, !line.errors.length && button("y", t("keep_row")), button("n", t("drop_row")), line.answer !== null && button("edit", t("edit_row"))), editor);
  }

  function edit(line) {
    const area = h("textarea", { value: line.decision?.text ?? line.messages[line.answer].text, rows: 6, dir: "auto" });
    fill(document.getElementById(`editor-${line.line}`), field(t("new_answer"), area), h("div.bar", {},
      h("button.main", { type: "button", onclick: () => decide(line, "edit", area.value) }, t("save_edit")),
      h("button", { type: "button", onclick: draw }, t("leave"))));
    area.focus();
  }

  async function check(event) {
    event.target.disabled = true;
    fill(checks, h("p.aid", {}, t("checking")));
    try {
      const [found, { groups }] = await Promise.all([get(`${api()}/check`, signal), get(`${api()}/alike`, signal)]);
      const problems = [...found.errors, ...found.warnings];
      fill(checks, h("p", {}, h(found.error_count ? "strong.bad" : "strong.good", {}, t("checked", { e: number(found.error_count), w: number(found.warning_count) }))),
        h("ul", { lang: "en" }, problems.slice(0, 20).map((one) => h("li", {}, one.line ? jump(one.line) : "", " ", text(one.message, "span")))),
        h("p", {}, t("alike_groups", { n: number(groups.length) })),
        h("ul", {}, groups.slice(0, 20).map((lines) => h("li", {}, lines.slice(0, 12).map((one) => [jump(one), " "])))));
    } finally {
      event.target.disabled = false;
    }
  }

  const jump = (line) => h("button", { type: "button", onclick: async () => {
    words.value = view.search = "";
    view.start = Math.max(0, line - 1);
    await draw();
  } }, t("line", { n: line }));

  const words = h("input", { type: "text", id: "search", autocomplete: "off" });
  const find = async (event) => { event.preventDefault(); view.search = words.value; view.start = 0; await draw(); };
  const target = h("input", { type: "text", id: "kept-name", value: view.file.replace(/\.jsonl.*$/, "_kept.jsonl") });
  async function write(event) {
    event.preventDefault();
    const told = await post(`${api()}/write`, { name: target.value.trim() });
    notice(t("written", { file: told.file, n: number(told.rows), d: number(told.dropped), e: number(told.edited) }));
  }
  fill(main, h("h1", {}, t("nav_rows")),
    h("div.columns", {},
      field(t("file"), select(files.map((one) => [one.id, `${one.id} (${number(one.bytes / 1e6, 1)} MB)`]), view.file, (event) => { location.hash = `rows/${encodeURIComponent(event.target.value)}`; })),
      field(t("seen_by"), select([["", t("seen_plain")], ...configs.map((one) => [one, one])], "", async (event) => { view.config = event.target.value; await draw(); }), t("seen_aid")),
      h("form", { onsubmit: find, role: "search" }, field(t("search"), words), h("button", { type: "submit" }, t("find")))),
    h("details", { id: "checks" }, h("summary", {}, t("whole_file")), h("p", {}, h("button", { type: "button", id: "check", onclick: check }, t("check_file"))), checks),
    counts, list,
    h("form.card", { onsubmit: write }, h("h2", {}, t("write_kept")), field(t("new_file"), target, t("write_aid")), h("button.main", { type: "submit", id: "write" }, t("write"))));
  await draw();
}

function message(one) {
  const shown = h("div.text", { dir: "auto" });
  let at = 0;
  for (const { start, end, kind } of one.personal) {
    shown.append(slice(one.text, at, start), h("mark.found", { title: `${t("personal")}: ${kind}` }, slice(one.text, start, end)));
    at = end;
  }
  shown.append(slice(one.text, at));
  return h(`div.message.${/^\w+$/.test(one.role) ? one.role : "other"}`, {}, h("h4", {}, name(one.role), one.personal.length > 0 && ` · ${t("personal")}: ${[...new Set(one.personal.map((found) => found.kind))].join(", ")}`),
    shown, one.calls && text(one.calls, "pre"));
}

// Places come in characters of Unicode, as Python counts them; JavaScript counts halves of emoji.
const slice = (value, start, end) => [...value].slice(start, end).join("");

function seenParts({ error, parts }) {
  if (error) return h("p.problem", { lang: "en" }, text(error, "span"));
  return parts.map((part) => h("div", {}, h("p.aid", {}, t("token_counts", { n: number(part.tokens), m: number(part.trained) }),
    part.cut > 0 && ` ${t("cut_count", { n: number(part.cut) })}`, part.fate && h("span", { lang: "en" }, ` ${part.fate}`)),
  h("div.bar.aid", {}, h("mark.seen", {}, t("legend_trained")), h("span.context", {}, t("legend_context")), part.cut > 0 && h("mark.cut", {}, t("legend_cut"))),
  h("div.text", { dir: "auto" }, part.stretches.map(([kind, piece]) => h(kind === "trained" ? "mark.seen" : kind === "cut" ? "mark.cut" : "span.context", {}, piece)))));
}
