import * as api from "./api.js";
import { ago, h, state, table } from "./dom.js";

/** As many as one looks through. */
const PART = 50;

/** Where the parts begin that were gone through; the newest has no mark. */
let trail = [];

export function auditList() {
  trail = [];
  return { title: "Audit", live: true, async draw() {
    const { entries, continue: next } = await api.audit(PART, trail.at(-1));
    const turn = (name, act) => h("button", { "data-key": name, onclick: () => {
      act();
      window.dispatchEvent(new Event("turned"));
    } }, name);
    return [
      h("h1", null, "Audit"),
      h("p", { class: "hint" }, "Who changed what. What was done inside a cluster stands in the audit of its own API; commands typed on this page are here, too."),
      table("the newest first", [
        ["When", (e) => ago(e.at)], ["Who", (e) => e.who], ["Outcome", (e) => state(e.outcome)], ["What", (e) => e.says],
        ["Request", (e) => `${e.method} ${e.path}`], ["Answer", (e) => e.status === null ? "" : String(e.status)],
      ], entries, "nothing was changed yet"),
      h("div", { class: "bar" }, trail.length > 0 && turn("Newest", () => { trail = []; }),
        next !== null && turn("Older", () => { trail.push(next); })),
    ];
  } };
}
