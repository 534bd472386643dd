"use strict";
// Complexity: stacked bars of MAC/pixel, and the channels that each layer kept.

let side = "decoder";
const LEGEND = { traceorder: "normal", itemclick: false, itemdoubleclick: false };

function drawCost() {
  if (!$("cost-plot")) return;
  const { steps, parts } = visibleCost();
  const totals = steps.map((_, row) => parts.reduce((sum, part) => sum + part.macs[row], 0));
  const target = side === "decoder" ? DATA.target : null;
  const chart = layout({
    height: 110 + 44 * steps.length + (narrow() ? 30 : 0),
    barmode: "stack",
    bargap: 0.35,
    showlegend: true,
    legend: { ...LEGEND, orientation: "h", y: 1, yanchor: "bottom", x: 0 },
    margin: { l: 10, r: 16, t: narrow() ? 60 : 36, b: 46 },
    ...costAxes(steps, Math.max(...totals, target ?? 0)),
    shapes: target ? [targetLine(target)] : [],
    annotations: totals.map(totalLabel),
  });
  const traces = parts.map((part) => costTrace(part, steps));
  draw("cost-plot", traces, chart);
}

/** The bars of one side, without the steps of pruning where they are hidden. */
function visibleCost() {
  const { steps, parts } = DATA.complexity[side];
  const rows = steps.map((_, row) => row).filter((row) => visibleStep(steps[row]));
  const pick = (list) => rows.map((row) => list[row]);
  return { steps: pick(steps), parts: parts.map((part) => ({ ...part, macs: pick(part.macs) })) };
}

function costAxes(steps, most) {
  const rows = { tickvals: steps.map((_, i) => i), ticktext: steps.map((name) => plain(label(name)) + "  ") };
  return {
    xaxis: { range: [0, (narrow() ? 1.5 : 1.2) * most], tickformat: ",", title: axisTitle("MAC per pixel"), nticks: narrow() ? 4 : 9 },
    yaxis: { ...rows, autorange: "reversed", automargin: true, showgrid: false, zeroline: false },
  };
}

function targetLine(macs) {
  const line = { color: token("ink"), width: 1.3, dash: "dash" };
  return { type: "line", yref: "paper", x0: macs, x1: macs, y0: 0, y1: 1, line };
}

function totalLabel(total, row) {
  return { x: total, y: row, xanchor: "left", xshift: 4, text: `<b>${number(total)}</b>`, showarrow: false };
}

function costTrace(part, steps) {
  return {
    type: "bar",
    orientation: "h",
    name: plain(part.name),
    y: steps.map((_, row) => row),
    x: part.macs,
    marker: { color: part.colour[theme()] },
    customdata: steps.map((name) => plain(label(name))),
    hovertemplate: `<b>%{customdata}</b><br>${plain(part.name)}: %{x:,.1f} MAC/pixel<extra></extra>`,
  };
}

let widthStep = Object.keys(DATA.widths).at(-1);

function drawWidths() {
  if (!$("widths")) return;
  const layers = Object.entries(DATA.widths[widthStep]).filter(([, width]) => width.of);
  const most = Math.max(...layers.map(([, width]) => Math.max(width.of, width.channels)));
  $("widths").replaceChildren(...layers.flatMap(([name, width]) => widthRow(name, width, most)));
}

function widthRow(name, width, most) {
  const bar = (kind, channels) => element("span", { class: kind, style: `width:${(100 * channels) / most}%` });
  const track = element(
    "span",
    { class: "track", "aria-hidden": "true" },
    bar("before", width.of),
    bar("kept", width.channels),
  );
  track.style.setProperty("--colour", colour(widthStep));
  const gone = width.of - width.channels;
  const count = element(
    "span",
    { class: "count" },
    `${width.channels} of ${width.of} `,
    element("small", {}, gone ? `−${Math.round((100 * gone) / width.of)} %` : "all"),
  );
  return [element("span", {}, width.label ?? name), track, count];
}

function startCost() {
  const sides = ["decoder", "encoder"].map((name) => [name, name]);
  if ($("side")) {
    choice($("side"), sides, side, (name) => {
      side = name;
      drawCost();
    });
  }
  const steps = Object.keys(DATA.widths).map((name) => [name, label(name)]);
  if ($("width-steps")) {
    choice($("width-steps"), steps, widthStep, (name) => {
      widthStep = name;
      drawWidths();
    });
  }
}
