import * as api from "./api.js";
import { overlap, network } from "./networks.js";
import { count, facts, field, h, table, tick } from "./dom.js";

/** So many one chooses from; more are attached when the cluster is there. */
const CHOICE = 200;
const STEPS = ["Name and networks", "Hosts", "Review"];
const PLUGINS = ["bridge", "flannel", "calico", "none"];

export function wizard() {
  const made = { name: "", pods: "10.20.0.0/16", services: "10.21.0.0/22", plugin: "bridge", onMasters: false,
    masterIp: "", roles: new Map(), zones: new Map() };
  return { title: "New cluster", live: false, async draw() {
    const { hosts, continue: more } = await api.hosts.part({ limit: CHOICE, free: true });
    hosts.more = more;
    const box = h("div");
    const go = (step) => {
      const [first, second, third] = [networks, members, review];
      box.replaceChildren(
        h("ol", { class: "steps" }, STEPS.map((name, n) => h("li", { "aria-current": n === step && "step" }, `${n + 1}. ${name}`))),
        [first, second, third][step](made, hosts, go));
      box.querySelector("input, button")?.focus();
    };
    go(0);
    return [h("h1", null, "New cluster"), box];
  } };
}

function networks(made, hosts, go) {
  const input = (name) => h("input", { value: made[name], oninput: (event) => { made[name] = event.target.value.trim(); } });
  const name = field("Name", input("name"), "small letters, digits and hyphens");
  const pods = field("Pod network", input("pods"), "addresses of pods; none of a host, and none that hosts reach");
  const services = field("Service network", input("services"), "addresses of services");
  const plugin = h("select", { onchange: () => { made.plugin = plugin.value; } }, PLUGINS.map((p) =>
    h("option", { value: p, selected: p === made.plugin }, p)));
  const shared = field("Shared address of the masters", input("masterIp"), "empty: the first master's own");
  const onMasters = tick("Workloads are allowed on masters", { checked: made.onMasters,
    onchange: (event) => { made.onMasters = event.target.checked; } });
  return h("form", { novalidate: true, onsubmit: (event) => {
    event.preventDefault();
    const good = [
      name.wrong(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(made.name) ? "" : "it has to be small letters, digits and hyphens"),
      ...[[pods, made.pods, "pods"], [services, made.services, "services"]].map(([box, text]) => box.wrong(clash(text, hosts))),
    ];
    if (good.every(Boolean) && overlap(network(made.pods), network(made.services))) {
      good.push(services.wrong(`it has addresses of the pod network ${made.pods}`));
    }
    if (good.every(Boolean)) go(1);
    else event.target.querySelector("[aria-invalid=true]")?.focus();
  } }, name, pods, services, field("Network plugin", plugin, "bridge: routes between nodes of one network; flannel: tunnels, of a stack that has it; calico: the same, and its own policies; none: your own"), shared, onMasters,
  h("p", null, h("button", { class: "main", type: "submit" }, "Next: hosts")));
}

/** Hosts that are named; the others are alike. */
const NAMED = 3;

/**
 * What a host has or reaches, as [network, words]: its addresses, its DNS servers, where its routes lead. A route through a
 * router that is wider than the cluster's network is no harm: the narrower one wins.
 */
function reached(it, wanted) {
  const alone = (address) => network(`${address}/${address.includes(":") ? 128 : 32}`);
  const { dns_servers = [], routes = [] } = it.pf9?.inventory ?? {};
  return [
    ...(it.extensions.ip_address ?? []).map((address) => [alone(address), address]),
    ...dns_servers.map((address) => [alone(address), `DNS server ${address}`]),
    ...routes.map((route) => [network(route.net), `route ${route.net}`, route.on_link])
      .filter(([net, , link]) => link || (net && wanted.from <= net.from && net.to <= wanted.to)),
  ].filter(([net]) => net && overlap(wanted, net));
}

/** Why these cannot be a cluster's addresses: which hosts have or reach some of them. The plane asks once more when it is made. */
function clash(text, hosts) {
  const wanted = network(text);
  if (!wanted) return "it has to be a network, e.g. 10.20.0.0/16";
  const found = hosts.flatMap((it) => reached(it, wanted).map(([, words]) => `${it.info.hostname} (${words})`)).sort();
  const more = found.length > NAMED ? ` and ${found.length - NAMED} more` : "";
  return found.length === 0 ? "" : `these have or reach addresses in it: ${found.slice(0, NAMED).join(", ")}${more}`;
}

function members(made, hosts, go) {
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const role = (it) => h("select", { "aria-label": `role of ${it.info.hostname}`,
    onchange: (event) => made.roles.set(it.id, event.target.value) },
  ["not in it", "master", "worker"].map((word) =>
    h("option", { value: word, selected: word === (made.roles.get(it.id) ?? "not in it") }, word)));
  const zone = (it) => h("input", { "aria-label": `zone of ${it.info.hostname}`, value: made.zones.get(it.id) ?? "",
    oninput: (event) => made.zones.set(it.id, event.target.value.trim()) });
  return h("form", { onsubmit: (event) => {
    event.preventDefault();
    const masters = chosen(made, hosts).filter((m) => m.isMaster).length;
    const why = chosen(made, hosts).length === 0 ? "" // an empty cluster may be filled later
      : masters === 0 ? "one of them has to be a master"
        : masters % 2 === 0 ? `${masters} masters bear the loss of no more than ${masters - 1} would: take an odd number` : "";
    wrong.textContent = why;
    wrong.hidden = !why;
    if (!why) go(2);
  } }, table(hosts.more ? `the first ${hosts.length} hosts that are in no cluster; others are attached later` : "hosts that are in no cluster", [
    ["Host", (it) => it.info.hostname], ["Address", (it) => (it.extensions.ip_address ?? [])[0] ?? ""], ["Role", role], ["Zone", zone],
  ], hosts, "no host is free: the cluster is made empty, and hosts are attached later"), wrong,
  h("p", { class: "bar" }, h("button", { type: "button", onclick: () => go(0) }, "Back"),
    h("button", { class: "main", type: "submit" }, "Next: review")));
}

const chosen = (made, hosts) => hosts
  .filter((it) => ["master", "worker"].includes(made.roles.get(it.id)))
  .map((it) => ({ uuid: it.id, name: it.info.hostname, authorised: it.roles.length > 0,
    isMaster: made.roles.get(it.id) === "master", zone: made.zones.get(it.id) || undefined }));

function review(made, hosts, go) {
  const list = chosen(made, hosts);
  const said = h("p", { role: "status" });
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const make = h("button", { class: "main", onclick: async () => {
    make.disabled = true;
    wrong.hidden = true;
    let cluster;
    try {
      said.textContent = "making the cluster";
      cluster = (await api.clusters.make({ name: made.name, containersCidr: made.pods, servicesCidr: made.services,
        networkPlugin: made.plugin, allowWorkloadsOnMaster: made.onMasters,
        ...(made.masterIp ? { masterIp: made.masterIp, masterVipEnabled: true } : {}) })).uuid;
      for (const it of list.filter((m) => !m.authorised)) {
        said.textContent = `authorising ${it.name}`;
        await api.hosts.authorise(it.uuid);
      }
      if (list.length) {
        said.textContent = "attaching its hosts";
        await api.clusters.attach(cluster, list.map(({ uuid, isMaster, zone }) => ({ uuid, isMaster, zone })));
      }
      location.hash = `#/clusters/${cluster}`;
    } catch (error) {
      // What was made by this button goes with it: the next try has the name again.
      if (cluster) await api.clusters.remove(cluster).catch(() => {});
      said.textContent = "";
      wrong.textContent = error.message;
      wrong.hidden = false;
      make.disabled = false;
    }
  } }, "Make the cluster");
  return h("div", null, facts([["Name", made.name], ["Pod network", made.pods], ["Service network", made.services],
    ["Network plugin", made.plugin], ["Shared address", made.masterIp],
    ["Workloads on masters", made.onMasters ? "allowed" : "not allowed"]]),
  table(count(list.length, "host"), [["Host", (m) => m.name], ["Role", (m) => m.isMaster ? "master" : "worker"],
    ["Zone", (m) => m.zone ?? ""]], list, "no host yet"),
  said, wrong, h("p", { class: "bar" }, h("button", { onclick: () => go(1) }, "Back"), make));
}
