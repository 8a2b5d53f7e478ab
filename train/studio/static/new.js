// A new training: rows, base, method, a few options, what they need by `govor plan`; and chats dropped on the page.
import { printed } from "./actions.js";
import { facts, field, fill, h, notice, select, text } from "./dom.js";
import { every } from "./every.js";
import { get, post, upload } from "./net.js";
import { duration, number, t } from "./texts.js";

export async function show(main, { signal }) {
  const output = h("div"), planned = h("div"), dropped = h("div");
  const { rows, bases, gpus } = await get("/studio/new", signal);
  const list = h("datalist", { id: "bases" }, bases.map((value) => h("option", { value })));
  const form = {
    name: h("input", { type: "text", required: true, pattern: "[\\p{L}\\p{N}_][\\p{L}\\p{N}_.\\-]*", autocomplete: "off" }),
    rows: select(rows.map((one) => [one, one]), rows[0]),
    base: h("input", { type: "text", list: "bases", required: true, autocomplete: "off", value: bases[0] }),
    method: select([["lora", t("method_lora")], ["qlora", t("method_qlora")], ["full", t("method_full")]], "lora"),
    num_train_epochs: h("input", { type: "number", min: 0.1, step: "any", value: 3 }),
    max_steps: h("input", { type: "number", min: 1, step: 1 }),
    learning_rate: h("input", { type: "number", min: 0, step: "any", value: 0.0002 }),
    r: h("input", { type: "number", min: 1, step: 1, value: 16 }),
    max_length: h("input", { type: "number", min: 1, step: 1, value: 2048 }),
    too_long: select(["error", "drop", "truncate", "split"].map((one) => [one, t(`long_${one}`)]), "error"),
    use_cpu: h("input", { type: "checkbox" }),
    prompts: h("textarea", { rows: 3, dir: "auto" }),
  };
  const gpu = h("input", { type: "text", list: "gpus", autocomplete: "off" });
  const cards = h("datalist", { id: "gpus" }, gpus.map((value) => h("option", { value })));

  function asked() {
    const value = (key) => form[key].value.trim();
    const whole = { name: value("name"), rows: value("rows"), base: value("base"), method: value("method"), too_long: value("too_long"), use_cpu: form.use_cpu.checked };
    for (const key of ["num_train_epochs", "max_steps", "learning_rate", "r", "max_length"]) if (value(key)) whole[key] = Number(value(key));
    whole.prompts = value("prompts").split("\n").map((one) => one.trim()).filter(Boolean);
    return whole;
  }

  async function plan(button) {
    if (!page.reportValidity()) return;
    button.disabled = true;
    fill(planned, h("p.aid", { role: "status" }, t("planning")));
    try {
      fill(planned, needs(await post("/studio/new/plan", { ...asked(), gpu: gpu.value.trim() || null }, signal)));
    } catch (error) {
      fill(planned, h("p.problem", { role: "alert" }, text(error.message, "span")));
    } finally {
      button.disabled = false;
    }
  }

  async function start(event) {
    event.preventDefault();
    const told = await post("/studio/new/start", asked());
    notice(t("begun", { command: told.command }));
    await refresh();
  }

  async function take(file) {
    fill(dropped, h("p.aid", { role: "status" }, t("reading_export")));
    try {
      const { upload: id, people } = await upload(`/studio/new/export?name=${encodeURIComponent(file.name)}`, file, signal);
      const who = select(people.map((one) => [one.id, `${one.name || one.id} (${number(one.messages)})`]), people[0]?.id);
      const scrub = h("input", { type: "checkbox", checked: true });
      fill(dropped, people.length ? [field(t("persona"), who, t("persona_aid")), field(t("scrub"), scrub, t("scrub_aid"), true),
        h("button.main", { type: "button", id: "collect", onclick: async () => {
          const told = await post("/studio/new/collect", { upload: id, persona: who.value, scrub: scrub.checked });
          notice(t("begun", { command: told.command }));
          await refresh();
        } }, t("collect"))] : h("p.problem", {}, t("nobody")));
    } catch (error) {
      fill(dropped, h("p.problem", { role: "alert" }, text(error.message, "span")));
    }
  }

  const picker = h("input", { type: "file", id: "export-file", onchange: () => picker.files[0] && take(picker.files[0]) });
  const drop = h("div.drop", {
    ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
    ondragleave: () => drop.classList.remove("over"),
    ondrop: (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); },
  }, h("label", { for: "export-file" }, t("drop_here")), picker, h("small.aid", {}, t("drop_aid")));
  let seen = null;
  async function refresh() {
    const { commands } = await get("/studio/commands", signal);
    const now = JSON.stringify(commands);
    if (now === seen) return;
    seen = now;
    fill(output, printed(commands.filter((one) => /^govor (train|collect) /.test(one.command))));
    const fresh = await get("/studio/new", signal);
    const chosen = form.rows.value;
    fill(form.rows, fresh.rows.map((value) => h("option", { value, selected: value === chosen }, value)));
  }
  const look = h("button", { type: "button", id: "plan", onclick: (event) => plan(event.target) }, t("plan"));
  const page = h("form.card", { onsubmit: start }, h("h2", {}, t("training")), list, cards,
    h("div.columns", {}, field(t("run_name"), form.name, t("run_name_aid")), field(t("rows_file"), form.rows, t("rows_file_aid")), field(t("base"), form.base, t("base_aid")),
      field(t("method"), form.method, t("method_aid")), field(t("epochs"), form.num_train_epochs, t("epochs_aid")), field(t("max_steps"), form.max_steps, t("max_steps_aid")),
      field(t("rate"), form.learning_rate, t("rate_aid")), field(t("rank"), form.r, t("rank_aid")), field(t("max_length"), form.max_length, t("max_length_aid")),
      field(t("too_long"), form.too_long, t("too_long_aid")), field(t("gpu"), gpu, t("gpu_aid"))),
    field(t("use_cpu"), form.use_cpu, t("use_cpu_aid"), true), field(t("prompts"), form.prompts, t("prompts_aid")),
    h("div.bar", {}, look, h("button.main", { type: "submit", id: "start" }, t("start"))), planned);
  fill(main, h("h1", {}, t("nav_new")), h("section.card", {}, h("h2", {}, t("from_chats")), drop, dropped), page, output);
  await refresh();
  every(1500, signal, refresh);
}

function needs({ config, command, plan }) {
  const gib = (bytes) => `${number(bytes / 2 ** 30, 1)} GiB`;
  const cards = plan.gpu ? plan.gpus : plan.gpus.filter((one) => one.fits);
  const time = (one) => one.seconds ? `${duration(one.seconds[0])} – ${duration(one.seconds[1])}` : "–";
  const prices = plan.prices.filter((one) => one.cost !== null).slice(0, 8);
  return h("section", {}, h("h3", {}, t("needs")), h("p.aid", {}, h("code", { dir: "ltr" }, command)),
    plan.gpu && h("p", {}, h(plan.gpu.fits ? "strong.good" : "strong.bad", {}, t(plan.gpu.fits ? "fits" : "fits_not", { gpu: plan.gpu.name }))),
    facts([[t("memory_needed"), gib(plan.memory.peak)], [t("rows"), number(plan.tokens.rows)], [t("rows_held_out"), number(plan.tokens.held_out_rows)], [t("steps"), number(plan.steps)],
      [t("tokens_run"), number(plan.tokens.run)], [t("longest_row"), number(plan.tokens.longest_row)], [t("too_long_rows"), plan.tokens.too_long ? number(plan.tokens.too_long) : null]]),
    cards.length > 0 && h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ["gpu_card", "memory_column", "fits_column", "time_column"].map((key) => h("th", {}, t(key))))),
      h("tbody", {}, cards.slice(0, 8).map((one) => h("tr", {}, h("td", {}, one.name), h("td", {}, gib(one.memory)), h("td", {}, t(one.fits ? "yes" : "no")), h("td", {}, time(one))))))),
    prices.length > 0 && h("details", { id: "prices" }, h("summary", {}, t("hosted")), h("table", {}, h("tbody", {}, prices.map((one) => h("tr", {}, h("td", {}, `${one.service} ${one.model ?? ""}`), h("td", {}, `$${number(one.cost, 2)}`), h("td", {}, one.as_of)))))),
    h("p.aid", {}, t("estimated")),
    h("details", { id: "new-config" }, h("summary", {}, t("whole_config")), text(config, "pre")));
}
