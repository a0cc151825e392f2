// Elements without markup in strings: what comes from a host or a person is text, whatever it says.

/** An element: h("a", {href: "#/", class: "x", onclick: f}, "text", other). */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** A table whose first column names its rows; columns are [title, row => content]. */
export function table(caption, columns, rows, none) {
  if (rows.length === 0) return h("p", { class: "faint" }, none);
  const [first, ...others] = columns;
  return h("table", null,
    h("caption", null, caption),
    h("thead", null, h("tr", null, columns.map(([title]) => h("th", { scope: "col" }, title)))),
    h("tbody", null, rows.map((row) => h("tr", null,
      h("th", { scope: "row" }, first[1](row)),
      others.map(([title, show]) => {
        const shown = show(row);
        return h("td", { "data-name": title }, shown === "" ? null : shown);
      })))));
}

/** So many of them, as one says it. */
export const count = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

/** A list of names and values. */
export const facts = (pairs) => h("dl", null, pairs
  .filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));

const STATES = {
  ok: ["ok", "✓"], converging: ["busy", "…"], retrying: ["busy", "↻"], pending: ["busy", "…"], maintenance: ["busy", "‖"],
  degraded: ["bad", "!"], failed: ["bad", "✗"], disconnected: ["bad", "?"], firing: ["bad", "!"], resolved: ["ok", "✓"],
  running: ["busy", "…"], paused: ["busy", "‖"], stopped: ["bad", "✗"], cancelled: ["bad", "✗"], done: ["ok", "✓"],
  acknowledged: ["busy", "☑"], silenced: ["busy", "‖"],
  on: ["ok", "✓"], off: ["", "·"], coming: ["busy", "…"], going: ["busy", "…"], missing: ["bad", "!"],
  refused: ["bad", "✗"], "cut off": ["bad", "?"], answers: ["ok", "✓"], "does not answer": ["bad", "!"],
};

/** A state as a sign and its word: colour says nothing that they do not. */
export function state(word) {
  const [kind, sign] = STATES[word] ?? ["", "·"];
  return h("span", { class: `state ${kind}` }, h("span", { "aria-hidden": "true" }, `${sign} `), word ?? "unknown");
}

/** A moment, as how long ago; in full where it is pointed at. */
export function ago(moment) {
  if (!moment) return "never";
  const seconds = Math.round((Date.now() - Date.parse(moment)) / 1000);
  const [future, length] = [seconds < 0, Math.abs(seconds)];
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = units.find(([size]) => length >= 2 * size) ?? [1, "s"];
  const words = `${Math.floor(length / size)} ${unit}`;
  return h("time", { datetime: moment, title: moment }, future ? `in ${words}` : `${words} ago`);
}

/** A fault in words: what, why, what to do. */
export const words = (fault) => !fault ? "" : typeof fault === "string" ? fault
  : [fault.what, fault.why].filter(Boolean).join(": ") + (fault.fix ? `; ${fault.fix}` : "");

export function field(label, input, hint) {
  input.id ||= `f-${label.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  const wrong = h("p", { class: "wrong", id: `${input.id}-wrong`, hidden: true });
  input.setAttribute("aria-describedby", `${input.id}-wrong`);
  const box = h("div", null, h("label", { for: input.id }, label), input, hint && h("p", { class: "hint" }, hint), wrong);
  box.wrong = (text) => {
    wrong.textContent = text ?? "";
    wrong.hidden = !text;
    input.setAttribute("aria-invalid", text ? "true" : "false");
    return !text;
  };
  return box;
}

export const tick = (label, props) => {
  const input = h("input", { type: "checkbox", ...props });
  return Object.assign(h("label", { class: "tick" }, input, label), { input });
};

export function copyable(text) {
  const done = h("span", { role: "status", class: "faint" });
  return h("div", null, h("pre", { tabindex: "0" }, text),
    h("button", { onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        done.textContent = " copied";
      } catch {
        done.textContent = " the browser does not allow it: select the text";
      }
    } }, "Copy"), done);
}
