"use strict";
// The headline: BD-rate over the kMAC/pixel of the decoder, with names placed where nothing else is.

// Equal factors of rate are equally far apart: −50 % is as far below 0 as +100 % is above.
const scaled = (rate) => Math.log2(Math.max(1 + rate / 100, 1e-3));
const TICKS = [-80, -65, -50, -40, -30, -20, -10, 0, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200];
const SHAPES = {
  student: ["diamond", 16],
  teacher: ["square", 13],
  round: ["circle", 10],
  quoted: ["circle", 8],
  model: ["diamond", 11],
};

/** The headline's data, without the steps of pruning where they are hidden. */
function headlineData() {
  const { spots, path, ...others } = DATA.headline;
  const visible = spots.filter((spot) => visibleStep(spot.name));
  return { ...others, spots: visible, path: path.filter((name) => visible.some((spot) => spot.name === name)) };
}

function drawHeadline() {
  const data = DATA.headline && headlineData();
  if (!data) {
    const sentence = "There is no BD-rate of a codec with known MAC/pixel, so this figure is left out.";
    return leaveOut("headline-figure", sentence);
  }
  const frame = headlineFrame(data);
  const chart = layout({
    height: frame.height,
    margin: frame.margin,
    ...rateAxes(frame, "decoder complexity (kMAC per pixel)", data.anchor),
    annotations: [
      ...pathArrows(data),
      ...levelLabels(data, frame),
      ...spotLabels(data, frame),
      ...targetLabel(data),
      ...axisLabel(data),
    ],
  });
  draw("headline-plot", [...headlineLines(data), ...spotTraces(data)], chart);
  $("headline-caption").textContent = headlineCaption(data);
}

/** The axes of BD-rates against `anchor` over what is on a logarithmic axis. */
function rateAxes(frame, over, anchor) {
  return {
    xaxis: { type: "log", range: frame.x, ...decimalTicks(frame.x), title: axisTitle(over) },
    yaxis: {
      range: frame.y,
      tickvals: TICKS.map(scaled),
      ticktext: TICKS.map((t) => (t ? percent(t, 0) : "0")),
      zeroline: false,
      title: narrow() ? undefined : axisTitle(`BD-rate against ${label(anchor)}`),
    },
  };
}

/** Ranges of the axes and the pixels that they cover. */
function headlineFrame(data) {
  const macs = data.spots.map((spot) => spot.kmacs_per_pixel).concat(data.target_kmacs_per_pixel ?? []);
  const rates = [...data.spots, ...data.levels].map((entry) => scaled(entry.percent));
  const [low, high] = [Math.min(...rates), Math.max(...rates)];
  const space = Math.max(0.07 * (high - low), 0.06);
  const frame = {
    height: narrow() ? 440 : 540,
    margin: { l: narrow() ? 48 : 78, r: narrow() ? 92 : 180, t: narrow() ? 48 : 30, b: 50 },
    x: [Math.log10(Math.min(...macs) / 1.8), Math.log10(Math.max(...macs) * 1.8)],
    y: [low - space, high + space],
  };
  const placed = withPlaces(frame, "headline-plot");
  return { ...placed, target: data.target_kmacs_per_pixel ? placed.place(data.target_kmacs_per_pixel, 0)[0] : -1 };
}

/** The frame with its size in pixels, and `place`: where in it a value on the logarithmic axis and a rate are. */
function withPlaces(frame, id) {
  const plotWidth = $(id).clientWidth - frame.margin.l - frame.margin.r;
  const plotHeight = frame.height - frame.margin.t - frame.margin.b;
  const place = (x, rate) => [
    ((Math.log10(x) - frame.x[0]) / (frame.x[1] - frame.x[0])) * plotWidth,
    (1 - (scaled(rate) - frame.y[0]) / (frame.y[1] - frame.y[0])) * plotHeight,
  ];
  return { target: -1, ...frame, plotWidth, plotHeight, place };
}

function spotTraces(data) {
  return data.spots.map((spot) => {
    const [symbol, size] = SHAPES[spot.kind] ?? SHAPES.model;
    const ink = colour(spot.name);
    const hollow = spot.kind === "quoted";
    return {
      type: "scatter",
      mode: "markers",
      name: plain(label(spot.name)),
      x: [spot.kmacs_per_pixel],
      y: [scaled(spot.percent)],
      marker: {
        symbol,
        size,
        color: hollow ? token("surface") : ink,
        line: { color: hollow ? ink : token("surface"), width: hollow ? 1.8 : 1.2 },
      },
      hovertemplate: spotHover(spot),
    };
  });
}

function spotHover(spot) {
  const lines = [`${percent(spot.percent)} bits`, `${number(spot.kmacs_per_pixel, 2)} kMAC/pixel`];
  return `<b>${plain(label(spot.name))}</b><br>${lines.join("<br>")}<extra></extra>`;
}

/** Straight lines behind the spots: codecs without MAC, the target, and from the teacher to its distilled student. */
function headlineLines(data) {
  const lines = data.levels.map((level) =>
    line([1e-6, 1e9], [level.percent, level.percent], colour(level.name), "solid"),
  );
  const target = data.target_kmacs_per_pixel;
  if (target) lines.push({ ...line([target, target], [0, 0], token("muted"), "5px,4px"), y: [-20, 20] });
  const teacher = data.spots.find((spot) => spot.kind === "teacher");
  const first = data.spots.find((spot) => spot.name === data.path[0]);
  if (teacher && first)
    lines.push(
      line(
        [teacher.kmacs_per_pixel, first.kmacs_per_pixel],
        [teacher.percent, first.percent],
        colour(teacher.name),
        "dot",
      ),
    );
  return lines;
}

function line(kmacs, rates, ink, dash) {
  return {
    type: "scatter",
    mode: "lines",
    x: kmacs,
    y: rates.map(scaled),
    line: { color: ink, width: 1.3, dash },
    hoverinfo: "skip",
  };
}

/** The rounds, an arrow from each to the next. */
function pathArrows(data) {
  const spots = data.path.map((name) => data.spots.find((spot) => spot.name === name));
  return spots.slice(1).map((to, index) => ({
    x: Math.log10(to.kmacs_per_pixel),
    y: scaled(to.percent),
    ax: Math.log10(spots[index].kmacs_per_pixel),
    ay: scaled(spots[index].percent),
    xref: "x",
    yref: "y",
    axref: "x",
    ayref: "y",
    text: "",
    showarrow: true,
    arrowhead: 2,
    arrowsize: 1,
    arrowwidth: 2,
    arrowcolor: colour(to.name),
    standoff: 9,
    startstandoff: 6,
  }));
}

function targetLabel(data) {
  if (!data.target_kmacs_per_pixel) return [];
  const text = narrow() ? "target" : `target ${number(1000 * data.target_kmacs_per_pixel)} MAC/pixel`;
  return [
    {
      x: Math.log10(data.target_kmacs_per_pixel),
      xref: "x",
      y: 1,
      yref: "paper",
      yanchor: "bottom",
      text,
      showarrow: false,
      font: { size: 12, color: token("muted") },
    },
  ];
}

/** On a phone the name of the upright axis lies above it. */
function axisLabel(data) {
  if (!narrow()) return [];
  const text = `BD-rate against ${plain(label(data.anchor))}`;
  return [
    {
      x: 0,
      xref: "paper",
      xanchor: "left",
      xshift: -46,
      y: 1,
      yref: "paper",
      yanchor: "bottom",
      yshift: 24,
      text,
      showarrow: false,
      font: { size: 12, color: token("muted") },
    },
  ];
}

/** Names of the horizontal lines at their right end, moved apart where they would touch. */
function levelLabels(data, frame) {
  const wanted = data.levels.map((level) => frame.place(1, level.percent)[1]);
  const places = spread(wanted, narrow() ? 14 : 17);
  return data.levels.map((level, index) => ({
    x: 1,
    xref: "paper",
    y: scaled(level.percent),
    yref: "y",
    ax: 16,
    ay: places[index] - wanted[index],
    showarrow: true,
    arrowhead: 0,
    arrowwidth: 0.9,
    arrowcolor: colour(level.name),
    xanchor: "left",
    text: plain(label(level.name)) + (narrow() || !level.percent ? "" : ` ${percent(level.percent, 0)}`),
    font: { size: narrow() ? 10 : 12, color: colour(level.name) },
  }));
}

/** Places near the wanted ones, in their order and at least `gap` apart; groups that touch are centred on theirs. */
function spread(wanted, gap) {
  const start = (group) =>
    group.reduce((sum, index, position) => sum + wanted[index] - gap * position, 0) / group.length;
  const groups = [];
  for (const index of wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b])) {
    groups.push([index]);
    while (groups.length > 1 && start(groups.at(-1)) < start(groups.at(-2)) + gap * groups.at(-2).length) {
      const last = groups.pop();
      groups.push([...groups.pop(), ...last]);
    }
  }
  const places = [];
  for (const group of groups) group.forEach((index, position) => (places[index] = start(group) + gap * position));
  return places;
}

const measuring = document.createElement("canvas").getContext("2d");

/** Names beside the spots, each at the first place where it covers nothing; one that finds none is left to hovering. */
function spotLabels(data, frame) {
  const order = ["student", "teacher", "round", "model", "quoted"];
  const spots = data.spots.filter((spot) => !narrow() || spot.kind !== "quoted").filter((spot) => !hidden(spot, data));
  spots.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  const places = Object.fromEntries(
    data.spots.map((spot) => [spot.name, frame.place(spot.kmacs_per_pixel, spot.percent)]),
  );
  const taken = [...Object.values(places), ...along(data, places)].map((place) => around(place, 8));
  const lines = data.levels.map((level) => frame.place(1, level.percent)[1]);
  const strong = (spot) => spot.kind === "student" || spot.kind === "teacher";
  return spots.flatMap((spot) => spotLabel({ ...spot, x: spot.kmacs_per_pixel }, strong(spot), frame, taken, lines));
}

/** Points on the lines from teacher to distilled, and from round to round: a name is kept off them too. */
function along(data, places) {
  const teacher = data.spots.find((spot) => spot.kind === "teacher");
  const names = teacher && data.path.length ? [teacher.name, ...data.path] : data.path;
  const between = ([x, y], [toX, toY], share) => [x + share * (toX - x), y + share * (toY - y)];
  return names
    .slice(1)
    .flatMap((name, i) => [0.2, 0.4, 0.6, 0.8].map((share) => between(places[names[i]], places[name], share)));
}

/** A round that is at the very place of the student is not named beside it. */
function hidden(spot, data) {
  const same = (other) =>
    other.kmacs_per_pixel === spot.kmacs_per_pixel && Math.abs(other.percent - spot.percent) < 1e-3;
  return spot.kind !== "student" && data.spots.some((other) => other.kind === "student" && same(other));
}

function spotLabel(spot, strong, frame, taken, lines) {
  const size = (narrow() ? 11 : 12) + (strong ? 1 : 0);
  measuring.font = `${strong ? "bold " : ""}${size}px ${getComputedStyle(document.body).fontFamily}`;
  const [width, height] = [measuring.measureText(label(spot.name)).width + 4, size + 4];
  const best = placeFor(frame.place(spot.x, spot.percent), width, height, frame, taken, lines);
  if (!best) return [];
  taken.push(best.box);
  return [
    {
      x: Math.log10(spot.x),
      y: scaled(spot.percent),
      ax: best.dx,
      ay: best.dy,
      showarrow: true,
      arrowhead: 0,
      arrowwidth: 0.8,
      arrowcolor: best.far ? token("strong-line") : "rgba(0,0,0,0)",
      standoff: 7,
      borderpad: 0,
      text: strong ? `<b>${plain(label(spot.name))}</b>` : plain(label(spot.name)),
      font: { size, color: strong ? colour(spot.name) : token("muted") },
    },
  ];
}

/** Where a box of that size fits near a point: its centre's distance from the point, and the box. */
function placeFor([x, y], width, height, frame, taken, lines) {
  let best = null;
  for (const distance of narrow() ? [11, 18] : [11, 18, 28, 42]) {
    for (const [right, down] of [
      [1, 0],
      [-1, 0],
      [0, -1],
      [0, 1],
      [1, -1],
      [-1, -1],
      [1, 1],
      [-1, 1],
    ]) {
      const dx = right * (distance + width / 2),
        dy = down * (distance + height / 2 - (right ? 4 : 0));
      const box = [x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2];
      if (box[0] < 2 || box[1] < 2 || box[2] > frame.plotWidth - 2 || box[3] > frame.plotHeight - 2) continue;
      if (taken.some((other) => overlap(box, other))) continue;
      const crossed =
        lines.filter((line) => box[1] + 3 < line && line < box[3] - 3).length + (box[0] < frame.target && frame.target < box[2]);
      const cost = 30 * crossed + distance;
      if (!best || cost < best.cost) best = { dx, dy, box, cost, far: distance > 20 };
    }
  }
  return best;
}

const around = ([x, y], reach) => [x - reach, y - reach, x + reach, y + reach];
const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

function headlineCaption(data) {
  const metric = DATA.metrics[data.metric].title;
  const words = [`Bits for the same ${metric}, lower is better: equal factors are equally far apart.`];
  if (data.levels.length) words.push("Horizontal lines are codecs without networks, of which no MAC are counted.");
  if (data.path.length > 1 && rounds.shown) words.push("The arrows are pruning rounds.");
  if (data.spots.some((spot) => spot.kind === "quoted")) words.push("Open circles are published results.");
  if (STILL) words.push("Tap a point for its name.");
  return words.join(" ");
}
