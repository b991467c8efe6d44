"use strict";
(() => {
  window.addEventListener("error", (event) => {
    const place = document.getElementById("page-errors");
    place.hidden = false;
    place.textContent += `This page has an error: ${event.message} `;
  });
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);

  // Text from outside only ever becomes a text node.
  const make = (name, attributes = {}, text = null) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    return node;
  };
  const draw = (name, attributes = {}, text = null) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    return node;
  };
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e6 || size < 1e-4 ? value.toExponential(2).replace(/\.?0*e\+?/, "e") : String(Number(value.toPrecision(4)));
  };

  // ------------------------------------------------------------------ light and dark

  by("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.classList.contains("dark") || (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
    root.classList.toggle("dark", !isDark);
    root.classList.toggle("light", isDark);
  });

  // ------------------------------------------------------------------ plots

  const HEIGHT = 168, LEFT = 50, RIGHT = 10, TOP = 10, BOTTOM = 22;
  const view = { smooth: 0, log: false, from: null, to: null, step: null };
  const plots = [];
  const lastStep = Math.max(1, ...data.metrics.map((metric) => metric.steps[metric.steps.length - 1] ?? 0));
  const firstStep = Math.min(lastStep - 1, ...data.metrics.map((metric) => metric.steps[0] ?? 0));
  const alerts = data.alerts.filter((alert) => alert.step !== null && (alert.level === "warning" || alert.level === "error"));

  // Exponential mean with the bias of its start taken out, so that the first values do not lean to 0.
  const smoothed = (values, weight) => {
    let mean = 0, mass = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return mean / mass;
    });
  };
  const ticks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? 10 * power;
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const factor of high - low > 2 ? [1] : [1, 2, 5]) {
        const at = power + Math.log10(factor);
        if (at >= low - 1e-9 && at <= high + 1e-9) found.push(at);
      }
    }
    return found;
  };

  function drawPlot(plot) {
    const { metric, svg } = plot;
    const width = Math.max(200, svg.clientWidth || 340);
    const from = view.from ?? firstStep, to = view.to ?? lastStep;
    const x = (step) => LEFT + ((step - from) / Math.max(1e-9, to - from)) * (width - LEFT - RIGHT);
    const canLog = view.log && metric.values.every((value) => value === null || value > 0);
    const scale = (value) => (value === null ? null : canLog ? Math.log10(value) : value);
    const soft = view.smooth > 0 ? smoothed(metric.values, view.smooth) : null;
    let low = Infinity, high = -Infinity;
    metric.steps.forEach((step, place) => {
      const value = scale(metric.values[place]);
      if (value === null || step < from || step > to) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
    if (low > high) [low, high] = [0, 1];
    if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
      const half = Math.abs(high) * 0.1 || 0.5;
      [low, high] = [low - half, high + half];
    }
    const room = (high - low) * 0.06;
    [low, high] = [low - room, high + room];
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    Object.assign(plot, { x, y, scale, from, to, width, soft });

    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("height", HEIGHT);
    for (const at of canLog ? logTicks(low, high) : ticks(low, high, 4)) {
      if (y(at) < TOP - 1 || y(at) > HEIGHT - BOTTOM + 1) continue;
      svg.append(draw("line", { class: "tick", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }));
      svg.append(draw("text", { x: LEFT - 6, y: y(at) + 3.5, "text-anchor": "end" }, short(canLog ? 10 ** at : Number(at.toPrecision(12)))));
    }
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    for (const at of ticks(from, to, Math.max(2, Math.min(6, width / 80)))) {
      svg.append(draw("text", { x: x(at), y: HEIGHT - 7, "text-anchor": at === to ? "end" : "middle" }, short(at)));
    }
    const line = (values) => {
      let path = "", pen = "M";
      metric.steps.forEach((step, place) => {
        const value = scale(values[place]);
        if (value === null) { pen = "M"; return; }
        if (step < from && (metric.steps[place + 1] ?? Infinity) < from) return;
        if (step > to && (metric.steps[place - 1] ?? -Infinity) > to) return;
        path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
      });
      return path;
    };
    const clip = `clip-${plot.index}`;
    const frame = draw("clipPath", { id: clip });
    frame.append(draw("rect", { x: LEFT - 3, y: 0, width: width - LEFT - RIGHT + 6, height: HEIGHT - BOTTOM + 3 }));
    const inside = draw("g", { "clip-path": `url(#${clip})` });
    inside.append(draw("path", { class: soft ? "raw pale" : "raw", d: line(metric.values) }));
    if (soft) inside.append(draw("path", { class: "smooth", d: line(soft) }));
    if (metric.steps.length <= 40) {
      metric.steps.forEach((step, place) => {
        const value = scale(metric.values[place]);
        if (value !== null) inside.append(draw("circle", { class: "dot", cx: x(step), cy: y(value), r: 2.6 }));
      });
    }
    metric.steps.forEach((step, place) => {
      if (metric.values[place] === null) inside.append(draw("circle", { class: "broken", cx: x(step), cy: HEIGHT - BOTTOM - 3, r: 2.4 }));
    });
    svg.append(frame, inside);
    for (const alert of alerts) {
      if (alert.step < from || alert.step > to) continue;
      const at = x(alert.step), mark = draw("path", { class: `mark ${alert.level}`, d: `M${at - 4} ${HEIGHT - BOTTOM + 7}h8l-4 -7z` });
      mark.append(draw("title", {}, `step ${alert.step}, ${alert.code}: ${alert.message}`));
      svg.append(mark);
    }
    plot.hair = draw("g");
    plot.brush = draw("rect", { class: "brush", y: TOP, height: HEIGHT - TOP - BOTTOM, width: 0, visibility: "hidden" });
    svg.append(plot.hair, plot.brush);
    drawHair(plot);
  }

  function drawHair(plot) {
    const { metric } = plot;
    plot.hair.replaceChildren();
    if (view.step === null || !metric.steps.length) {
      plot.value.textContent = metric.last === null ? "" : `last ${short(metric.last)}`;
      return;
    }
    let place = 0;
    metric.steps.forEach((step, other) => {
      if (Math.abs(step - view.step) < Math.abs(metric.steps[place] - view.step)) place = other;
    });
    const step = metric.steps[place], value = metric.values[place];
    const mean = plot.soft ? `, smooth ${short(plot.soft[place])}` : "";
    plot.value.textContent = `step ${step}: ${value === null ? "not finite" : short(value)}${mean}`;
    if (step < plot.from || step > plot.to) return;
    plot.hair.append(draw("line", { class: "hair", x1: plot.x(step), x2: plot.x(step), y1: TOP, y2: HEIGHT - BOTTOM }));
    if (value !== null) plot.hair.append(draw("circle", { class: "dot", cx: plot.x(step), cy: plot.y(plot.scale(value)), r: 3.5 }));
  }

  const redraw = () => {
    for (const plot of plots) if (!plot.figure.hidden) drawPlot(plot);
    by("reset").disabled = view.from === null;
    document.documentElement.dataset.plots = String(plots.filter((plot) => !plot.figure.hidden).length);
  };
  const zoom = (from, to) => {
    [view.from, view.to] = [from, to];
    redraw();
  };
  const pointAt = (step) => {
    view.step = step;
    for (const plot of plots) if (!plot.figure.hidden) drawHair(plot);
  };

  function listen(plot) {
    const { svg, figure } = plot;
    const stepAt = (event) => {
      const box = svg.getBoundingClientRect();
      const share = (((event.clientX - box.left) / box.width) * plot.width - LEFT) / (plot.width - LEFT - RIGHT);
      return plot.from + Math.min(1, Math.max(0, share)) * (plot.to - plot.from);
    };
    let start = null;
    svg.addEventListener("pointerdown", (event) => {
      start = stepAt(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      const at = stepAt(event);
      pointAt(at);
      if (start === null) return;
      const [a, b] = [plot.x(Math.min(start, at)), plot.x(Math.max(start, at))];
      plot.brush.setAttribute("x", a);
      plot.brush.setAttribute("width", b - a);
      plot.brush.setAttribute("visibility", "visible");
    });
    svg.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const at = stepAt(event), [a, b] = [Math.min(start, at), Math.max(start, at)];
      start = null;
      plot.brush.setAttribute("visibility", "hidden");
      if (plot.x(b) - plot.x(a) > 6) zoom(a, b);
    });
    svg.addEventListener("pointercancel", () => { start = null; plot.brush.setAttribute("visibility", "hidden"); });
    svg.addEventListener("pointerleave", () => { if (start === null) pointAt(null); });
    svg.addEventListener("dblclick", () => zoom(null, null));
    figure.addEventListener("keydown", (event) => {
      const steps = plot.metric.steps.filter((step) => step >= plot.from && step <= plot.to);
      if (event.key === "Escape") { pointAt(null); zoom(null, null); return; }
      if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key) || !steps.length) return;
      event.preventDefault();
      const here = view.step === null ? steps.length - 1 : steps.findIndex((step) => step >= view.step - 1e-9);
      const near = here < 0 ? steps.length - 1 : here;
      const next = { ArrowLeft: near - 1, ArrowRight: near + 1, Home: 0, End: steps.length - 1 }[event.key];
      pointAt(steps[Math.min(steps.length - 1, Math.max(0, next))]);
    });
  }

  const isFlat = (metric) => metric.min === metric.max && metric.notFinite === 0;
  const groups = new Map();
  data.metrics.forEach((metric, index) => {
    if (!groups.has(metric.group)) {
      const group = make("div", { class: "group" });
      const grid = make("div", { class: "grid" });
      group.append(make("h3", {}, metric.group), grid);
      by("charts").append(group);
      groups.set(metric.group, { group, grid });
    }
    const range = metric.count ? `from ${short(metric.first)} to ${short(metric.last)}, least ${short(metric.min)}, greatest ${short(metric.max)}` : "no values";
    const figure = make("figure", { tabindex: "0", role: "group", "aria-label": `${metric.name} by step: ${range}` });
    const caption = make("figcaption");
    const value = make("span", { "aria-live": "polite" });
    caption.append(make("b", {}, metric.name), value);
    const svg = draw("svg", { "aria-hidden": "true" });
    figure.append(caption, svg);
    groups.get(metric.group).grid.append(figure);
    const plot = { metric, index, figure, svg, value };
    plots.push(plot);
    listen(plot);
  });
  const filter = () => {
    const words = by("find").value.toLowerCase().trim();
    for (const plot of plots) {
      plot.figure.hidden = !(plot.metric.name.toLowerCase().includes(words) && (words || by("flat").checked || !isFlat(plot.metric)));
    }
    for (const { group, grid } of groups.values()) group.hidden = [...grid.children].every((figure) => figure.hidden);
    redraw();
  };
  by("find").addEventListener("input", filter);
  by("flat").addEventListener("change", filter);
  by("log").addEventListener("change", () => { view.log = by("log").checked; redraw(); });
  by("smooth").addEventListener("input", () => {
    view.smooth = Number(by("smooth").value);
    by("smooth-value").textContent = view.smooth ? view.smooth.toFixed(2) : "off";
    redraw();
  });
  by("reset").addEventListener("click", () => zoom(null, null));
  filter();
  let waiting = false, drawnWidth = window.innerWidth;
  window.addEventListener("resize", () => {
    if (waiting || window.innerWidth === drawnWidth) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawnWidth = window.innerWidth; redraw(); });
  });

  // ------------------------------------------------------------------ samples

  const COLUMNS = [
    ["step", "step"], ["reward", "reward"], ["prompt", "prompt"], ["completion", "completion"], ["status", "verdict"],
    ["tokens", "tokens"], ["end", "end"], ["advantage", "advantage"], ["gap", "log-prob gap"],
  ];
  const NUMBERS = new Set(["step", "reward", "tokens", "advantage", "gap"]);
  const PAGE = 25;
  if (data.samples.length) {
    const table = by("sample-table"), head = table.tHead.rows[0], body = table.tBodies[0];
    const sorting = { key: "step", down: true };
    let shown = PAGE;
    const columns = COLUMNS.filter(([key]) => data.samples.some((sample) => sample[key] !== null && sample[key] !== ""));
    const cells = new Map();
    for (const [key, label] of columns) {
      const cell = make("th", { scope: "col", class: NUMBERS.has(key) ? "n" : "" });
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        sorting.down = sorting.key === key ? !sorting.down : NUMBERS.has(key);
        sorting.key = key;
        list();
      });
      cell.append(button);
      head.append(cell);
      cells.set(key, [cell, button, label]);
    }
    for (const status of [...new Set(data.samples.map((sample) => sample.status))].filter(Boolean).sort()) {
      by("sample-status").append(make("option", { value: status }, status));
    }
    const list = () => {
      const words = by("sample-find").value.toLowerCase(), status = by("sample-status").value;
      const found = data.samples.filter((sample) => (!status || sample.status === status)
        && (!words || sample.id.toLowerCase().startsWith(words) || sample.prompt.toLowerCase().includes(words) || sample.completion.toLowerCase().includes(words)));
      const sign = sorting.down ? -1 : 1;
      found.sort((a, b) => {
        const [one, two] = [a[sorting.key], b[sorting.key]];
        if (one === null || two === null) return (one === null) - (two === null);
        return sign * (one < two ? -1 : one > two ? 1 : 0);
      });
      for (const [key, [cell, button, label]] of cells) {
        const on = key === sorting.key;
        cell.setAttribute("aria-sort", on ? (sorting.down ? "descending" : "ascending") : "none");
        button.textContent = label + (on ? (sorting.down ? " ↓" : " ↑") : "");
      }
      body.replaceChildren();
      for (const sample of found.slice(0, shown)) {
        const row = make("tr", { tabindex: "0", title: sample.id });
        for (const [key] of columns) {
          if (key === "prompt" || key === "completion") {
            const cell = make("td", { class: "text" });
            cell.append(make("div", {}, sample[key]));
            row.append(cell);
          } else if (NUMBERS.has(key)) row.append(make("td", { class: "n" }, short(sample[key])));
          else row.append(make("td", {}, sample[key]));
        }
        const open = () => row.classList.toggle("open");
        row.addEventListener("click", () => { if (!String(getSelection())) open(); });
        row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
        body.append(row);
      }
      by("sample-count").textContent = `${Math.min(shown, found.length)} of ${found.length}`;
      by("more").hidden = found.length <= shown;
    };
    by("sample-find").addEventListener("input", () => { shown = PAGE; list(); });
    by("sample-status").addEventListener("change", () => { shown = PAGE; list(); });
    by("more").addEventListener("click", () => { shown += 4 * PAGE; list(); });
    list();
  }

  // ------------------------------------------------------------------ configuration

  const config = by("config-table");
  const lookUp = () => {
    const words = by("config-find").value.toLowerCase();
    config.classList.toggle("all", by("config-all").checked || words !== "");
    for (const row of config.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(words);
  };
  by("config-find").addEventListener("input", lookUp);
  by("config-all").addEventListener("change", lookUp);
  lookUp();
})();
