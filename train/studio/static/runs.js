// All runs: their losses on one plot, live, and what can be done with each.
import { buttons, printed } from "./actions.js";
import { Curve } from "./curve.js";
import { facts, fill, h, name, prose } from "./dom.js";
import { every } from "./every.js";
import { get, post } from "./net.js";
import { duration, moment, number, t } from "./texts.js";

export async function show(main, { about, signal }) {
  const plot = h("div"), list = h("div"), output = h("div"), jobs = h("div");
  fill(main, h("h1", {}, t("nav_runs")), plot, list, jobs, output);
  let chosen = null, drawing = null, before = "";

  function draw() {
    drawing?.abort();
    drawing = new AbortController();
    signal.addEventListener("abort", () => drawing.abort(), { signal: drawing.signal });
    const ids = [...chosen];
    fill(plot, ids.length > 0 && new Curve(ids, (id) => id, drawing.signal).element);
  }

  function choose(id, on) {
    if (on) chosen.add(id); else chosen.delete(id);
    draw();
  }

  async function refresh() {
    const [{ runs }, { commands }] = await Promise.all([get("/studio/runs", signal), get("/studio/commands", signal)]);
    if (!chosen && runs.length) {
      chosen = new Set([(runs.find((run) => run.step !== null) ?? runs[0]).id]);
      draw();
    }
    const now = JSON.stringify([runs, commands]);
    if (now === before) return;
    before = now;
    fill(list, runs.length ? runs.map((run) => card(run, chosen.has(run.id), choose, refresh)) : h("p", {}, prose(t("no_runs"))));
    fill(output, printed(commands));
    if (about.jobs) await showJobs(jobs, signal, refresh);
  }
  await refresh();
  every(1500, signal, refresh);
}

export function card(run, chosen, choose, refresh) {
  const box = h("input", { type: "checkbox", id: `plot-${run.id}`, checked: chosen, onchange: (event) => choose(run.id, event.target.checked) });
  return h("article.card", { "aria-label": run.id, "data-run": run.id },
    h("h2", {}, h("a", { href: `#run/${encodeURIComponent(run.id)}`, id: `open-${run.id}` }, name(run.id)), " ", state(run)),
    run.problem && h("p.problem", {}, name(run.problem)),
    runFacts(run),
    buttons(run, refresh),
    run.step !== null && h("label", {}, box, " ", t("on_plot")));
}

export const state = (run) => h(`span.state.${run.state}`, {}, t(`state_${run.state}`), run.state === "working" ? `: ${run.doing}` : "");

export function runFacts(run) {
  const steps = run.step === null ? null : run.steps ? t("of", { a: number(run.step), b: number(run.steps) }) : number(run.step);
  return facts([
    [t("base"), run.base && name(run.base)],
    [t("method"), run.method],
    [t("rows"), run.rows && number(run.rows)],
    [t("rows_held_out"), run.held_out === null ? null : number(run.held_out)],
    [t("step"), steps],
    [t("train_loss"), run.loss === null ? null : number(run.loss, 3)],
    [t("held_out_loss"), run.eval_loss === null ? null : number(run.eval_loss, 3)],
    [t("speed"), run.tokens_per_second && number(run.tokens_per_second)],
    [t("tokens_seen"), run.tokens && number(run.tokens)],
    [t("left"), duration(run.seconds_left)],
    [t("memory"), run.memory_gib && `${number(run.memory_gib, 1)} GiB`],
    [t("checkpoints"), run.checkpoints.length ? run.checkpoints.map((each) => each.replace("checkpoint-", "")).join(", ") : null],
    [t("epoch"), run.epoch === null ? null : number(run.epoch, 2)],
    [t("started"), moment(run.started)],
    [t("ended"), moment(run.finished)],
  ]);
}

async function showJobs(place, signal, refresh) {
  const { data } = await get("/v1/fine_tuning/jobs?limit=20", signal);
  const cancel = async (id) => { await post(`/v1/fine_tuning/jobs/${id}/cancel`, {}); await refresh(); };
  const live = ["validating_files", "queued", "running", "paused"];
  fill(place, h("h2", {}, t("jobs")), !data.length ? h("p", {}, t("no_jobs")) : h("div.scroll", {}, h("table", {},
    h("thead", {}, h("tr", {}, ["job", "status", "base", "model"].map((key) => h("th", {}, t(key))), h("th", {}))),
    h("tbody", {}, data.map((job) => h("tr", {}, h("td", {}, h("code", {}, job.id)), h("td", {}, job.status), h("td", {}, name(job.model)),
      h("td", {}, name(job.fine_tuned_model ?? "")), h("td", {}, live.includes(job.status) && h("button", { type: "button", id: `cancel-${job.id}`, onclick: () => cancel(job.id) }, t("cancel")))))))));
}
