// Elements from plain values. Text is only ever text: nothing here, or in any page, makes HTML of a string.

export function h(tag, options = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Puts new children in a place; what had the focus keeps it, and what was opened stays open, by their ids.
export function fill(place, ...children) {
  const focused = document.activeElement?.id;
  const inside = focused && place.contains(document.activeElement);
  const open = new Set([...place.querySelectorAll("details[open][id]")].map((one) => one.id));
  place.replaceChildren(...children.flat(9).filter(Boolean));
  for (const one of place.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
  if (inside) document.getElementById(focused)?.focus({ preventScroll: true });
}

// Text of somebody else: marks that turn the direction of writing end with it.
export const text = (value, tag = "div") => h(`${tag}.text`, { dir: "auto" }, String(value ?? ""));
// A text of our own in which commands stand between backticks.
export const prose = (value) => value.split("`").map((part, at) => at % 2 ? h("code", { dir: "ltr" }, part) : part);
export const name = (value) => h("bdi.name", {}, String(value ?? ""));

export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl.facts", {}, known.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

export function field(label, input, aid, inline = false) {
  input.id ||= `field-${++field.count}`;
  const parts = [h("label", { for: input.id }, label), input];
  if (aid) input.setAttribute("aria-describedby", `${input.id}-aid`);
  return h(inline ? "div.field.inline" : "div.field", {}, inline ? parts.reverse() : parts,
    aid && h("small", { id: `${input.id}-aid` }, aid));
}
field.count = 0;

export function select(options, chosen, onchange) {
  return h("select", { onchange }, options.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
}

export function notice(message, bad = false) {
  const line = h("p", {}, bad ? "⚠ " : "", text(message, "span"));
  document.getElementById("notice").append(line);
  setTimeout(() => line.remove(), bad ? 12000 : 5000);
}
