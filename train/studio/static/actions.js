// Buttons for what can be done with a run, each with the command that it runs, and what the commands have printed.
import { h, notice, prose, text } from "./dom.js";
import { post } from "./net.js";
import { t } from "./texts.js";

const LABELS = { stop: "do_stop", resume: "do_resume", eval: "do_eval", merge: "do_merge", export: "do_export" };

export function buttons(run, after) {
  if (run.job && run.state === "training") return h("p.aid", {}, prose(t("belongs_to_job", { id: run.id })));
  return h("div.bar", {}, run.commands.map(({ verb, target, command }) => h("button", {
    type: "button", id: `do-${run.id}-${verb}-${target ?? ""}`, title: t("runs_command", { command }),
    onclick: async (event) => {
      event.target.disabled = true;
      try {
        const told = await post(`/studio/runs/${encodeURIComponent(run.id)}/${verb}`, { target });
        notice(told.stopped ? t("stop_sent", { pid: told.stopped }) : t("begun", { command: told.command }));
      } finally {
        event.target.disabled = false;
      }
      await after();
    },
  }, t(verb === "eval" && target ? `do_eval_${target}` : LABELS[verb], { target }))), run.commands.length > 0 && h("details", { id: `commands-${run.id}` },
    h("summary", {}, t("show_commands")), run.commands.map(({ command }) => h("div", {}, h("code", { dir: "ltr" }, command)))));
}

export function printed(commands) {
  if (!commands.length) return null;
  return h("section", {}, h("h2", {}, t("commands")), commands.map(({ id, command, exit_code: ended, output }) => {
    const code = ended && /stopped after step \d+ and saved/.test(output) ? 130 : ended;
    return     h("details", { id: `printed-${id}` },
      h("summary", {}, h("code", { dir: "ltr" }, command), " – ", h(code === null ? "span" : code === 0 || code === 130 ? "span.good" : "span.bad", {},
        code === null ? t("running") : code === 0 ? t("exit_ok") : code === 130 ? t("stopped_saved") : t("exit_code", { code }))),
      text(plain(output), "pre"));
  }));
}

// A terminal's output without the codes that steer it; what a carriage return was to overwrite is left out.
const plain = (output) => output.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").split("\n").map((line) => line.split("\r").filter(Boolean).pop() ?? "").join("\n");
