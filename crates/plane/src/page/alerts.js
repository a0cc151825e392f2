import * as api from "./api.js";
import { ago, count, facts, field, h, state, table, words } from "./dom.js";

const HOURS = [[1, "1 hour"], [8, "8 hours"], [24, "1 day"], [168, "7 days"]];

const link = (a) => h("a", { href: `#/alerts/${encodeURIComponent(a.id)}`, "data-key": a.id }, a.what);
const whose = (a) => a.hostName ?? a.clusterName ?? "";
const stands = (a) => [state(a.acknowledged && a.state === "firing" ? "acknowledged" : a.state), a.held ? ` ${a.held.why}` : ""];

export function alertList() {
  return { title: "Alerts", live: true, async draw() {
    const [open, past, silences, receivers] = await Promise.all([
      api.alerts.open(), api.alerts.past(), api.alerts.silences(), api.mayKeepReceivers() && api.alerts.receivers(),
    ]);
    return [
      h("h1", null, "Alerts"),
      table(`${count(open.length, "alert")}, the most urgent first`, [
        ["What", link], ["Urgency", (a) => a.urgency], ["State", stands], ["Where", whose], ["Since", (a) => ago(a.since)],
        ["Tried", (a) => a.tried ?? ""],
      ], open, "nothing is wrong"),
      h("h2", null, "Silences"),
      table("nobody is told of these for a time", [
        ["What", (s) => [s.rule ?? "everything", s.cluster && ` of cluster ${s.cluster}`, s.host && ` of host ${s.host}`].filter(Boolean).join("")],
        ["Why", (s) => s.why], ["By", (s) => s.who], ["Ends", (s) => ago(s.until)],
        ["", (s) => api.mayChange() ? h("button", { "data-key": `end ${s.id}`, onclick: async () => {
          await api.alerts.hear(s.id);
          window.dispatchEvent(new Event("redraw"));
        } }, "End it") : ""],
      ], silences, "none"),
      ...(receivers ? [h("h2", null, "Receivers"), table("who is told of this project's alerts", [
        ["Name", (r) => r.name], ["Kind", (r) => r.kind], ["Last arrived", (r) => ago(r.arrivedAt)],
        ["Waiting", (r) => r.waiting ? [count(r.waiting, "alert"), r.failing && `: ${r.failing}`] : ""],
        ["Refused for good", (r) => r.refused ? [count(r.refused, "notice"), ", last ", ago(r.refusedAt), `: ${r.refusedWhy}`] : ""],
        ["Given up", (r) => r.givenUp ? `${count(r.givenUp, "alert")}, of too many that waited` : ""],
      ], receivers, "nobody but who the plane's operator named")] : []),
      h("h2", null, "What was"),
      table("the newest first", [
        ["What", link], ["Where", whose], ["Since", (a) => ago(a.since)], ["Over", (a) => ago(a.resolvedAt)],
      ], past.slice(0, 100), "nothing yet"),
    ];
  } };
}

export function alert(id) {
  return { title: "Alert", live: true, async draw() {
    const it = await api.alerts.one(id);
    document.title = `${it.rule} · pf9 plane`;
    return [
      h("h1", null, it.what),
      facts([
        ["State", stands(it)], ["Urgency", it.urgency], ["Why", it.why], ["What was tried", it.tried], ["What to do", it.fix],
        ["Host", it.host && h("a", { href: `#/hosts/${encodeURIComponent(it.host)}` }, it.hostName ?? it.host)],
        ["Cluster", it.cluster && h("a", { href: `#/clusters/${encodeURIComponent(it.cluster)}` }, it.clusterName ?? it.cluster)],
        ["Part", it.part], ["Rule", it.rule], ["Since", ago(it.since)], ["Told", it.toldTimes ? [count(it.toldTimes, "time"), ", last ", ago(it.toldAt)] : "nobody yet"],
        ["Over", it.resolvedAt && ago(it.resolvedAt)],
        ["Acknowledged", it.acknowledged && `${it.acknowledged.who}: ${it.acknowledged.why}`],
      ]),
      h("h2", null, "Symptoms"),
      it.symptoms?.length ? h("ul", null, it.symptoms.map((s) => h("li", null, typeof s === "string" ? s : s.what ?? words(s))))
        : h("p", { class: "faint" }, "none"),
      it.state !== "resolved" && api.mayChange() && answer("Acknowledge", "somebody sees to it, and nobody is told again until then",
        (why, forSeconds) => api.alerts.acknowledge(id, { who: api.who().name, why, forSeconds })),
      it.state !== "resolved" && api.mayChange() && answer("Silence", "nobody is told of this rule here for a time",
        (why, forSeconds) => api.alerts.silence({ who: api.who().name, why, forSeconds, rule: it.rule,
          ...(it.host ? { host: it.host } : it.cluster ? { cluster: it.cluster } : {}) })),
    ];
  } };
}

/** A reason and a time, and then it is done. */
function answer(name, hint, act) {
  const why = h("input", { required: true, maxlength: "200", id: `why-${name}` });
  const hours = h("select", { id: `for-${name}` }, HOURS.map(([n, text]) => h("option", { value: String(n), selected: n === 8 }, text)));
  return h("details", null, h("summary", null, name), h("p", { class: "hint" }, hint), h("form", { onsubmit: async (event) => {
    event.preventDefault();
    why.blur();
    await act(why.value.trim(), Number(hours.value) * 3600);
    window.dispatchEvent(new Event("redraw"));
  } }, field("Why", why), field("For", hours), h("p", null, h("button", { type: "submit" }, `${name} it`))));
}
