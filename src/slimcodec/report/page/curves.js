"use strict";
// Rate and distortion: one chart, a choice of metric, and the legend, whose buttons show and hide a codec.

const GROUPS = {
  model: "Models",
  rounds: "Pruning rounds",
  anchor: "Other codecs, run here",
  quoted: "Published curves",
};
const SYMBOLS = [
  "circle",
  "square",
  "triangle-up",
  "diamond",
  "triangle-down",
  "pentagon",
  "hexagon2",
  "triangle-left",
];
const shown = new Set(Object.keys(DATA.codecs).filter((name) => DATA.codecs[name].group !== "quoted"));
const state = { metric: Object.keys(DATA.metrics).find((name) => Object.keys(DATA.curves[name]).length), log: false };

function drawCurves() {
  if (!state.metric) return;
  const curves = DATA.curves[state.metric];
  const names = Object.keys(curves);
  const range = curveRange(names.filter((name) => shown.has(name)).map((name) => curves[name]));
  const chart = layout({
    height: narrow() ? 380 : 500,
    uirevision: state.metric + state.log, // toggling a codec keeps the zoom
    xaxis: { type: state.log ? "log" : "linear", range: range.x, title: axisTitle("rate (bits per pixel)") },
    yaxis: { range: range.y, title: axisTitle(DATA.metrics[state.metric].axis) },
  });
  const traces = names.map((name, index) => curveTrace(name, curves[name], index));
  draw("curves-plot", traces, chart);
}

function curveTrace(name, curve, index) {
  const codec = DATA.codecs[name];
  const ours = codec.group === "model" || codec.group === "rounds";
  const { digits, unit } = DATA.metrics[state.metric];
  const quality = codec.group === "quoted" ? "" : "quality %{customdata}, ";
  return {
    type: "scatter",
    mode: "lines+markers",
    name: plain(codec.label),
    visible: shown.has(name),
    x: curve.bpp,
    y: curve.values,
    customdata: curve.quality,
    line: { color: colour(name), width: ours ? 2.6 : 1.5, dash: codec.group === "quoted" ? "dot" : "solid" },
    marker: { symbol: SYMBOLS[index % SYMBOLS.length], size: ours ? 7.5 : 6.5 },
    hovertemplate: `<b>${plain(codec.label)}</b><br>${quality}%{x:.3f} bpp<br>%{y:.${digits}f} ${unit}<extra></extra>`,
  };
}

/** What to show first: rates a little beyond the models', and the values that the shown curves have there. */
function curveRange(curves) {
  const limit = DATA.rateLimit ?? Infinity;
  const points = curves.flatMap((curve) => curve.bpp.map((bpp, i) => [bpp, curve.values[i]]));
  const inside = points.filter(([bpp, value]) => bpp <= limit && value !== null);
  if (!inside.length) return { x: state.log ? [-1, 0.5] : [0, 1], y: undefined };
  const rates = inside.map(([bpp]) => bpp);
  const values = inside.map(([, value]) => value);
  const most = Math.min(limit, 1.08 * Math.max(...rates));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const space = 0.05 * (high - low) || 1;
  const x = state.log ? [Math.log10(0.92 * Math.min(...rates)), Math.log10(most)] : [0, most];
  return { x, y: [low - space, high + space] };
}

function drawLegend() {
  if (!state.metric) return;
  const groups = Object.entries(GROUPS).map(([group, title]) => {
    const keys = Object.keys(DATA.codecs)
      .filter((name) => DATA.codecs[name].group === group)
      .map(legendKey);
    if (!keys.length) return null;
    const row = element(
      "div",
      { class: "legend-group" },
      group === "quoted" ? null : element("span", {}, title),
      ...keys,
    );
    return group === "quoted" ? quotedGroup(row, keys.length) : row;
  });
  $("legend").replaceChildren(...groups.filter(Boolean));
}

function quotedGroup(row, count) {
  const open = $("legend").querySelector("details")?.open;
  const summary = element("summary", {}, `Published curves on the same pictures, PSNR RGB only (${count})`);
  return element("details", { open: open ? "" : null }, summary, row);
}

function legendKey(name) {
  const codec = DATA.codecs[name];
  const key = element(
    "button",
    {
      type: "button",
      class: codec.group === "quoted" ? "key dotted" : "key",
      "aria-pressed": String(shown.has(name)),
      title: codec.source ?? null,
    },
    element("i"),
    codec.label,
  );
  key.style.setProperty("--colour", colour(name));
  key.dataset.codec = name;
  key.addEventListener("click", () => {
    if (!shown.delete(name)) shown.add(name);
    key.setAttribute("aria-pressed", String(shown.has(name)));
    drawCurves();
  });
  return key;
}

function startCurves() {
  if (!state.metric) {
    $("curves-tools").remove();
    return leaveOut("curves-figure", "No codec has a point yet, so there are no curves.");
  }
  const measured = Object.entries(DATA.metrics).filter(([name]) => Object.keys(DATA.curves[name]).length);
  const choices = measured.map(([name, metric]) => [name, metric.axis]);
  choice($("metrics"), choices, state.metric, (name) => {
    state.metric = name;
    drawCurves();
  });
  $("log-rate").addEventListener("change", (event) => {
    state.log = event.target.checked;
    drawCurves();
  });
}
