import * as api from "./api.js";
import { count, field, h } from "./dom.js";

/** Lines that were typed here, the newest last; for this tab alone. */
const typed = [];
const TYPED_MAX = 50;
/** As many characters of output as stay on the page. */
const SHOWN_MAX = 1_500_000;
/** So near to its end, in pixels, output is taken to be followed. */
const NEAR = 40;

export function terminal(id) {
  return { title: "kubectl", live: false, async draw(signal) {
    const it = await api.clusters.one(id);
    const line = h("input", { id: "line", autocomplete: "off", autocapitalize: "off", spellcheck: "false", enterkeyhint: "go", placeholder: "get pods -A" });
    const text = h("textarea", { id: "text", rows: "8", spellcheck: "false", autocapitalize: "off" });
    const texts = h("details", null, h("summary", null, "Text for apply"), field("Text", text, "objects as YAML or JSON"));
    const said = h("pre", { id: "output", tabindex: "0", role: "region", "aria-label": "Output" });
    const end = h("p", { role: "status", id: "end" });
    // A button that is disabled loses the focus of the person who pressed it.
    const run = h("button", { class: "main", type: "submit", "aria-disabled": "false" }, "Run");
    const cancel = h("button", { type: "button", "aria-disabled": "true" }, "Cancel");
    let going = null, at = typed.length, lines = 0, isOpen = false;
    const applies = () => /^\s*((kubectl|k)\s+)?apply\b/.test(line.value);
    const busy = (now) => {
      going = now;
      run.setAttribute("aria-disabled", String(!!now));
      cancel.setAttribute("aria-disabled", String(!now));
    };
    const add = (kind, words) => {
      const follows = said.scrollHeight - said.scrollTop - said.clientHeight < NEAR;
      while (said.childNodes.length > 1 && said.textContent.length + words.length > SHOWN_MAX) said.firstChild.remove();
      // A line that was not ended is, by what does not belong to it.
      said.append(h("span", { class: kind }, isOpen && kind !== "out" ? `\n${words}` : words));
      lines += words.split("\n").length - 1;
      isOpen = !words.endsWith("\n");
      if (follows || kind === "typed") said.scrollTop = said.scrollHeight;
    };
    /** How it ended; what did not work stays with its line as well. */
    const ended = (words, worked) => {
      end.textContent = words;
      if (!worked) add("ended", `${words}\n`);
    };
    const begin = async () => {
      const wanted = line.value.trim();
      if (!wanted || going) return;
      if (typed.at(-1) !== wanted) typed.push(wanted);
      if (typed.length > TYPED_MAX) typed.shift();
      at = typed.length;
      const mine = new AbortController();
      busy(mine);
      end.textContent = "… running";
      add("typed", `$ ${wanted}\n`);
      lines = 0;
      said.scrollIntoView({ block: "nearest" });
      let over = null;
      try {
        await api.clusters.command(id, { line: wanted, ...(applies() && text.value.trim() ? { text: text.value } : {}) }, (event) => {
          if (event.out) add("out", event.out);
          if (event.err) add("err", event.err);
          over = event.end ?? over;
        }, mine.signal);
        if (mine.signal.aborted) throw new Error("cancelled");
        if (!over) throw new Error("the plane broke off: it is not known how it ended");
        ended(`${over.done ? "✓ done" : `✗ ${over.why}`} (${count(lines + isOpen, "line")}, ${over.seconds.toFixed(1)} s)`, over.done);
        if (over.done && line.value.trim() === wanted) line.value = "";
      } catch (error) {
        ended(mine.signal.aborted ? "✗ cancelled" : `✗ ${error.message}`, false);
      } finally {
        busy(null);
      }
    };
    cancel.addEventListener("click", () => going?.abort());
    line.addEventListener("input", () => { texts.open ||= applies(); });
    line.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(typed.length, at + step));
      line.value = typed[at] ?? "";
    });
    signal.addEventListener("abort", () => going?.abort());
    return [
      h("h1", null, "kubectl in ", h("a", { href: `#/clusters/${encodeURIComponent(id)}` }, it.name)),
      h("p", { class: "hint" }, "As you, with your role here. Each command is in the audit. There is no shell; kubectl is that of the cluster's stack."),
      h("form", { onsubmit: (event) => { event.preventDefault(); begin(); } },
        field("Command", line, "arrow up and down: what you typed before"),
        texts,
        h("p", { class: "bar" }, run, cancel)),
      end, said,
    ];
  } };
}
