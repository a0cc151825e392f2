import * as api from "./api.js";
import { ago, copyable, facts, field, h, state, table, words } from "./dom.js";

/** As many as one looks through; the filter finds the others. */
const PART = 50;
/** Events of a host that are shown. */
const ROWS = 200;
const DAY = 86_400;

const word = (host) => !host.info.responding && host.pf9.received_at ? "disconnected" : host.pf9.state ?? "converging";
const why = (host) => words(host.pf9.refused) || words(host.pf9.reason);
/** In a list: what it is, and no more; the host's own view has the rest. */
const warned = (host) => host.message.warn.map((w) => w.message.split(": ")[0]).join("; ");
const phase = (host) => {
  const node = host.pf9.node;
  const at = node?.phases?.find((p) => ["executing", "failed", "waiting"].includes(p.state));
  return node?.current_step ?? (at ? `${at.name}: ${at.state}` : "");
};
const link = (host) => h("a", { href: `#/hosts/${encodeURIComponent(host.id)}`, "data-key": host.id }, host.info.hostname);

let filter = "";
/** Where the parts begin that were gone through; the first has no mark. */
let trail = [];
/** How long a word is waited for that is being typed. */
const TYPING = 250;

export function hostList() {
  trail = [];
  return { title: "Hosts", live: true, async draw() {
    const clusters = await api.clusters.all();
    const names = new Map(clusters.map((c) => [c.uuid, c.name]));
    const box = h("div");
    let newest = 0;
    let due = null;
    const list = async () => {
      const asked = newest += 1;
      const at = trail.at(-1);
      const part = await api.hosts.part({ limit: PART, search: filter.trim(), ...(at ? { continue: at } : {}) });
      // A slower answer to an older question is not shown over a newer one.
      if (asked !== newest) return;
      const turn = (name, act) => h("button", { "data-key": name, onclick: async () => {
        act();
        await list();
        document.getElementById("view").focus();
      } }, name);
      const of = part.found < part.total ? ` found, of ${part.total}` : "";
      box.replaceChildren(table(`${part.hosts.length} of ${part.found} hosts${of}; who needs a look comes first`, [
        ["Host", link], ["State", (o) => state(word(o))], ["Cluster", (o) => names.get(o.cluster) ?? ""],
        ["Why", (o) => why(o) || warned(o)], ["Doing", phase], ["Last contact", (o) => ago(o.pf9.received_at)],
      ], part.hosts, part.total === 0 ? "no host has joined yet: Add a host says how" : "no host is called so"),
      h("div", { class: "bar" }, trail.length > 0 && turn("First", () => { trail = []; }),
        part.continue && turn("More", () => { trail.push(part.continue); })));
    };
    const input = h("input", { type: "search", value: filter, maxlength: "100", oninput: () => {
      filter = input.value;
      trail = [];
      clearTimeout(due);
      due = setTimeout(list, TYPING);
    } });
    await list();
    return [h("div", { class: "bar" }, h("h1", null, "Hosts"),
      api.mayChange() && h("a", { class: "button", href: "#/hosts/join" }, "Add a host")),
    field("Filter", input), box];
  } };
}

export function join() {
  return { title: "Add a host", live: false, draw() {
    const box = h("div");
    const life = h("select", null, [["1 hour", 3600], ["1 day", DAY], ["7 days", 7 * DAY]]
      .map(([name, seconds]) => h("option", { value: String(seconds) }, name)));
    const make = h("button", { class: "main", onclick: async () => {
      make.disabled = true;
      try {
        const { token } = await api.hosts.token(Number(life.value));
        box.replaceChildren(h("p", null, "As root of the machine, once the package is installed. The command waits for the "
          + "token: paste it, and end the line. It lets one machine in, and is not shown again."),
        h("h2", null, "Command"), copyable(`pf9ctl node prep --plane ${location.origin} --token-file -`),
        h("h2", null, "Token"), copyable(token));
      } finally {
        make.disabled = false;
      }
    } }, "Make a token");
    return [h("h1", null, "Add a host"), field("The token is good for", life), h("p", null, make), box];
  } };
}

export function host(id) {
  return { title: "Host", live: true, async draw() {
    const [it, events] = await Promise.all([api.hosts.one(id), api.hosts.events(id)]);
    document.title = `${it.info.hostname} · pf9 plane`;
    const { pf9 } = it;
    const rest = pf9.maintenance;
    const press = (name, act) => h("button", { "data-key": name, onclick: async (event) => {
      event.target.disabled = true;
      await act();
      window.dispatchEvent(new Event("redraw"));
    } }, name);
    return [
      h("div", { class: "bar" }, h("h1", null, it.info.hostname),
        api.mayChange() && !it.roles.length && press("Authorise", () => api.hosts.authorise(id)),
        api.mayChange() && (rest ? press("End maintenance", () => api.hosts.restEnds(id))
          : press("Maintenance for an hour", () => api.hosts.rest(id, { for_s: 3600, reason: "by the page" })))),
      facts([
        ["State", state(word(it))], ["Why", why(it)], ["Doing", phase(it)], ["Last contact", ago(pf9.received_at)],
        ["Tunnel", pf9.connected ? "connected" : "not connected"], ["Agent", pf9.agent_version], ["System", it.info.os_info],
        ["Addresses", (it.extensions.ip_address ?? []).join(", ")],
        ["Waited for in the last minute", Object.entries(pf9.health?.pressure ?? {})
          .map(([what, stall]) => `${what} ${stall.some60.toFixed(0)} %`).join(", ")],
        ["Clock kept by", pf9.health?.time && (pf9.health.time.keeper ?? "nothing")],
        ["DNS servers", (pf9.inventory?.dns_servers ?? []).join(", ")],
        ["Routes to", (pf9.inventory?.routes ?? []).map((route) => route.net).join(", ")], ["Enrolled", ago(it.enrolled_at)],
        ["Certificate ends", it.certificate_not_after && ago(it.certificate_not_after)],
        ["Maintenance", rest && "ordered by the plane"], ["Id", it.id],
      ]),
      h("h2", null, "Warnings"),
      it.message.warn.length ? h("ul", null, it.message.warn.map((w) => h("li", null, w.message)))
        : h("p", { class: "faint" }, "none"),
      h("h2", null, "Phases"),
      table("in their order", [["Phase", (p) => p.name], ["State", (p) => p.state], ["What", (p) => p.message ?? ""],
        ["Took", (p) => p.took_ms === null || p.took_ms === undefined ? "" : `${(p.took_ms / 1000).toFixed(1)} s`]],
      pf9.node?.phases ?? [], "it is in no cluster"),
      h("h2", null, "Repairs"),
      table("the newest", [["What", (r) => r.what], ["Why", (r) => r.why], ["When", (r) => ago(r.at)]],
        pf9.node?.repairs ?? [], "none since its agent began"),
      h("h2", null, "Disks"),
      table("file systems that the agent uses", [["Path", (d) => d.path], ["Free", (d) => size(d.available_bytes)],
        ["Of", (d) => size(d.total_bytes)]], pf9.health?.disks ?? [], "not heard of yet"),
      h("h2", null, "Events"),
      table("newest first", [["When", (e) => ago(e.event.at)], ["What", (e) => e.event.kind],
        ["Message", (e) => e.event.message + (e.event.fault ? ` — ${words(e.event.fault)}` : "")]],
      [...events].reverse().slice(0, ROWS), "none"),
    ];
  } };
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = bytes ?? 0;
  while (left >= 1024 && at < units.length - 1) [left, at] = [left / 1024, at + 1];
  return `${at ? left.toFixed(1) : left} ${units[at]}`;
}
