// The loss of one run or several on one plot: while training (a line) and on held-out rows (dots joined by a line).
import { h } from "./dom.js";
import { follow } from "./net.js";
import { number, t } from "./texts.js";

const COLOURS = 4;
const STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((one) => [one, 2 * one, 5 * one]);

// The points of one run, as columns by step. Lines of the same step are one point.
export class Points {
  constructor() { this.clear(); }
  clear() { this.step = []; this.loss = []; this.held = []; this.last = {}; }
  add(points) {
    for (const point of points) {
      let at = this.step.length - 1;
      if (at < 0 || this.step[at] !== point.step) {
        at = this.step.push(point.step) - 1;
        this.loss.push(null);
        this.held.push(null);
      }
      if (point.loss !== undefined) this.loss[at] = point.loss;
      if (point.eval_loss !== undefined) this.held[at] = point.eval_loss;
      Object.assign(this.last, point);
    }
  }
}

export class Curve {
  constructor(ids, label, signal, onPoint = () => {}) {
    this.runs = ids.map((id) => ({ id, label: label(id), points: new Points() }));
    this.place = h("div.curve");
    this.reading = h("p.aid", { id: "reading" }, "\u00a0");
    this.legend = h("ul.legend");
    this.element = h("figure", { role: "group", "aria-label": t("curve_title") }, this.place, this.legend, this.reading);
    this.signal = signal;
    for (const run of this.runs) {
      const take = (event, data) => {
        if (event === "reset") run.points.clear();
        else run.points.add(data);
        onPoint(run.id, run.points.last);
        this.soon();
      };
      follow(`/studio/runs/${encodeURIComponent(run.id)}/metrics`, take, signal, (on) => { this.live = on; });
    }
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.place);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => this.build();
    scheme.addEventListener("change", redraw, { signal });
    signal.addEventListener("abort", () => { this.observer.disconnect(); this.plot?.destroy(); });
  }

  soon() { this.waiting ||= requestAnimationFrame(() => { this.waiting = 0; this.draw(); }); }

  data() {
    const tables = this.runs.map(({ points }) => [points.step, points.loss, points.held]);
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  draw() {
    if (this.signal.aborted) return;
    if (!this.plot) this.build();
    else this.plot.setData(this.data());
    this.element.dataset.points = this.runs.reduce((sum, run) => sum + run.points.step.length, 0);
    const told = this.runs.map(({ label, points: { last } }) =>
      `${label}: ${t("step")} ${number(last.step)}, ${t("train_loss")} ${number(last.loss, 3)}, ${t("held_out_loss")} ${number(last.eval_loss, 3)}`);
    this.place.setAttribute("aria-label", told.join("; "));
  }

  resize() {
    const width = this.place.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
  }

  build() {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => resolve(this.place, style.getPropertyValue(name));
    const ink = colour("--faint"), grid = colour("--line");
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const series = [{}];
    this.legend.replaceChildren();
    this.runs.forEach(({ label }, at) => {
      const alone = this.runs.length === 1;
      const train = colour(`--curve-${alone ? 1 : at % COLOURS + 1}`);
      const held = alone ? colour("--curve-2") : train;
      series.push({ stroke: train, width: 1.5, points: { show: false }, spanGaps: true });
      series.push({ stroke: held, width: 1.5, dash: [6, 4], spanGaps: true, points: { show: true, size: 7, fill: held } });
      const of = alone ? "" : `${label}: `;
      this.legend.append(entry(train, "", of + t("train_loss")), entry(held, "5 3", of + t("held_out_loss")));
    });
    const options = {
      width: this.place.clientWidth || 600, height: innerWidth < 480 ? 260 : 320, series,
      scales: { x: { time: false } }, legend: { show: false },
      axes: [{ ...axis, label: t("step"), incrs: STEPS, size: 40 }, { ...axis, label: t("loss_axis"), size: 60 }],
      cursor: { y: false }, hooks: { setCursor: [(plot) => this.read(plot)] },
    };
    this.place.setAttribute("role", "img");
    this.plot = new uPlot(options, this.data(), this.place);
  }

  read(plot) {
    const at = plot.cursor.idx;
    if (at === null || at === undefined) { this.reading.textContent = "\u00a0"; return; }
    const parts = [`${t("step")} ${number(plot.data[0][at])}`];
    this.runs.forEach(({ label }, run) => {
      for (const [row, kind] of [[1, "train_loss"], [2, "held_out_loss"]]) {
        const value = plot.data[run * 2 + row][at];
        if (value !== null && value !== undefined) parts.push(`${this.runs.length > 1 ? `${label}, ` : ""}${t(kind)} ${number(value, 3)}`);
      }
    });
    this.reading.textContent = parts.join(" · ");
  }
}

// A colour of the style sheet as a canvas takes it: light-dark() is decided by where it stands.
function resolve(place, value) {
  place.style.color = value;
  const found = getComputedStyle(place).color;
  place.style.color = "";
  return found;
}

function entry(colour, dash, label) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("width", "28");
  picture.setAttribute("height", "10");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  for (const [key, value] of Object.entries({ d: "M0 5h28", stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash })) line.setAttribute(key, value);
  picture.append(line);
  return h("li", {}, picture, h("bdi", {}, label));
}
