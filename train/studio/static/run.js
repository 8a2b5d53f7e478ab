// One run: its curve, and whatever else its folder holds.
import { buttons, printed } from "./actions.js";
import { Curve } from "./curve.js";
import { fill, h, name, prose, text } from "./dom.js";
import { every } from "./every.js";
import { get } from "./net.js";
import { runFacts, state } from "./runs.js";
import { language, number, t } from "./texts.js";

export async function show(main, { id, signal }) {
  const head = h("div"), rest = h("div"), output = h("div");
  const curve = new Curve([id], (each) => each, signal);
  fill(main, h("p", {}, h("a", { href: "#runs" }, `← ${t("back")}`)), head, curve.element, rest, output);
  let before = "";
  async function refresh() {
    const [told, { commands }] = await Promise.all([get(`/studio/runs/${encodeURIComponent(id)}`, signal), get("/studio/commands", signal)]);
    const now = JSON.stringify([told, commands]);
    if (now === before) return;
    before = now;
    fill(head, h("h1", {}, name(id), " ", state(told.run)), told.run.problem && h("p.problem", {}, name(told.run.problem)),
      h("p.aid", {}, `${t("folder")}: `, name(told.run.path)), runFacts(told.run), buttons(told.run, refresh));
    if (told.options) fill(rest, warnings(told), verdict(told), trust(told), samples(told), account(told), settings(told));
    fill(output, printed(commands.filter((one) => one.run === id)));
  }
  await refresh();
  every(2500, signal, refresh);
}

const section = (title, ...children) => h("section", {}, h("h2", {}, title), children);

function warnings({ warnings: found }) {
  return found?.length > 0 && section(t("warnings"), h("ul", {}, found.map((one) => h("li.warning", {}, text(one, "span")))));
}

function verdict({ evaluation, evaluated }) {
  const losses = evaluation?.base_loss && h("p", {}, t("loss_before_after", { a: number(evaluation.base_loss, 3), b: number(evaluation.tuned_loss, 3) }));
  if (!evaluated) return section(t("verdict"), losses, !losses && h("p", {}, prose(t("not_evaluated"))));
  const states = evaluated.checkpoints ?? [];
  return section(t("verdict"), h("p", {}, h("strong", {}, evaluated.verdict[language])), losses,
    states.length > 0 && h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, t("checkpoints")), h("th", {}, t("manner")), h("th", {}, t("recites")))),
      h("tbody", {}, states.map((one) => h("tr", {}, h("td", {}, one.name),
        h("td", {}, one.position ? `${number(one.position.value, 2)} (${number(one.position.low, 2)}–${number(one.position.high, 2)})` : t("not_measured")),
        h("td", {}, one.recites === null ? "–" : t(one.recites ? "yes" : "no")))))),
    evaluated.keep && h("p", {}, `${t("keep")}: ${evaluated.keep}`),
    evaluated.not_measured?.length > 0 && h("details", { id: "not-measured" }, h("summary", {}, t("not_measured")),
      h("ul", { lang: "en" }, evaluated.not_measured.map((one) => h("li", {}, one)))));
}

function trust({ parity, merge }) {
  const kl = merge?.drift?.[merge.target]?.mean_kl;
  const passed = merge?.passed;
  return section(t("trust"),
    parity && h("p", {}, parity.differing.length ? t("parity_bad", { d: parity.differing.length, n: parity.prompts }) : t("parity_ok", { n: parity.prompts })),
    h("p", {}, !merge ? t("not_merged") : kl === undefined ? t("drift_not_measured") : t("drift", { kl: number(kl, 5) }),
      passed === true && h("span.good", {}, " ", t("drift_passed")), passed === false && h("span.bad", {}, " ", t("drift_failed"))));
}

function samples({ answers, samples_file: file, run }) {
  const title = (one) => one === "base" ? t("state_base") : one === "tuned" ? t("state_tuned") : one;
  return section(t("samples"), h("p.aid", {}, prose(t("samples_aid", { path: run.path }))),
    answers && answers.prompts.map((prompt, at) => h("details", { id: `prompt-${at}`, open: at === 0 },
      h("summary", {}, text(prompt.messages.at(-1).content.slice(0, 160), "span")),
      prompt.messages.map((one) => h("div.message", {}, h("h4", {}, one.role), text(one.content))),
      h("div.columns", {}, prompt.answers.map((answer, state) => answer !== null && h("div.card", {}, h("h3", {}, title(answers.states[state])), text(answer))),
        h("div.card", {}, h("h3", {}, t("real_answer")), text(prompt.real))))),
    file && h("details", { id: "samples-file" }, h("summary", {}, t("samples_file")), text(file, "pre")));
}

function account({ data }) {
  const kinds = [["to_train", data?.train], ["held", data?.held_out]].filter(([, one]) => one);
  const lines = [["file", (one) => one.file && name(one.file)], ["rows", (one) => number(one.rows)], ["tokens", (one) => number(one.tokens)],
    ["trained_tokens", (one) => number(one.trained_tokens)], ["left_out", (one) => number(one.dropped?.length ?? 0)],
    ["cut_rows", (one) => number(one.truncated?.length ?? 0)], ["split_rows", (one) => number(one.split?.length ?? 0)]];
  return section(t("data_account"), h("div.scroll", {}, h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}), kinds.map(([key]) => h("th", {}, t(key))))),
    h("tbody", {}, lines.map(([key, cell]) => h("tr", {}, h("th", {}, t(key)), kinds.map(([, one]) => h("td", {}, cell(one)))))))),
    data?.system_message && h("p", {}, `${t("system_message")}: `, text(data.system_message, "span")));
}

function settings({ options, config }) {
  const shown = (value) => value === null ? t("none") : typeof value === "object" ? JSON.stringify(value) : String(value);
  return section(t("settings"), h("div.scroll", {}, h("table", {},
    h("thead", {}, h("tr", {}, ["option", "value", "default"].map((key) => h("th", {}, t(key))))),
    h("tbody", {}, options.map((one) => h("tr", {}, h("td", {}, h("code", {}, one.option)), h("td", {}, name(shown(one.value))), h("td", {}, one.default === null ? "" : shown(one.default))))))),
    h("details", { id: "whole-config" }, h("summary", {}, t("whole_config")), text(config, "pre")));
}
