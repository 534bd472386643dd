"use strict";
// BD-rate of two mean curves, as evaluation/curves.bd_rate has it: PCHIP of log10(bpp) over the metric, and its mean.

const FEWEST_POINTS = 4;

/** {percent, low, high, coverage} of curves {bpp, values}; {reason} where there is none. */
function bdRate(anchor, test, higher) {
  const curves = [anchor, test].map((curve) => axesOf(curve, higher));
  if (curves.some((curve) => curve.length < FEWEST_POINTS)) return { reason: "it takes four points on each curve" };
  if (!curves.every(rises)) return { reason: "on one of the curves the metric does not rise with every step in bpp" };
  const [first, second] = curves;
  const low = Math.max(first[0][0], second[0][0]);
  const high = Math.min(first.at(-1)[0], second.at(-1)[0]);
  if (low >= high) return { reason: "the curves share no quality" };
  const [ofAnchor, ofTest] = curves.map((curve) => integral(curve, low, high));
  const ends = higher ? [low, high] : [-high, -low];
  return {
    percent: 100 * (10 ** ((ofTest - ofAnchor) / (high - low)) - 1),
    low: ends[0],
    high: ends[1],
    coverage: (high - low) / (first.at(-1)[0] - first[0][0]),
  };
}

/** [metric, log10(bpp)] of rising rate; the metric is negated where less is better. */
function axesOf(curve, higher) {
  const points = curve.bpp.map((bpp, i) => [higher ? curve.values[i] : -curve.values[i], Math.log10(bpp)]);
  return points.filter((_, i) => curve.values[i] !== null).sort((a, b) => a[1] - b[1]);
}

const rises = (points) => points.every(([x, y], i) => !i || (x > points[i - 1][0] && y > points[i - 1][1]));

/** The integral from low to high of the piecewise cubic through the points. Simpson's rule is exact for a cubic. */
function integral(points, low, high) {
  const slopes = pchipSlopes(points);
  let sum = 0;
  for (let i = 0; i + 1 < points.length; i++) {
    const [from, to] = [Math.max(low, points[i][0]), Math.min(high, points[i + 1][0])];
    if (from >= to) continue;
    const at = (x) => hermite(points[i], points[i + 1], slopes[i], slopes[i + 1], x);
    sum += ((to - from) / 6) * (at(from) + 4 * at((from + to) / 2) + at(to));
  }
  return sum;
}

function hermite([x0, y0], [x1, y1], slope0, slope1, x) {
  const [width, t] = [x1 - x0, (x - x0) / (x1 - x0)];
  const ofValues = y0 + (y1 - y0) * t * t * (3 - 2 * t);
  return ofValues + width * (slope0 * t * (1 - t) ** 2 - slope1 * t * t * (1 - t));
}

/** Fritsch and Butland's slopes, as SciPy's PchipInterpolator has them: weighted harmonic means of the steps'. */
function pchipSlopes(points) {
  const widths = points.slice(1).map(([x], i) => x - points[i][0]);
  const steps = points.slice(1).map(([, y], i) => (y - points[i][1]) / widths[i]);
  const inner = steps.slice(1).map((step, i) => {
    const [before, after] = [widths[i + 1] * 2 + widths[i], widths[i + 1] + 2 * widths[i]];
    return steps[i] * step <= 0 ? 0 : (before + after) / (before / steps[i] + after / step);
  });
  return [endSlope(widths, steps), ...inner, endSlope(widths.toReversed(), steps.toReversed())];
}

function endSlope([width, nextWidth], [step, nextStep]) {
  const slope = ((2 * width + nextWidth) * step - width * nextStep) / (width + nextWidth);
  if (slope * step <= 0) return 0;
  return step * nextStep <= 0 && Math.abs(slope) > Math.abs(3 * step) ? 3 * step : slope;
}

// ---- Any codec of the study as the anchor: what the study holds with all that is known of it, or the curves' alone.

const isQuoted = (name) => DATA.codecs[name]?.group === "quoted";
const isRound = (name) => DATA.codecs[name]?.group === "rounds";

/** codec → its BD-rate against the anchor by a metric. */
function bdRates(anchor, metric) {
  const known = DATA.bdRate[anchor] ?? {};
  const curves = DATA.curves[metric] ?? {};
  const names = Object.keys(curves).filter((name) => name !== anchor);
  const of = (name) => known[name]?.[metric] ?? computed(curves, anchor, name, metric);
  return Object.fromEntries(names.map((name) => [name, of(name)]));
}

function computed(curves, anchor, name, metric) {
  return curves[anchor] ? bdRate(curves[anchor], curves[name], DATA.metrics[metric].higher) : { reason: "no curve" };
}

/** Codecs that have a curve by some metric: those of the study's own BD-rates first, published ones last. */
function bdAnchors() {
  const curves = Object.values(DATA.curves);
  const names = Object.keys(DATA.codecs).filter((name) => curves.some((of) => enough(of[name])));
  return [...new Set([...DATA.anchors.filter((name) => names.includes(name)), ...names])];
}

const enough = (curve) => curve && curve.bpp.length >= FEWEST_POINTS;

/** A drop-down list of anchors; `choose` is called with the name. */
function anchorList(id, chosen, choose) {
  const choices = bdAnchors().map((name) => [name, label(name)]);
  const measured = choices.filter(([name]) => !isQuoted(name) || name === DATA.anchors[0]);
  const list = element("select", { id });
  list.append(...options(measured, chosen));
  const published = choices.filter((entry) => !measured.includes(entry));
  if (published.length) {
    list.append(element("optgroup", { label: "Published curves" }, ...options(published, chosen)));
  }
  list.addEventListener("change", () => choose(list.value));
  return element("label", { class: "field" }, "against", list);
}
