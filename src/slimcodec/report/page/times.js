"use strict";
// BD-rate over the time that encoding or decoding takes, a spot for each codec that ran.

const timing = { side: "decode", anchor: null };

/** The metric of the headline, or else the first. */
const timingMetric = () => DATA.headline?.metric ?? Object.keys(DATA.metrics)[0];

function timedSpots() {
  const rates = bdRates(timing.anchor, timingMetric());
  return Object.entries({ ...rates, [timing.anchor]: { percent: 0 } })
    .map(([name, entry]) => ({ name, ms: DATA.codecs[name]?.milliseconds?.[timing.side], percent: entry.percent }))
    .filter(({ name, ms, percent }) => ms > 0 && Number.isFinite(percent) && visibleStep(name));
}

function drawTimes() {
  if (!$("times-plot") || !timing.anchor) return;
  const spots = timedSpots();
  const frame = timesFrame(spots);
  const chart = layout({
    height: frame.height,
    margin: frame.margin,
    ...rateAxes(frame, `${timing.side}, milliseconds per megapixel`, timing.anchor),
    annotations: timedLabels(spots, frame),
  });
  draw("times-plot", spots.map(timedTrace), chart);
}

function timesFrame(spots) {
  const frame = {
    height: narrow() ? 400 : 460,
    margin: { l: narrow() ? 48 : 78, r: 16, t: 12, b: 50 },
    x: spread10(spots.map((spot) => spot.ms)),
    y: around1(spots.map((spot) => scaled(spot.percent))),
  };
  return withPlaces(frame, "times-plot");
}

/** Names beside the spots, the main model's first; one that finds no room is left to hovering. */
function timedLabels(spots, frame) {
  const taken = spots.map((spot) => around(frame.place(spot.ms, spot.percent), 8));
  const order = spots.toSorted((a, b) => (b.name === DATA.main) - (a.name === DATA.main));
  return order.flatMap((spot) => spotLabel({ ...spot, x: spot.ms }, spot.name === DATA.main, frame, taken, []));
}

function timedTrace(spot) {
  const ours = spot.name === DATA.main;
  const lines = [`${percent(spot.percent)} bits`, `${number(spot.ms, spot.ms < 10 ? 1 : 0)} ms/megapixel`];
  return {
    type: "scatter",
    mode: "markers",
    x: [spot.ms],
    y: [scaled(spot.percent)],
    marker: {
      symbol: DATA.codecs[spot.name].group === "model" ? "diamond" : "circle",
      size: ours ? 15 : 10,
      color: colour(spot.name),
      line: { color: token("surface"), width: 1 },
    },
    hovertemplate: `<b>${plain(label(spot.name))}</b><br>${lines.join("<br>")}<extra></extra>`,
  };
}

/** Ends of a logarithmic axis that has room for names beside the outermost spots. */
function spread10(values) {
  return values.length ? [Math.log10(Math.min(...values) / 2), Math.log10(Math.max(...values) * 2)] : [0, 3];
}

function around1(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const space = Math.max(0.1 * (high - low), 0.1);
  return values.length ? [low - space, high + space] : [-1, 1];
}

function startTimes() {
  timing.anchor = bdAnchors()[0] ?? null;
  if (timing.anchor === null || !timedSpots().length) {
    $("times-tools")?.remove();
    return leaveOut("times-figure", "There is no BD-rate of a codec of known time, so this figure is left out.");
  }
  choice($("times-side"), ["decode", "encode"].map((name) => [name, name]), timing.side, (name) => {
    timing.side = name;
    drawTimes();
  });
  $("times-anchor").replaceWith(
    anchorList("times-anchor", timing.anchor, (name) => {
      timing.anchor = name;
      drawTimes();
    }),
  );
}
