"use strict";
/* Shows the chosen run: verdict, charts, figures. */
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const at = (id) => document.getElementById(id);
  const select = at("run");
  const METRICS = { ttft_s: "TTFT", tbt_s: "TBT", e2e_s: "E2E" };
  const QUANTILES = ["p50", "p90", "p99"];
  let plots = [];
  let index = null;

  const element = (name, text, attributes) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  };

  const clear = () => {
    for (const plot of plots) plot.destroy();
    plots = [];
    at("latency").replaceChildren();
  };

  const describe = (place, text) => {
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", text);
  };

  const drawPower = (run) => {
    at("drawn").hidden = run.power === null;
    at("undrawn").hidden = run.power !== null;
    if (run.power === null) return;
    at("worst-when").textContent = "from " + charts.clock(run.power.worst_start_s, true);
    plots.push(...charts.power([at("power"), at("caps")], run, content.budget_w));
    plots.push(...charts.worst([at("worst"), at("worst-caps")], run, content.budget_w));
    const peak = run.facts["peak_over_budget"];
    describe(at("power"), "Power of " + run.name + " against the budget" + (peak ? "; meter peak " + peak : ""));
    describe(at("caps"), "Share of servers under a cap, and brakes");
    describe(at("worst"), "Power second by second around the highest meter reading");
    describe(at("worst-caps"), "Share of servers under a cap, and brakes, second by second");
  };

  const drawLatency = (run) => {
    at("distributed").hidden = run.latency.length === 0;
    at("undistributed").hidden = run.latency.length !== 0;
    /* All places first: the width of one depends on how many stand beside it. */
    const places = run.latency.map((curve) => {
      const title = (curve.priority === "high" ? "High" : "Low") + " priority, " + METRICS[curve.metric];
      const block = element("div"), place = element("div", undefined, { class: "chart" });
      describe(place, "Distribution of " + title + ", this run and uncapped");
      block.append(element("h4", title), place);
      return block;
    });
    at("latency").append(...places);
    run.latency.forEach((curve, i) => plots.push(charts.latency(places[i].lastChild, curve)));
  };

  const fillQuantiles = (run) => {
    const table = at("quantiles"), used = new Set();
    table.replaceChildren();
    const body = element("tbody");
    for (const priority of ["high", "low"]) for (const [metric, name] of Object.entries(METRICS)) {
      const line = element("tr");
      line.append(element("th", (priority === "high" ? "High" : "Low") + " priority, " + name, { scope: "row" }));
      let found = false;
      for (const quantile of QUANTILES) {
        const tail = "." + priority + "." + metric + "." + quantile;
        for (const key of ["latency" + tail, "latency_change_detail_pct" + tail]) {
          const text = run.facts[key];
          found = found || (text !== undefined && text !== "none");
          used.add(key);
          line.append(element("td", text === undefined ? "none" : text));
        }
      }
      if (found) body.append(line);
    }
    const head = element("thead"), titles = element("tr");
    titles.append(element("th", "latency", { scope: "col" }));
    for (const quantile of QUANTILES) {
      titles.append(element("th", quantile.toUpperCase(), { scope: "col" }), element("th", "change", { scope: "col" }));
    }
    head.append(titles);
    if (body.childElementCount) table.append(head, body);
    return used;
  };

  const fillFacts = (run) => {
    const used = fillQuantiles(run), items = [];
    for (const [key, text] of Object.entries(run.facts)) {
      if (used.has(key)) continue;
      const item = element("div", undefined, { title: key });
      item.append(element("dt", content.labels[key]), element("dd", text));
      items.push(item);
    }
    at("facts").replaceChildren(...items);
  };

  const show = (chosen) => {
    const run = content.runs[chosen];
    if (run === undefined) return;
    index = chosen;
    select.value = String(chosen);
    clear();
    at("verdict").textContent = run.verdict;
    at("verdict").className = "verdict " + run.outcome;
    at("place").textContent = run.place + ": " + run.name;
    for (const cell of document.querySelectorAll(".cell")) cell.setAttribute("aria-pressed", String(+cell.dataset.run === chosen));
    for (const line of document.querySelectorAll("[data-row]")) line.classList.toggle("chosen", +line.dataset.row === chosen);
    drawPower(run);
    drawLatency(run);
    fillFacts(run);
    document.documentElement.dataset.shown = String(chosen);
  };

  const choose = (chosen) => {
    show(chosen);
    history.replaceState(null, "", "#run=" + index);
  };

  const fromAddress = () => {
    const found = /^#run=(\d+)$/.exec(location.hash);
    return found && content.runs[+found[1]] ? +found[1] : +select.dataset.chosen;
  };

  select.addEventListener("change", () => choose(+select.value));
  at("before").addEventListener("click", () => choose((index - 1 + content.runs.length) % content.runs.length));
  at("after").addEventListener("click", () => choose((index + 1) % content.runs.length));
  for (const cell of document.querySelectorAll(".cell")) cell.addEventListener("click", () => {
    choose(+cell.dataset.run);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    at("one").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  });
  addEventListener("hashchange", () => show(fromAddress()));
  /* Canvas colours are fixed when drawn. */
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(index));
  let width = document.documentElement.clientWidth, waiting = 0;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => show(index), 120);
  });
  if (content.runs.length) show(fromAddress());
})();
