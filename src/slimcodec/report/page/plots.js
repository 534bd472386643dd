"use strict";
// What the charts have in common, which Plotly draws.

const SETTINGS = {
  displaylogo: false,
  responsive: false, // they are drawn anew when the window's width changes: labels are placed in pixels
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
};
// A finger scrolls the page; dragging in a chart would zoom it instead.
const STILL = matchMedia("(pointer: coarse)").matches;
const narrow = () => window.innerWidth < 640;

/** What all charts have in common; `more` is merged into it, axes by name. */
function layout(more) {
  const axis = {
    gridcolor: token("line"),
    linecolor: token("strong-line"),
    zerolinecolor: token("line"),
    fixedrange: STILL,
  };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13, color: token("ink") },
    hoverlabel: {
      bgcolor: token("surface"),
      bordercolor: token("strong-line"),
      font: { color: token("ink"), size: 13 },
      align: "left",
    },
    hovermode: "closest",
    dragmode: STILL ? false : "zoom",
    showlegend: false,
    margin: { l: narrow() ? 44 : 64, r: 12, t: 12, b: 48 },
  };
  const made = { ...base, ...more };
  made.xaxis = { ...axis, ...more.xaxis };
  made.yaxis = { ...axis, ...more.yaxis };
  return made;
}

const DIGITS = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]];

/** Ticks of a logarithmic axis as plain numbers: 0.1, 0.2, 0.5, 1. The more, the less the axis spans. */
function decimalTicks([low, high]) {
  const perDecade = (narrow() ? 5 : 14) / (high - low);
  const digits = DIGITS.findLast((some) => some.length <= perDecade) ?? DIGITS[0];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) ticks.push(...digits.map((digit) => digit * 10 ** power));
  const tickvals = ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
  return { tickvals, ticktext: tickvals.map((tick) => tick.toLocaleString("en", { maximumSignificantDigits: 2 })) };
}

function draw(id, traces, chart) {
  chart.width = $(id).clientWidth;
  return Plotly.react($(id), traces, chart, SETTINGS);
}

const axisTitle = (text) => ({
  text: plain(text),
  font: { size: narrow() ? 11 : 13, color: token("muted") },
  standoff: 8,
});

/** A sentence in the place of what there is no data for. */
function leaveOut(id, sentence) {
  $(id)?.replaceWith(element("p", { class: "note" }, sentence));
}
