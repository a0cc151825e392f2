// The page: one view at a time, named by what stands behind `#`; each asks the plane again when something changed there.
import * as api from "./api.js";
import { h } from "./dom.js";
import { signIn } from "./sign-in.js";
import { hostList, host, join } from "./hosts.js";
import { alert, alertList } from "./alerts.js";
import { auditList } from "./audit.js";
import { clusterList, cluster } from "./clusters.js";
import { plane } from "./plane.js";
import { terminal } from "./terminal.js";
import { wizard } from "./wizard.js";

/** [what the address begins with, the view]; a view answers {title, draw, live}. What it began ends with the signal `draw` is given. */
const VIEWS = [
  [/^#\/hosts$/, hostList], [/^#\/hosts\/join$/, join], [/^#\/hosts\/([^/]+)$/, host],
  [/^#\/alerts$/, alertList], [/^#\/alerts\/([^/]+)$/, alert],
  [/^#\/clusters$/, clusterList], [/^#\/clusters\/new$/, wizard], [/^#\/clusters\/([^/]+)$/, cluster],
  [/^#\/clusters\/([^/]+)\/kubectl$/, terminal],
  [/^#\/audit$/, auditList], [/^#\/plane$/, plane],
];
const TABS = [["#/hosts", "Hosts"], ["#/clusters", "Clusters"], ["#/alerts", "Alerts"], ["#/audit", "Audit", api.mayAudit],
  ["#/plane", "Plane", api.maySeePlane]];
/** A fleet says something all the time: so often is it asked again, at most. */
const PACE = 2000;

const place = (id) => document.getElementById(id);
let shown = { abort: new AbortController() };

function say(error) {
  place("said").replaceChildren(error.message ?? String(error),
    h("button", { onclick: () => place("said").replaceChildren() }, "Close"));
}

function frame() {
  const session = api.who();
  place("nav").hidden = !session;
  place("nav").replaceChildren(...TABS.filter(([, , may]) => !may || may()).map(([at, name]) =>
    h("a", { href: at, "aria-current": location.hash.startsWith(at) && "page" }, name)));
  place("who").replaceChildren(...(session ? [`${session.name} · ${session.projectName}`,
    h("button", { onclick: api.signOut }, "Sign out")] : []));
}

async function show() {
  shown.abort.abort();
  const here = { abort: new AbortController() };
  shown = here;
  place("said").replaceChildren();
  place("live").textContent = "";
  frame();
  if (!api.who()) {
    document.title = "Sign in · pf9 plane";
    place("view").replaceChildren(signIn(() => { location.hash ||= "#/hosts"; show(); }));
    place("view").querySelector("input")?.focus();
    return;
  }
  const [, view, found] = VIEWS.map(([at, make]) => [at, make, location.hash.match(at)]).find((v) => v[2]) ?? [];
  if (!view) {
    location.replace("#/hosts");
    return;
  }
  const made = view(...found.slice(1).map(decodeURIComponent));
  document.title = `${made.title} · pf9 plane`;
  const draw = async (first) => {
    try {
      const content = await made.draw(here.abort.signal);
      if (shown !== here) return;
      const kept = first ? () => {} : keep();
      place("view").replaceChildren(...[content].flat(9).filter(Boolean));
      kept();
      if (first) place("view").focus();
    } catch (error) {
      if (shown === here && api.who()) say(error);
    }
  };
  // Another part of the same view.
  window.addEventListener("turned", () => draw(false).then(() => place("view").focus()), { signal: here.abort.signal });
  await draw(true);
  if (made.live && shown === here) follow(here, draw);
}

/** What somebody opened and wrote is there when the view is drawn again. */
function keep() {
  const view = place("view");
  const open = new Set([...view.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  const written = new Map([...view.querySelectorAll("input[id], select[id]")].map((input) => [input.id, input.value]));
  return () => {
    for (const summary of view.querySelectorAll("details > summary")) summary.parentElement.open ||= open.has(summary.textContent);
    for (const input of view.querySelectorAll("input[id], select[id]")) input.value = written.get(input.id) ?? input.value;
  };
}

/** Draws again when the plane says that something changed; never while somebody types, nor faster than PACE. */
function follow(here, draw) {
  let due = null;
  const typing = () => place("view").contains(document.activeElement)
    && ["INPUT", "SELECT"].includes(document.activeElement.tagName);
  const look = () => {
    due ??= setTimeout(async () => {
      due = null;
      if (shown !== here) return;
      if (typing()) return look();
      const at = document.activeElement?.dataset?.key;
      await draw(false);
      if (at) place("view").querySelector(`[data-key="${CSS.escape(at)}"]`)?.focus();
    }, PACE);
  };
  here.abort.signal.addEventListener("abort", () => clearTimeout(due));
  const said = (why) => { if (shown === here) place("live").textContent = why ?? "live"; };
  api.listen(look, said, here.abort.signal);
}

window.addEventListener("hashchange", show);
window.addEventListener("left", show);
window.addEventListener("redraw", show);
window.addEventListener("unhandledrejection", (event) => say(event.reason));
show();
