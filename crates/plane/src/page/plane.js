import * as api from "./api.js";
import { ago, facts, h, state } from "./dom.js";

export function plane() {
  return { title: "Plane", live: true, async draw() {
    const store = await api.store();
    const inEtcd = store.store === "etcd";
    return [
      h("h1", null, "Plane"),
      h("h2", null, "Store"),
      h("p", { class: "hint" }, inEtcd
        ? "Hosts, clusters and people are in etcd. One plane has the seat and serves; the others pass on to it who connects to them."
        : "Hosts, clusters and people are in a file of this plane's machine; no other plane serves them."),
      facts([
        ["Where", inEtcd ? store.at.join(", ") : "embedded"], ["Prefix", store.prefix],
        ["State", state(store.answers === "yes" ? "answers" : "does not answer")],
        ["Since", store.since && ago(store.since)], ["Why", store.why],
        ["Meanwhile", store.answers !== "yes" && "changes are refused; tunnels, kubectl and reads continue"],
        ["Seat", store.seat],
      ]),
    ];
  } };
}
