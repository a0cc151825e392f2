import * as api from "./api.js";
import { size } from "./hosts.js";
import { ago, count, facts, field, h, state, table, tick, words } from "./dom.js";

const link = (c) => h("a", { href: `#/clusters/${encodeURIComponent(c.uuid)}`, "data-key": c.uuid }, c.name);

export function clusterList() {
  return { title: "Clusters", live: true, async draw() {
    const clusters = await api.clusters.all();
    return [
      h("div", { class: "bar" }, h("h1", null, "Clusters"),
        api.mayChange() && h("a", { class: "button", href: "#/clusters/new" }, "New cluster")),
      table(count(clusters.length, "cluster"), [
        ["Cluster", link], ["State", (c) => state(c.status)], ["Version", (c) => c.stack],
        ["Upgrade", (c) => c.upgradingTo ? `to ${c.upgradingTo}` : ""],
        ["Masters", (c) => String(c.numMasters)], ["Workers", (c) => String(c.numWorkers)],
        ["Warnings", (c) => c.warnings.join("; ")],
      ], clusters, "there is no cluster yet"),
    ];
  } };
}

/** What is asked before it is done: nobody reads a browser's own question aloud twice. */
function asked(question, act) {
  const box = h("div", { role: "group", "aria-label": question });
  const begin = h("button", null, question);
  const no = h("button", { onclick: () => box.replaceChildren(begin) }, "No");
  begin.addEventListener("click", () => {
    const yes = h("button", { class: "main", onclick: async () => {
      yes.disabled = true;
      try { await act(); } finally { box.replaceChildren(begin); }
      window.dispatchEvent(new Event("redraw"));
    } }, `Yes, ${question.toLowerCase()}`);
    box.replaceChildren(yes, " ", no);
    yes.focus();
  });
  box.append(begin);
  return box;
}

const duration = (seconds) => seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min`
  : `${Math.round(seconds / 3600)} h`;

/** A plan as it stands on the page until it is begun or closed; it is not fetched again by itself. */
const plans = new Map();

export function cluster(id) {
  return { title: "Cluster", live: true, async draw() {
    const [it, nodes, etcd, upgrade, os, times, report, addons] = await Promise.all([
      api.clusters.one(id), api.clusters.nodes(id), api.clusters.etcd(id).catch((error) => error),
      api.clusters.roll(id, "upgrade"), api.clusters.roll(id, "os-update"),
      api.alerts.availability(id), api.alerts.report(id), api.clusters.addons(id),
    ]);
    document.title = `${it.name} · pf9 plane`;
    const own = nodes;
    return [
      h("div", { class: "bar" }, h("h1", null, it.name),
        h("a", { class: "button", href: `#/clusters/${encodeURIComponent(id)}/kubectl` }, "kubectl"),
        api.mayChange() && own.length === 0 && asked("Delete this cluster", async () => {
          await api.clusters.remove(id);
          location.hash = "#/clusters";
        })),
      facts([
        ["State", state(it.status)], ["Version", it.stack], ["Pod network", it.containersCidr],
        ["Service network", it.servicesCidr], ["API", it.masterIp ?? it.externalDnsName],
        ["Network", it.networkPlugin], ["Workloads on masters", it.allowWorkloadsOnMaster ? "allowed" : "not allowed"],
        ["Made", ago(it.created_at)], ["Warnings", it.warnings.join("; ")],
      ]),
      h("h2", null, "Nodes"),
      table(count(own.length, "node"), [
        ["Node", (n) => h("a", { href: `#/hosts/${n.uuid}`, "data-key": n.uuid }, n.name)],
        ["State", (n) => state(n.status)], ["Role", (n) => n.isMaster ? "master" : "worker"],
        ["Address", (n) => n.primaryIp ?? ""], ["Zone", (n) => n.zone ?? ""], ["Why", (n) => words(n.pf9.reason)],
        ["Doing", (n) => n.pf9.current_step ?? ""],
      ], own, "no host is attached"),
      api.mayChange() && await attachment(id),
      h("h2", null, "etcd"),
      etcd instanceof Error ? h("p", { class: "wrong" }, etcd.message)
        : [h("p", null, `${etcd.answering} of ${etcd.votes} members answer, ${etcd.needed} are needed.`,
          etcd.zones ? ` ${etcd.zones}` : ""),
        table("members", [["Member", (m) => m.name], ["State", (m) => m.state], ["What it does", (m) => m.words],
          ["Well", (m) => m.healthy === null ? "not asked" : m.healthy ? "yes" : `no: ${m.why}`]], etcd.members, "none yet")],
      h("h2", null, "Add-ons"),
      table(`of stack ${addons.stack}, and how they are in this cluster`, [
        ["Add-on", (a) => a.name], ["State", (a) => state(a.state)], ["Version", (a) => a.version], ["Why", (a) => a.why ?? ""],
        ["Turn", (a) => a.switch && api.mayChange() ? turned(id, a) : ""],
      ], addons.addons, "its stack has none"),
      roll(id, "upgrade", "Upgrade", upgrade.upgrade),
      roll(id, "os-update", "Updates of the distribution", os.osUpdate),
      h("h2", null, "Availability of its API"),
      table(`target ${times.targetPercent} %`, [["Month", (m) => m.month], ["Answered", (m) => m.percent === null ? "" : `${m.percent} %`],
        ["Target", (m) => m.met === null ? "" : m.met ? "met" : "missed"], ["Not measured", (m) => duration(m.unmeasuredSeconds)]],
      times.months, "it has not answered yet"),
      h("h2", null, "As it should be"),
      table(`${report.nodesThatConform} of ${count(report.nodes.length, "node")} are as they should be`, [
        ["Node", (n) => n.name], ["State", (n) => state(n.conforms ? "ok" : "failed")],
        ["Differs", (n) => (n.differs ?? []).join("; ")], ["Since", (n) => n.since ? ago(n.since) : ""],
        ["Repaired", (n) => String(n.repaired?.length ?? n.repaired ?? 0)]], report.nodes, "it has no node"),
    ];
  } };
}

/** Add-ons that the plane did not turn off, and why: what uses them stands there until somebody decides. */
const inUse = new Map();

/** How an add-on is turned on or off. */
function turned(id, addon) {
  const key = `${id} ${addon.name}`;
  const why = inUse.get(key);
  if (addon.wanted && why) {
    return h("div", null, h("p", { class: "wrong", role: "alert" }, why),
      asked(`Turn off ${addon.name} all the same`, async () => {
        inUse.delete(key);
        await api.clusters.addon(id, addon.name, { on: false, force: true });
      }));
  }
  if (addon.wanted) {
    return asked(`Turn off ${addon.name}`, async () => {
      try {
        await api.clusters.addon(id, addon.name, { on: false });
      } catch (error) {
        if (error.status !== 409) throw error;
        inUse.set(key, error.message);
      }
    });
  }
  inUse.delete(key);
  if (!addon.needs) return asked(`Turn on ${addon.name}`, () => api.clusters.addon(id, addon.name, { on: true }));
  const addresses = h("input", { id: `addresses-${addon.name}`, placeholder: "10.1.2.16/28" });
  return h("details", null, h("summary", null, `Turn on ${addon.name}`),
    field("Addresses", addresses, "ranges or networks that no machine has, with commas between"),
    h("p", null, h("button", { onclick: async () => {
      addresses.blur();
      await api.clusters.addon(id, addon.name, { on: true, addresses: addresses.value.split(/[\s,]+/).filter(Boolean) });
      window.dispatchEvent(new Event("redraw"));
    } }, "Turn it on")));
}

/** So many one chooses from. */
const CHOICE = 200;

async function attachment(id) {
  const part = await api.hosts.part({ limit: CHOICE, free: true, authorised: true });
  const free = part.hosts;
  if (free.length === 0) return h("p", { class: "faint" }, "no authorised host is free to be attached");
  const which = h("select", null, free.map((o) => h("option", { value: o.id }, o.info.hostname)));
  const more = part.continue && "the first of them; another one is attached by its name: pf9ctl host attach";
  const role = h("select", null, h("option", { value: "" }, "worker"), h("option", { value: "master" }, "master"));
  return h("details", null, h("summary", null, "Attach a host"), field("Host", which, more), field("Role", role),
    h("p", null, h("button", { onclick: async () => {
      await api.clusters.attach(id, [{ uuid: which.value, isMaster: role.value === "master" }]);
      window.dispatchEvent(new Event("redraw"));
    } }, "Attach")));
}

/** Which turns a roll may take, by its state. */
const TURNS = { running: ["pause", "cancel", "back"], paused: ["resume", "cancel", "back"], stopped: ["resume", "cancel", "back"],
  cancelled: ["back"], done: ["back"] };
const NAMES = { pause: "Pause", resume: "Resume", cancel: "Cancel", back: "Go back to the version before" };

function roll(id, kind, title, now) {
  const key = `${kind} ${id}`;
  const parts = [h("h2", null, title)];
  if (now) {
    parts.push(
      h("p", null, state(now.state), ` ${now.words.replace(`${now.state}: `, "")}`),
      h("p", null, h("progress", { max: String(now.of), value: String(now.done), "aria-label": "nodes done" }),
        ` ${now.done} of ${now.of} nodes`, now.why ? ` — ${words(now.why)}` : ""),
      table(`${now.from} → ${now.to ?? "the newest of the distribution"}, begun ${new Date(now.beganAt).toLocaleString()}`, [
        ["Node", (n) => n.node], ["Role", (n) => n.role], ["Has", (n) => n.stack], ["Where it is", (n) => n.words],
      ], now.nodes, ""));
  }
  if (!api.mayChange()) return parts;
  // Nobody unpacks an older distribution over a newer one.
  const turns = (TURNS[now?.state] ?? []).filter((verb) => verb !== "back" || kind === "upgrade" && now.way !== "back");
  parts.push(h("div", { class: "bar" }, turns.map((verb) => asked(NAMES[verb], () => api.clusters.turn(id, kind, verb)))));
  if (turns.includes("cancel")) return parts;
  const box = h("div");
  const show = () => box.replaceChildren(...(plans.has(key) ? plan(id, kind, plans.get(key), () => {
    plans.delete(key);
    show();
  }) : []));
  show();
  const to = h("input", { placeholder: "the newest that may follow" });
  parts.push(h("details", { open: plans.has(key) }, h("summary", null, "Plan it"),
    kind === "upgrade" && field("Version", to, "empty: the newest that may follow"),
    h("p", null, h("button", { "data-key": `plan ${kind}`, onclick: async (event) => {
      event.target.disabled = true;
      try {
        plans.set(key, await api.clusters.plan(id, kind, kind === "upgrade" && to.value ? { to: to.value } : {}));
        show();
      } finally {
        event.target.disabled = false;
      }
    } }, "Show what it would do")), box));
  return parts;
}

function plan(id, kind, it, close) {
  const known = new Set();
  const of = (weight) => it.findings.filter((f) => f.weight === weight);
  const begin = h("button", { class: "main", onclick: async () => {
    begin.disabled = true;
    try {
      await api.clusters.begin(id, kind, { despite: [...known], ...(kind === "upgrade" ? { to: it.to } : {}) });
      close();
      window.dispatchEvent(new Event("redraw"));
    } finally {
      weigh();
    }
  } }, "Begin");
  const weigh = () => { begin.disabled = of("refuses").length > 0 || of("blocks").some((f) => !known.has(f.id)); };
  weigh();
  const know = (finding) => tick("I know, begin all the same", { onchange: (event) => {
    if (event.target.checked) known.add(finding.id);
    else known.delete(finding.id);
    weigh();
  } });
  const list = (title, weight) => of(weight).length === 0 ? null : [h("h3", null, title),
    h("ul", null, of(weight).map((f) => h("li", null, words(f), weight === "blocks" && know(f))))];
  return [
    h("p", null, `${it.from} → ${it.to ?? "the newest of the distribution"}: ${it.order ?? ""}.`),
    table("nodes, in their order", [
      ["Node", (n) => n.node], ["Role", (n) => n.role], ["Starts again", (n) => (n.restarts ?? []).join(", ")],
    ], it.nodes, "none"),
    it.transfers && h("ul", null, it.transfers.map((t) =>
      h("li", null, `${t.nodes} of ${t.from} fetch ${t.bytes === null ? "what differs, which is being made" : size(t.bytes)} (${t.by})`))),
    it.findings.length === 0 && h("p", null, "Nothing stands against it."),
    list("It cannot begin", "refuses"), list("It does not begin unless you say so", "blocks"), list("To be known", "warns"),
    h("div", { class: "bar" }, begin, h("button", { onclick: close }, "Close the plan")),
  ].flat(9).filter(Boolean);
}
