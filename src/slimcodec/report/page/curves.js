"use strict";
// Rate and distortion: one chart, a choice of metric, and the legend, whose buttons show and hide a codec.

const GROUPS = {
  model: "Models",
  anchor: "Other codecs, run here",
  rounds: "Pruning rounds",
  quoted: "Published curves on the same pictures, PSNR RGB only",
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
const OFF = ["rounds", "quoted"]; // until asked for
const isOn = (name) => name === DATA.main || !OFF.includes(DATA.codecs[name].group);
const shown = new Set(Object.keys(DATA.codecs).filter(isOn));
const state = { metric: Object.keys(DATA.metrics).find((name) => Object.keys(DATA.curves[name]).length), log: false };

function drawCurves() {
  if (!state.metric) return;
  const curves = DATA.curves[state.metric];
  const names = Object.keys(curves);
  const range = curveRange(names.filter((name) => shown.has(name)).map((name) => curves[name]));
  const chart = layout({
    height: narrow() ? 380 : 500,
    uirevision: state.metric + state.log, // toggling a codec keeps the zoom
    xaxis: {
      type: state.log ? "log" : "linear",
      range: range.x,
      title: axisTitle("rate (bits per pixel)"),
      ...(state.log ? decimalTicks(range.x) : {}),
    },
    yaxis: { range: range.y, title: axisTitle(DATA.metrics[state.metric].axis) },
  });
  const traces = names.map((name, index) => curveTrace(name, curves[name], index));
  draw("curves-plot", traces.reverse(), chart); // the main model on top of the others
}

/** After a zoom a logarithmic axis has ticks of its own. */
function renewTicks(change) {
  const range = ["xaxis.range[0]", "xaxis.range[1]"].map((name) => change[name]);
  if (!state.log || range.some((end) => end === undefined)) return;
  const { tickvals, ticktext } = decimalTicks(range);
  Plotly.relayout($("curves-plot"), { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext });
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
    line: { color: colour(name), width: name === DATA.main ? 3.4 : ours ? 2.4 : 1.5, dash: codec.group === "quoted" ? "dot" : "solid" },
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
    const row = element("div", { class: "legend-group" }, OFF.includes(group) ? null : element("span", {}, title), ...keys);
    return OFF.includes(group) ? foldedGroup(group, title, row, keys.length) : row;
  });
  $("legend").replaceChildren(...groups.filter(Boolean));
}

function foldedGroup(group, title, row, count) {
  const open = $(`legend-${group}`)?.open;
  const summary = element("summary", {}, `${title} (${count})`);
  return element("details", { id: `legend-${group}`, open: open ? "" : null }, summary, row);
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
  onRounds.push(() => {
    for (const name of Object.keys(DATA.codecs).filter((name) => isRound(name) && name !== DATA.main)) {
      if (rounds.shown) shown.add(name);
      else shown.delete(name);
    }
    drawCurves();
    drawLegend();
  });
  $("log-rate").addEventListener("change", (event) => {
    state.log = event.target.checked;
    drawCurves();
  });
}
