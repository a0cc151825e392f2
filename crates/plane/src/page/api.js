// The plane's API as operators' tools use it. The token is sent as a header by this code and by nobody else: there is no
// cookie that another site could make the browser send. It lives as long as the tab.

const KEPT = "pf9-session";
const AWAY = "the plane cannot be reached; look at the network, and at its service";
let session = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");

export const who = () => session;

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** What the plane says of why not, in whichever of its APIs' shapes. */
const reason = (body, status) => {
  const error = body?.error ?? body;
  const fault = error?.fault ?? body?.fault;
  if (fault?.why) return [fault.what, fault.why].join(": ") + (fault.fix ? `; ${fault.fix}` : "");
  return error?.message ?? body?.message ?? `the plane answered ${status}`;
};

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (session) headers["X-Auth-Token"] = session.token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit", redirect: "error", signal: AbortSignal.timeout(150_000),
    });
  } catch {
    throw new Refused(0, AWAY);
  }
  const text = await answer.text();
  let said = null;
  try { said = text ? JSON.parse(text) : null; } catch { /* not one of the APIs answered */ }
  if (answer.ok) return { said, answer };
  if (answer.status === 401 && session) leave();
  throw new Refused(answer.status, reason(said, answer.status));
}

/** Asks, and calls `heard` with each event of the answer until it ends, or breaks off. */
async function follow(path, body, heard, signal) {
  const answer = await fetch(path, {
    method: "POST", body: JSON.stringify(body), signal, credentials: "omit", redirect: "error",
    headers: { "X-Auth-Token": session.token, "Content-Type": "application/json", Accept: "text/event-stream" },
  }).catch(() => { throw new Refused(0, AWAY); });
  if (answer.status === 401) leave();
  if (!answer.ok) throw new Refused(answer.status, reason(await answer.json().catch(() => null), answer.status));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) heard(JSON.parse(event.slice("data: ".length)));
  }
}

const ask = async (method, path, body) => (await call(method, path, body)).said;
const q = (path) => `/qbert/v4/${session.project}${path}`;
const id = encodeURIComponent;

export async function signIn(name, password, project) {
  session = null;
  const domain = { id: "default" };
  const { said, answer } = await call("POST", "/keystone/v3/auth/tokens", { auth: {
    identity: { methods: ["password"], password: { user: { name, password, domain } } },
    scope: { project: { name: project, domain } },
  } });
  const { token } = said;
  session = {
    token: answer.headers.get("X-Subject-Token"), name: token.user.name, project: token.project.id,
    projectName: token.project.name, roles: token.roles.map((role) => role.name), ends: token.expires_at,
  };
  // A role in the plane counts in its own project alone.
  session.plane = project === "service"
    && await ask("GET", "/keystone/v3/auth/system").then(({ system }) => system.length > 0, () => false);
  sessionStorage.setItem(KEPT, JSON.stringify(session));
}

export function leave() {
  session = null;
  sessionStorage.removeItem(KEPT);
  window.dispatchEvent(new Event("left"));
}

/** Signs out: the plane forgets the token as well, so that a copy of it is good for nothing. */
export async function signOut() {
  const token = session?.token;
  try {
    await fetch("/keystone/v3/auth/tokens", { method: "DELETE", credentials: "omit", keepalive: true,
      headers: { "X-Auth-Token": token, "X-Subject-Token": token } });
  } finally {
    leave();
  }
}

export const maySeePlane = () => session?.plane ?? false;
export const store = () => ask("GET", "/v1/store");

export const mayAudit = () => session?.roles.includes("admin") ?? false;
export const audit = (limit, beyond) =>
  ask("GET", `/audit/v1/entries?limit=${limit}${beyond === undefined ? "" : `&continue=${beyond}`}`);

export const mayKeepReceivers = () => session?.roles.includes("admin") ?? false;

export const mayChange = () => session?.roles.some((role) => role !== "reader") ?? false;

export const hosts = {
  /** A part of them: {hosts, continue, found, total}. */
  part: (wanted) => ask("GET", `/resmgr/v1/hosts?${new URLSearchParams(wanted)}`),
  one: (host) => ask("GET", `/resmgr/v1/hosts/${id(host)}`),
  events: (host) => ask("GET", `/resmgr/v1/hosts/${id(host)}/events`),
  authorise: (host) => ask("PUT", `/resmgr/v1/hosts/${id(host)}/roles/pf9-kube`),
  rest: (host, body) => ask("POST", `/resmgr/v1/hosts/${id(host)}/maintenance`, body),
  restEnds: (host) => ask("DELETE", `/resmgr/v1/hosts/${id(host)}/maintenance`),
  token: (seconds) => ask("POST", "/resmgr/v1/tokens", { ttl_s: seconds }),
};

export const clusters = {
  all: () => ask("GET", q("/clusters")),
  one: (cluster) => ask("GET", q(`/clusters/${id(cluster)}`)),
  nodes: (cluster) => ask("GET", q(`/nodes?clusterUuid=${id(cluster)}`)),
  etcd: (cluster) => ask("GET", q(`/clusters/${id(cluster)}/etcd`)),
  make: (body) => ask("POST", q("/clusters"), body),
  remove: (cluster) => ask("DELETE", q(`/clusters/${id(cluster)}`)),
  attach: (cluster, list) => ask("POST", q(`/clusters/${id(cluster)}/attach`), list),
  detach: (cluster, list) => ask("POST", q(`/clusters/${id(cluster)}/detach`), list),
  addons: (cluster) => ask("GET", q(`/clusters/${id(cluster)}/addons`)),
  addon: (cluster, name, body) => ask("PUT", q(`/clusters/${id(cluster)}/addons/${id(name)}`), body),
  command: (cluster, body, heard, signal) => follow(q(`/clusters/${id(cluster)}/kubectl`), body, heard, signal),
  roll: (cluster, kind) => ask("GET", q(`/clusters/${id(cluster)}/${kind}`)),
  plan: (cluster, kind, body) => ask("POST", q(`/clusters/${id(cluster)}/${kind}/plan`), body),
  begin: (cluster, kind, body) => ask("POST", q(`/clusters/${id(cluster)}/${kind}`), body),
  turn: (cluster, kind, verb) => ask("POST", q(`/clusters/${id(cluster)}/${kind}/${id(verb)}`)),
};

export const alerts = {
  open: () => ask("GET", "/alerts/v1/alerts?state=open"),
  past: () => ask("GET", "/alerts/v1/alerts?state=past"),
  one: (alert) => ask("GET", `/alerts/v1/alerts/${id(alert)}`),
  acknowledge: (alert, body) => ask("POST", `/alerts/v1/alerts/${id(alert)}/acknowledge`, body),
  silences: () => ask("GET", "/alerts/v1/silences"),
  silence: (body) => ask("POST", "/alerts/v1/silences", body),
  hear: (silence) => ask("DELETE", `/alerts/v1/silences/${id(silence)}`),
  receivers: () => ask("GET", `/alerts/v1/projects/${id(session.project)}/receivers`),
  availability: (cluster) => ask("GET", `/alerts/v1/clusters/${id(cluster)}/availability`),
  report: (cluster) => ask("GET", `/alerts/v1/clusters/${id(cluster)}/report`),
};

/** Calls `look` whenever something changed on the plane, and `lost` with the reason when that cannot be heard. */
export async function listen(look, lost, signal) {
  while (!signal.aborted && session) {
    try {
      const answer = await fetch("/ui/changes", {
        headers: { "X-Auth-Token": session.token, Accept: "text/event-stream" }, credentials: "omit", signal,
      });
      if (answer.status === 401) return leave();
      if (!answer.ok) throw new Refused(answer.status, reason(await answer.json().catch(() => null), answer.status));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      lost(null);
      for (let open = true; open;) {
        const { value, done } = await reader.read();
        if (value?.includes("data:")) look();
        open = !done;
      }
    } catch (error) {
      if (signal.aborted) return;
      lost(`${error instanceof Refused ? error.message : "the plane does not answer"}; trying again`);
    }
    await new Promise((again) => setTimeout(again, 2000));
  }
}
