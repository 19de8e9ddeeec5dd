// Asks for this page again and again and puts in what has changed: no request leaves this server, nothing is written.
"use strict";
(() => {
  const SLOWEST_MS = 15000;
  const root = document.documentElement;
  let etag = root.dataset.etag;
  let timer = 0;
  const parts = (tree) => [...tree.querySelectorAll("main > [data-part]")];
  const known = new Map(parts(document).map((part) => [part.dataset.part, part.outerHTML]));

  // What the reader did to a part: opened details, ticked boxes, scrolled tables, and where the keyboard is.
  const kept = (part) => ({
    open: [...part.querySelectorAll("details")].map((each) => each.open),
    ticked: new Set([...part.querySelectorAll("input:checked")].map((each) => each.value)),
    scrolled: [...part.querySelectorAll(".scroll")].map((each) => each.scrollLeft),
    focus: reachable(part).indexOf(document.activeElement),
  });
  const reachable = (part) => [...part.querySelectorAll("a, button, input, summary, [tabindex]")];

  function restore(part, before) {
    const details = [...part.querySelectorAll("details")];
    if (details.length === before.open.length) details.forEach((each, index) => { each.open = before.open[index]; });
    part.querySelectorAll("input").forEach((each) => { each.checked = before.ticked.has(each.value); });
    part.querySelectorAll(".scroll").forEach((each, index) => { each.scrollLeft = before.scrolled[index] || 0; });
    if (before.focus >= 0) reachable(part)[before.focus]?.focus({ preventScroll: true });
  }

  function show(text) {
    const next = new DOMParser().parseFromString(text, "text/html");
    const main = document.querySelector("main");
    const old = new Map(parts(document).map((part) => [part.dataset.part, part]));
    let place = null;
    for (const part of parts(next)) {
      const name = part.dataset.part;
      const html = part.outerHTML;
      let current = old.get(name);
      if (!current || known.get(name) !== html) {
        const fresh = document.adoptNode(part);
        if (current) {
          const before = kept(current);
          current.replaceWith(fresh);
          restore(fresh, before);
        } else if (place) place.after(fresh);
        else main.prepend(fresh);
        current = fresh;
        known.set(name, html);
      }
      old.delete(name);
      place = current;
    }
    for (const [name, part] of old) { part.remove(); known.delete(name); }
    if (document.title !== next.title) document.title = next.title;
    const say = document.getElementById("say");
    const said = next.getElementById("say").textContent;
    if (say.textContent !== said) say.textContent = said;
    root.dataset.poll = next.documentElement.dataset.poll;
  }

  async function refresh() {
    const began = performance.now();
    let failed = false;
    try {
      const answer = await fetch(location.href, { headers: { "If-None-Match": etag }, cache: "no-store" });
      if (answer.status === 200) {
        show(await answer.text());
        etag = answer.headers.get("ETag") || "";
      } else failed = answer.status !== 304;
    } catch {
      failed = true;
    }
    document.getElementById("offline").hidden = !failed;
    // a page that takes long to make is asked for less often
    later(Math.min(SLOWEST_MS, Math.max(1000 * root.dataset.poll, 10 * (performance.now() - began))));
  }

  function later(delay) {
    clearTimeout(timer);
    if (Number(root.dataset.poll) > 0) timer = setTimeout(() => (document.hidden ? later(1000) : refresh()), delay);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) later(0); });
  later(1000 * root.dataset.poll);
})();
