// The report's figures: SVG for axes and for what can be chosen, one canvas per figure for thousands of trials.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const T = data.trials, byKey = new Map(data.members.map(m => [m.key, m]));
const unit = name => (data.objectives.find(o => o.name === name) || { unit: "" }).unit;
const label = name => unit(name) ? `${name} [${unit(name)}]` : name;
const redraws = [];
let chosen = null;

// ---- small helpers ------------------------------------------------------------------------------------------
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "circle", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children.filter(c => c !== null));
  return node;
}
const show = v => v === null || v === undefined ? "-" : Number.isInteger(v) ? v.toLocaleString("en") : Math.abs(v) >= 1e5 ? v.toLocaleString("en", { maximumSignificantDigits: 5 })
  : Number(v.toPrecision(4)).toString();
const spread = (v, s) => show(v) + (s ? ` ± ${Number(s.toPrecision(2))}` : "");
const short = v => { const a = Math.abs(v); return a >= 1e9 ? +(v / 1e9).toPrecision(3) + "G" : a >= 1e6 ? +(v / 1e6).toPrecision(3) + "M"
  : a >= 1e4 ? +(v / 1e3).toPrecision(3) + "k" : String(+v.toPrecision(3)); };
const known = values => values.filter(v => v !== null && v !== undefined && Number.isFinite(v));
const section = id => document.querySelector(`#${id} .figures`);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function extent(values, log) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  if (low > high) return log ? [1, 10] : [0, 1];
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.06, high * 1.06];
  const pad = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - pad, high + pad];
}
function ticks([low, high], log, wanted) {
  if (log) {
    const all = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) all.push(m * 10 ** e);
    if (all.length > 1) return all.length <= wanted + 2 ? all : all.filter((_, i) => i % Math.ceil(all.length / wanted) === 0);
  }
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(m => m * power >= raw) * power, out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

// A figure redraws itself at every width and theme; draw(area) gets scales and the group to draw into.
function figure(parent, { title, caption, height = 300, controls = [] }, draw) {
  const plot = make("div", { class: "plot" });
  const node = make("figure", {}, make("h3", {}, title), ...controls, plot, make("figcaption", {}, caption || ""));
  parent.append(node);
  const redraw = () => { plot.replaceChildren(); draw(plot, Math.max(240, plot.clientWidth), height); };
  redraws.push(redraw); // drawn once all figures stand: only then are the columns of the page known
  return { node, plot, redraw };
}
function axes(plot, width, height, { x, y, left = 56, name }) {
  const box = { left, right: width - 10, top: 10, bottom: height - 40 };
  const scale = (d, log, a, b) => { const f = log ? Math.log : v => v, [l, h] = d.map(f); return v => a + (f(v) - l) / (h - l) * (b - a); };
  const sx = scale(x.domain, x.log, box.left, box.right), sy = scale(y.domain, y.log, box.bottom, box.top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": name });
  for (const v of ticks(x.domain, x.log, Math.max(3, width / 90))) svg.append(
    make("line", { class: "grid", x1: sx(v), x2: sx(v), y1: box.top, y2: box.bottom }),
    make("text", { x: sx(v), y: box.bottom + 16, "text-anchor": "middle" }, short(v)));
  for (const v of ticks(y.domain, y.log, height / 60)) svg.append(
    make("line", { class: "grid", y1: sy(v), y2: sy(v), x1: box.left, x2: box.right }),
    make("text", { x: box.left - 6, y: sy(v) + 4, "text-anchor": "end" }, short(v)));
  svg.append(make("text", { x: box.right, y: height - 6, "text-anchor": "end" }, x.label),
    make("text", { x: 14, y: box.top + 4, "text-anchor": "end", transform: `rotate(-90 14 ${box.top + 4})` }, y.label));
  plot.append(svg);
  return { svg, sx, sy, box };
}
function cloud(plot, area, width, height, xs, ys, radius, ink = "--trial") {
  const ratio = devicePixelRatio || 1, canvas = make("canvas", { width: width * ratio, height: height * ratio, "aria-hidden": "true" });
  canvas.style.cssText = `left:0;top:0;width:${width}px;height:${height}px`;
  plot.prepend(canvas);
  const pen = canvas.getContext("2d"), px = new Float32Array(xs.length), py = new Float32Array(xs.length);
  pen.scale(ratio, ratio); pen.fillStyle = colour(ink); pen.globalAlpha = xs.length > 2000 ? 0.35 : 0.6;
  for (let i = 0; i < xs.length; i++) {
    px[i] = xs[i] === null || ys[i] === null ? NaN : area.sx(xs[i]); py[i] = px[i] === px[i] ? area.sy(ys[i]) : NaN;
    if (px[i] !== px[i]) continue;
    if (xs.length > 2000) pen.fillRect(px[i] - radius, py[i] - radius, 2 * radius, 2 * radius); // many times faster
    else { pen.beginPath(); pen.arc(px[i], py[i], radius, 0, 7); pen.fill(); }
  }
  return { px, py };
}
const path = (area, xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${area.sx(x).toFixed(1)} ${area.sy(ys[i]).toFixed(1)}`).join("");

// ---- the front of a device: all trials, hover, choose -------------------------------------------------------
const positive = name => known(T.values[name] || []).every(v => v > 0) &&
  /(_ms|bytes|macs|parameters|nonzeros|energy_mj)/.test(name);
function pick(text, names, value) {
  const select = make("select", { "aria-label": text });
  for (const name of names) select.append(make("option", name === value ? { value: name, selected: "" } : { value: name }, name));
  return select;
}
function genes(i) {
  return data.genes.map((g, j) => [g, T.genotype[i][j]]).filter(([, c]) => c !== ".")
    .map(([g, c]) => [g.name, g.choices["0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".indexOf(c)]]);
}
function front(device) {
  const own = data.objectives.filter(o => o.device === null || o.device === device).map(o => o.name);
  const names = own.length > 1 ? own : [own[0], own[0]];
  const measured = names.find(n => n.endsWith("@" + device));
  const y0 = names[0] === measured && names.length > 1 ? names[1] : names[0];
  const x = pick("Horizontal axis", own, measured && measured !== y0 ? measured : names.find(n => n !== y0) || y0);
  const y = pick("Vertical axis", own, y0);
  const controls = make("div", { class: "controls" }, make("span", {}, "across ", x), make("span", {}, "up ", y));
  const on = new Set(device && data.fronts[device] ? data.fronts[device] : data.members.map(m => m.key));
  const members = data.members.filter(m => on.has(m.key) && m.error === null);
  const drawn = figure(section("front"), {
    title: device ? `Front on ${device}` : "Front", height: 380, controls: [controls],
    caption: `Grey: trials, as searched. Circle: dense net, diamond: sparse net of the front, as measured again, ` +
      `bars: ± one standard error; faded: falls behind another net. Choose with a click, or with arrow keys and Enter.`,
  }, (plot, width, height) => {
    const nx = x.value, ny = y.value, xs = T.values[nx], ys = T.values[ny];
    const shown = members.filter(m => m.values[nx] != null && m.values[ny] != null);
    const axis = (name, all) => { const log = positive(name); return { label: label(name), log, domain: extent(known(all), log) }; };
    const area = axes(plot, width, height, {
      x: axis(nx, [...xs, ...shown.map(m => m.values[nx])]), y: axis(ny, [...ys, ...shown.map(m => m.values[ny])]),
      name: `${label(ny)} against ${label(nx)}, ${shown.length} nets of the front` });
    for (const o of data.objectives) if (o.limit !== null) {
      if (o.name === nx) area.svg.append(make("line", { class: "limit", x1: area.sx(o.limit), x2: area.sx(o.limit), y1: area.box.top, y2: area.box.bottom }));
      if (o.name === ny) area.svg.append(make("line", { class: "limit", y1: area.sy(o.limit), y2: area.sy(o.limit), x1: area.box.left, x2: area.box.right }));
    }
    const trials = cloud(plot, area, width, height, xs, ys, xs.length > 2000 ? 1.6 : 2.6);
    const ordered = [...shown].sort((a, b) => a.values[nx] - b.values[nx]), marks = [];
    for (const [i, m] of ordered.entries()) {
      const cx = area.sx(m.values[nx]), cy = area.sy(m.values[ny]), kind = m.sparse ? "sparse" : "dense";
      const half = (name, s) => m.stds[name] ? Math.abs(s(m.values[name] + m.stds[name]) - s(m.values[name])) : 0;
      const hx = half(nx, area.sx), hy = half(ny, area.sy);
      const shape = m.sparse ? `M${cx} ${cy - 7}l6 7l-6 7l-6-7z` : `M${cx - 5.5} ${cy}a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0`;
      const mark = make("g", { class: `member${m.behind ? " behind" : ""}${m.key === chosen ? " chosen" : ""}`, role: "button",
        "data-key": m.key, tabindex: i ? "-1" : "0", "aria-label": `net ${m.key}, ${kind}: ${label(nx)} ${show(m.values[nx])}, ${label(ny)} ${show(m.values[ny])}` },
        make("line", { class: `bar ${kind}`, x1: Math.max(cx - hx, area.box.left), x2: Math.min(cx + hx, area.box.right), y1: cy, y2: cy }),
        make("line", { class: `bar ${kind}`, x1: cx, x2: cx, y1: Math.max(cy - hy, area.box.top), y2: Math.min(cy + hy, area.box.bottom) }), make("path", { class: kind, d: shape }));
      mark.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (step) { event.preventDefault(); const next = marks[(i + step + marks.length) % marks.length];
          mark.setAttribute("tabindex", "-1"); next.setAttribute("tabindex", "0"); next.focus(); }
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(m.key); }
      });
      mark.addEventListener("focus", () => tip(plot, cx, cy, about(m.key, m.values, m.stds, own, genesOf(m))));
      mark.addEventListener("blur", () => tip(plot));
      marks.push(mark); area.svg.append(mark);
    }
    // What is near the pointer: a net of the front first, then a trial; a scan of 10,000 takes well under a ms.
    const near = event => {
      const frame = plot.getBoundingClientRect(), mx = event.clientX - frame.left, my = event.clientY - frame.top;
      let best = null, least = 14 ** 2;
      ordered.forEach(m => { const d = (area.sx(m.values[nx]) - mx) ** 2 + (area.sy(m.values[ny]) - my) ** 2; if (d < least) { least = d; best = { m }; } });
      if (!best) { least = 10 ** 2; for (let i = 0; i < trials.px.length; i++) { const d = (trials.px[i] - mx) ** 2 + (trials.py[i] - my) ** 2; if (d < least) { least = d; best = { i }; } } }
      return best;
    };
    plot.onpointermove = event => {
      const hit = near(event);
      if (!hit) return tip(plot);
      if (hit.m) return tip(plot, area.sx(hit.m.values[nx]), area.sy(hit.m.values[ny]), about(hit.m.key, hit.m.values, hit.m.stds, own, genesOf(hit.m)));
      const i = hit.i, pickd = s => Object.fromEntries(own.map(n => [n, s[n] ? s[n][i] : null]));
      tip(plot, trials.px[i], trials.py[i], about(`trial ${T.index[i]}, ${T.key[i]}`, pickd(T.values), pickd(T.stds), own, genes(i)));
    };
    plot.onpointerleave = () => tip(plot);
    plot.onclick = event => { const hit = near(event); if (hit) hit.m ? choose(hit.m.key) : chooseTrial(hit.i); };
  });
  x.addEventListener("change", drawn.redraw); y.addEventListener("change", drawn.redraw);
}
const genesOf = m => Object.entries(m.architecture);
function about(title, values, stds, names, pairs) {
  const lines = names.map(n => make("div", {}, `${label(n)}: ${spread(values[n], stds[n])}`));
  const some = pairs.slice(0, 12).map(([g, c]) => `${g} ${c}`).join(", ") + (pairs.length > 12 ? ", ..." : "");
  return [make("strong", {}, title), ...lines, make("div", { class: "note" }, some)];
}
function tip(plot, x, y, children) {
  plot.querySelector(".tip")?.remove();
  if (!children) return;
  const node = make("div", { class: "tip" }, ...children);
  plot.append(node);
  node.style.left = `${Math.max(0, Math.min(x + 12, plot.clientWidth - node.offsetWidth))}px`;
  node.style.top = `${y > node.offsetHeight + 14 ? y - node.offsetHeight - 12 : y + 14}px`;
}

// ---- the card of what was chosen ----------------------------------------------------------------------------
const card = make("div", { class: "card", id: "card", role: "region", "aria-label": "Chosen net", "aria-live": "polite", tabindex: "-1" },
  make("p", {}, "Choose a net in a figure or in the table: its numbers, genes and export command appear here."));
const list = pairs => make("dl", {}, ...pairs.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
function choose(key) {
  const m = byKey.get(key); if (!m) return;
  chosen = key;
  document.querySelectorAll(".member").forEach(n => n.classList.toggle("chosen", n.dataset.key === key));
  const names = [...new Set([...data.metrics, ...Object.keys(m.values)])];
  const command = `hwsearch export ${quoted(`${data.run}:${key}`)} --format onnx`;
  const copy = make("button", { type: "button" }, "Copy"), told = make("span", { role: "status" });
  copy.addEventListener("click", () => navigator.clipboard?.writeText(command).then(() => { told.textContent = "copied"; }, () => { told.textContent = "select it by hand"; }));
  const notes = [m.sparse ? "sparse" : "dense", m.behind ? "falls behind another net when measured again" : "",
    m.ties.length ? `cannot be told from ${m.ties.join(", ")} (intervals of two standard errors overlap in every objective)` : "",
    m.probability === null ? "" : `on the true front with a probability of ${Math.round(100 * m.probability)} %`, m.exported ? `exported: ${data.run}/models/${key}/` : "",
    ...m.passed.map(p => `passes the limit of ${p}`)].filter(Boolean).join("; ");
  card.replaceChildren(make("h3", {}, `Net ${key}, trial ${m.index}`), make("p", { class: "note" }, notes),
    list(names.filter(n => m.values[n] != null).map(n => [label(n), `${spread(m.values[n], m.stds[n])}  (in the search ${show(m.search[n])})`])),
    make("details", { open: "" }, make("summary", {}, "Genes"), list(genesOf(m).map(([g, c]) => [g, String(c)]))),
    make("div", { class: "row" }, make("pre", { id: "command", tabindex: "0" }, command), copy, told));
  if (layerPick && m.layers) { layerPick.value = key; layerPick.dispatchEvent(new Event("change")); }
}
function chooseTrial(i) {
  if (byKey.has(T.key[i])) return choose(T.key[i]);
  card.replaceChildren(make("h3", {}, `Trial ${T.index[i]}, ${T.key[i]}`),
    make("p", { class: "note" }, "Not on the validated front: another net is at least as good in everything, or a limit is passed. Only nets of the front are exported."),
    list(data.metrics.filter(n => T.values[n] && T.values[n][i] != null).map(n => [label(n), spread(T.values[n][i], T.stds[n][i])])),
    make("details", { open: "" }, make("summary", {}, "Genes"), list(genes(i).map(([g, c]) => [g, String(c)]))));
}

// ---- hypervolume, effects, layers, predictors, stability ----------------------------------------------------
function hypervolume() {
  const h = data.hypervolume, r = h && h.random;
  if (!h) return section("progress").append(make("p", {}, "No trial keeps the limits yet."));
  const how = h.kind === "predicted" ? `Band: ${r.n_searches} random searches of the same length, whose networks were not measured but predicted by this run's predictors ` +
      `(middle: median; band: 10 to 90 %). Dashed: this run's own networks under the same predictors, the fair line to hold against the band.`
    : h.kind === "runs" ? `Band: ${r.n_searches} measured baseline run${r.n_searches > 1 ? "s" : ""} (middle: median; band: 10 to 90 %).`
    : "There is no random baseline: an objective has no predictor yet; hwsearch report RUN --baseline RANDOM_RUN gives one.";
  figure(section("progress"), { title: "Hypervolume over trials", height: 320,
    caption: `Share of the box between best and worst value of every objective that the found networks dominate. ${how}` }, (plot, width, height) => {
    const all = known([...h.found, ...(h.alike || []), ...(r ? [...r.low, ...r.high] : [])]);
    const area = axes(plot, width, height, { x: { label: "trials", domain: [0, Math.max(...h.at)] }, y: { label: "hypervolume", domain: extent(all) }, name: "Hypervolume over trials" });
    if (r) area.svg.append(make("path", { class: "band", d: path(area, [...r.at, ...[...r.at].reverse()], [...r.high, ...[...r.low].reverse()]) + "z" }),
      make("path", { class: "middle", d: path(area, r.at, r.middle) }));
    if (h.alike) area.svg.append(make("path", { class: "line alike", d: path(area, h.at, h.alike) }));
    area.svg.append(make("path", { class: "line", d: path(area, h.at, h.found) }));
  });
}
function bars(name, rows, title, caption) {
  figure(section("effects"), { title, caption, height: rows.length * 20 + 46 }, (plot, width, height) => {
    const left = Math.min(230, width * 0.45), reach = rows.flatMap(r => [r.value - r.half, r.value + r.half, 0]);
    const domain = extent(reach), s = v => left + (v - domain[0]) / (domain[1] - domain[0]) * (width - left - 8);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${title}: ` + rows.map(r => `${r.label} ${show(r.value)}`).join("; ") });
    for (const v of ticks(domain, false, Math.max(2, width / 140))) svg.append(make("line", { class: "grid", x1: s(v), x2: s(v), y1: 0, y2: height - 34 }), make("text", { x: s(v), y: height - 20, "text-anchor": "middle" }, short(v)));
    rows.forEach((r, i) => {
      const y = i * 20 + 4, cut = Math.floor(left / 6.6) - 1;
      svg.append(make("text", { x: left - 6, y: y + 12, "text-anchor": "end" }, r.label.length > cut ? r.label.slice(0, 6) + "…" + r.label.slice(7 - cut) : r.label),
        make("rect", { class: "effect", x: Math.min(s(0), s(r.value)), y: y + 2, width: Math.abs(s(r.value) - s(0)), height: 12 }, make("title", {}, `${r.label}: ${show(r.value)} ± ${show(r.half)}`)));
      if (r.half) svg.append(make("line", { class: "whisker", x1: s(r.value - r.half), x2: s(r.value + r.half), y1: y + 8, y2: y + 8 }));
    });
    svg.append(make("line", { class: "zero", x1: s(0), x2: s(0), y1: 0, y2: height - 34 }), make("text", { x: width - 4, y: height - 4, "text-anchor": "end" }, name));
    plot.append(svg);
  });
}
function effects() {
  const names = Object.keys(data.effects);
  if (!names.length) section("effects").append(make("p", {}, "Fewer than 8 finished trials, or nothing varied."));
  for (const name of names) {
    const e = data.effects[name], shares = Object.entries(e.shares).slice(0, 12);
    bars("share of the variance", shares.map(([g, v]) => ({ label: g, value: v, half: 0 })), `Genes that decide ${name}`,
      `Additive model on all finished trials; it explains ${Math.round(100 * e.r2)} % of the variance. Shares of genes that the search varied together overlap.`);
    const top = new Set(shares.slice(0, 6).map(([g]) => g));
    const rows = e.effects.filter(x => top.has(x[0])).slice(0, 24).map(([g, c, v, half, n]) => ({ label: `${g} ${c === null ? "absent" : c} (${n})`, value: v, half }));
    bars(`difference in ${label(name)}`, rows, `What each choice adds to ${name}`, "Against the average trial, all other genes equal; bars: 95 % interval; in brackets: trials with it.");
  }
}
let layerPick = null;
function layers() {
  const nets = data.members.filter(m => m.layers && m.layers.length);
  if (!nets.length) return section("layers").append(make("p", {}, "The layers could not be listed: there is no front, or the network cannot be built here."));
  layerPick = pick("Net whose layers are shown", nets.map(m => m.key), nets[0].key);
  section("layers").classList.add("wide");
  const drawn = figure(section("layers"), { title: "Layers, in order: weights and what is left of them", height: 300,
    controls: [make("div", { class: "controls" }, make("span", {}, "net"), layerPick)],
    caption: "Grey: bytes of the dense layer; filled: what its encoding stores, orange where it is sparse. Hover for sizes, sparsity and MACs." }, (plot, width, height) => {
    const m = byKey.get(layerPick.value), rows = m.layers, area = axes(plot, width, height, { left: 64,
      x: { label: "layer", domain: [0, rows.length] }, y: { label: "bytes", domain: [0, Math.max(...rows.map(r => 4 * r[5])) * 1.05] }, name: `Layers of ${m.key}` });
    rows.forEach((r, i) => {
      const [name, kind, inputs, outputs, kernel, weights, nonzeros, macs, bytes] = r, a = area.sx(i + 0.1), w = area.sx(i + 0.9) - a;
      const text = `${name}: ${kind} ${inputs} to ${outputs}, kernel ${kernel}; ${show(weights)} weights, ${show(100 * (1 - nonzeros / weights))} % zeros; ${show(macs)} MACs; ${show(bytes)} bytes`;
      const group = make("g", { role: "img", "aria-label": text }, make("title", {}, text), make("rect", { class: "box", x: a, width: w, y: area.sy(4 * weights), height: area.box.bottom - area.sy(4 * weights) }),
        make("rect", { class: nonzeros < weights ? "kept" : "full", x: a, width: w, y: area.sy(Math.min(bytes, 4 * weights)), height: area.box.bottom - area.sy(Math.min(bytes, 4 * weights)) }));
      area.svg.append(group);
    });
  });
  layerPick.addEventListener("change", drawn.redraw);
}
function predictors() {
  if (!data.predictors.length) section("predictors").append(make("p", {}, "No predictor was fitted: the run has not ended, or has too few measured trials."));
  for (const p of data.predictors) {
    const r = p.report, percent = v => v == null ? "-" : `${Math.round(100 * v)} %`;
    const numbers = `${p.model}, on ${r.n} trials by cross-validation: Kendall ${show(r.kendall)}, Spearman ${show(r.spearman)}, RMSE ${show(r.rmse)} ${p.unit}` +
      `${r.rmse_noise == null ? "" : ` (noise of the labels ${show(r.rmse_noise)})`}, mean error ${show(r.mape)} %, ${percent(r.level)} intervals cover ${percent(r.coverage)}.`;
    if (!p.held_out) { section("predictors").append(make("figure", {}, make("h3", {}, p.name), make("figcaption", {}, numbers))); continue; }
    const { value, mean, std } = p.held_out;
    const size = value.length > 1000 ? 1.5 : 3;
    figure(section("predictors"), { title: `${p.name}: predicted against measured`, caption: `Every trial was predicted by a model that had not seen it. ${numbers}` }, (plot, width, height) => {
      const domain = extent(known([...value, ...mean])), area = axes(plot, width, height, { x: { label: `measured${p.unit ? ` [${p.unit}]` : ""}`, domain }, y: { label: "predicted", domain }, name: `${p.name}: predicted against measured` });
      area.svg.append(make("line", { class: "zero", x1: area.sx(domain[0]), y1: area.sy(domain[0]), x2: area.sx(domain[1]), y2: area.sy(domain[1]) }));
      cloud(plot, area, width, height, value, mean, size, "--dense");
    });
    figure(section("predictors"), { title: `${p.name}: error in deviations`, caption: "(measured - predicted) / stated deviation: nine of ten should lie between the dashed lines (± 1.64)." }, (plot, width, height) => {
      const z = value.map((v, i) => std[i] ? (v - mean[i]) / std[i] : null), area = axes(plot, width, height, { x: { label: `predicted${p.unit ? ` [${p.unit}]` : ""}`, domain: extent(known(mean)) }, y: { label: "deviations", domain: extent(known([...z, -2, 2])) }, name: `${p.name}: residuals` });
      for (const v of [-1.645, 1.645]) area.svg.append(make("line", { class: "zero", x1: area.box.left, x2: area.box.right, y1: area.sy(v), y2: area.sy(v) }));
      cloud(plot, area, width, height, mean, z, size, "--dense");
    });
  }
}
function stability() {
  const names = Object.keys(data.stability);
  if (!names.length) section("stability").append(make("p", {}, "Nothing was timed in this run."));
  for (const device of names) {
    const s = data.stability[device];
    for (const [title, key, caption] of [
      [`${device}: reference net against its first timing`, "drift", "How fast the host was when a trial was timed. Latencies are normalised by it, so drift alone does not change them."],
      [`${device}: standard error of each latency`, "spread", "In percent of the latency; the ± of this report."]]) {
      if (!known(s[key]).length) continue;
      figure(section("stability"), { title, caption, height: 240 }, (plot, width, height) => {
        const area = axes(plot, width, height, { x: { label: "trial", domain: extent(s.index) }, y: { label: "%", domain: extent([...known(s[key]), 0]) }, name: title });
        area.svg.append(make("line", { class: "zero", x1: area.box.left, x2: area.box.right, y1: area.sy(0), y2: area.sy(0) }));
        cloud(plot, area, width, height, s.index, s[key], 2.4);
      });
    }
  }
}

// ---- start --------------------------------------------------------------------------------------------------
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = on => { root.classList.toggle("dark", on); redraws.forEach(f => f()); };
setTheme(dark.matches);
dark.addEventListener("change", event => setTheme(event.matches));
document.getElementById("theme").addEventListener("click", () => setTheme(!root.classList.contains("dark")));
(data.devices.length ? data.devices : [null]).forEach(front);
section("front").after(card);
hypervolume(); effects(); layers(); predictors(); stability();
document.querySelectorAll("button.key").forEach(b => b.addEventListener("click", () => { choose(b.dataset.key); card.focus(); card.scrollIntoView({ block: "nearest" }); }));
let width = innerWidth, wait = 0;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(wait); wait = setTimeout(() => redraws.forEach(f => f()), 120); } });
let before = false;
addEventListener("beforeprint", () => { before = root.classList.contains("dark"); setTheme(false); });
addEventListener("afterprint", () => setTheme(before));
redraws.forEach(f => f());
root.dataset.ready = "yes";
