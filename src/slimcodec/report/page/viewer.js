"use strict";
// The picture viewer: whole pictures by two codecs, at a quality, moved and magnified; its state is in the address.

const ORIGINAL = " original"; // listed among the codecs; no codec has a name that begins with a space
const view = { index: 0, left: "", right: "", stop: 1, difference: false, gain: 8 };
const READ = { willReadFrequently: true }; // canvases in memory, not on the graphics card
const parts = {};

const current = () => DATA.views[view.index];
const nameOf = (name) => (name === ORIGINAL ? "Original" : label(name));
/** What a codec makes of the picture at the chosen quality; null for the original. */
const shownOf = (name) => (name === ORIGINAL ? null : (current().codecs[name][view.stop] ?? current().codecs[name].at(-1)));
const imageOf = (name) => shownOf(name)?.image ?? current().original;
/** Who has the slider's qualities: the main codec, or the first that this picture has. */
const leader = () => (DATA.main in current().codecs ? DATA.main : Object.keys(current().codecs)[0]);

/** Who can be shown of this picture: the original first, then the codecs. */
function candidates() {
  return [ORIGINAL, ...Object.keys(DATA.codecs).filter((name) => current().codecs[name])];
}

function buildViewer() {
  parts.thumbs = element("div", { class: "thumbs", role: "group", "aria-label": "Picture" });
  parts.tools = element("div", { class: "viewer-tools" });
  parts.zoomText = element("span", { class: "muted small zoom-text", "aria-live": "polite" });
  parts.table = element("div");
  parts.notes = element("p", { class: "muted small" });
  const shown = element("div", { class: "shown" }, buildStage(), buildStageTools());
  const panes = element("div", { class: "panes" }, shown, element("div", { class: "side" }, parts.table, parts.notes));
  $("viewer").replaceChildren(parts.thumbs, parts.tools, panes);
  parts.thumbs.replaceChildren(...DATA.views.map(thumb));
}

function thumb(entry, index) {
  const image = element("img", { src: entry.original, alt: entry.picture, loading: "lazy" });
  image.style.aspectRatio = `${entry.width} / ${entry.height}`;
  const choose = () => {
    choosePicture(index);
    showWhole();
  };
  return element("button", { type: "button", class: "thumb", title: entry.picture, onclick: choose }, image);
}

/** The buttons under the stage, which move and magnify. */
function buildStageTools() {
  const button = (id, text, title, act) =>
    element("button", { type: "button", class: "quiet", id, title, onclick: act }, text);
  parts.gains = dropDown(
    [2, 4, 8, 16, 32].map((gain) => [String(gain), `×${gain}`]),
    String(view.gain),
    { "aria-label": "Amplification" },
  );
  parts.gains.addEventListener("change", () => {
    view.gain = Number(parts.gains.value);
    changed();
  });
  const box = element("input", { type: "checkbox", id: "show-difference" });
  box.addEventListener("change", () => {
    view.difference = box.checked;
    changed();
  });
  return element(
    "div",
    { class: "stage-tools", id: "zooms" },
    button("zoom-out", "−", "Smaller", () => zoomAt(0.5)),
    button("zoom-in", "+", "Larger", () => zoomAt(2)),
    button("zoom-whole", "Whole", "The whole picture", showWhole),
    button("zoom-one", "1:1", "A pixel of the picture is a pixel here", () => zoomAt(1 / scaleNow())),
    button("zoom-box", "Largest error", "Where the main codec errs most", () => showBox(current().box)),
    parts.zoomText,
    element("label", { class: "check" }, box, " difference"),
    parts.gains,
  );
}

/** The drop-down lists of this picture's codecs, and the slider of qualities. */
function buildTools() {
  const choices = candidates().map((name) => [name, nameOf(name)]);
  const field = (title, which) => {
    const list = dropDown(choices, view[which], { id: `${which}-codec` });
    list.addEventListener("change", () => {
      view[which] = list.value;
      changed();
    });
    return element("label", { class: "field" }, title, list);
  };
  const swap = element("button", { type: "button", class: "quiet", onclick: swapSides }, "Swap sides");
  parts.tools.replaceChildren(field("Left", "left"), field("Right", "right"), swap, qualitySlider());
}

function qualitySlider() {
  const last = current().codecs[leader()].length - 1;
  const slider = element("input", { type: "range", id: "quality", min: 0, max: last, step: 1, value: view.stop });
  parts.qualityText = element("output", { for: "quality" });
  slider.addEventListener("input", () => {
    view.stop = Number(slider.value);
    changed();
  });
  parts.slider = slider;
  return element("label", { class: "field quality" }, parts.qualityText, slider);
}

function choosePicture(index) {
  view.index = index;
  [...parts.thumbs.children].forEach((thumb, i) => thumb.setAttribute("aria-pressed", String(i === index)));
  const names = candidates();
  // What was compared stays compared where this picture has it. At first: the main codec and the first other one.
  if (!names.includes(view.left)) view.left = names.includes(DATA.main) ? DATA.main : names[0];
  if (!names.includes(view.right)) view.right = names.find((name) => DATA.codecs[name]?.group === "anchor") ?? names[0];
  view.stop = Math.min(view.stop, current().codecs[leader()].length - 1);
  buildTools();
  showCodecs();
  showStage();
  const gone = Object.entries(current().leftOut).map(([name, reason]) => `${label(name)}: ${reason}`);
  const words = `${current().picture}, ${current().width} × ${current().height} pixels.`;
  parts.notes.textContent = words + (gone.length ? ` Not shown: ${gone.join("; ")}.` : "");
}

function swapSides() {
  [view.left, view.right] = [view.right, view.left];
  buildTools();
  changed();
}

/** The reader chose something: it is shown, and written in the address. */
function changed() {
  showCodecs();
  remember();
}

function showCodecs() {
  for (const side of ["left", "right"]) {
    parts[side].src = imageOf(view[side]);
    parts[side].alt = `${current().picture} by ${nameOf(view[side])}`;
    parts[`${side}Tag`].textContent = tagOf(view[side]);
  }
  const { quality, bpp } = shownOf(leader());
  parts.qualityText.textContent = `Quality ${quality} of ${label(leader())}, ${number(bpp, 2)} bpp`;
  parts.slider.setAttribute("aria-valuetext", parts.qualityText.textContent);
  moveTo(stage.cut);
  parts.table.replaceChildren(metricTable());
  drawDifference();
}

function tagOf(name) {
  const shown = shownOf(name);
  return shown ? `${nameOf(name)} · ${number(shown.bpp, 2)} bpp` : nameOf(name);
}

// ---- Numbers and difference

function metricTable() {
  const sides = [view.left, view.right].map(shownOf);
  const rows = [
    ["quality", (shown) => String(shown.quality)],
    ["bits per pixel", (shown) => number(shown.bpp, 3)],
    ["kilobytes", (shown) => number(shown.bytes / 1000, 1)],
    ...Object.entries(DATA.metrics)
      .filter(([name]) => sides.some((shown) => name in (shown?.metrics ?? {})))
      .map(([name, metric]) => [
        metric.axis,
        (shown) => (name in shown.metrics ? infinite(shown.metrics[name], metric.digits) : "–"),
      ]),
    ["shown as", (shown) => (shown.copied ? "a copy" : "its file")],
  ];
  const cell = (shown, text) => element("td", { class: "number" }, shown ? text(shown) : "–");
  const body = rows.map(([title, text]) =>
    element("tr", {}, element("th", { scope: "row" }, title), ...sides.map((shown) => cell(shown, text))),
  );
  const heads = ["whole picture", nameOf(view.left), nameOf(view.right)].map((text, i) =>
    element("th", { scope: "col", class: i ? "number" : null }, text),
  );
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rate and metrics of the whole picture" },
    table,
  );
}

// A metric of equal pictures is infinite, which JSON has no word for.
const infinite = (value, digits) => (value === null ? "∞" : number(value, digits));

async function drawDifference() {
  $("show-difference").checked = view.difference;
  parts.gains.hidden = !view.difference;
  parts.canvas.hidden = !view.difference;
  if (!view.difference) return;
  const wanted = [imageOf(view.left), imageOf(view.right), view.gain];
  const [left, right] = await Promise.all(wanted.slice(0, 2).map(pixelsOf));
  const now = [imageOf(view.left), imageOf(view.right), view.gain];
  if (wanted.some((value, i) => value !== now[i])) return; // another was chosen meanwhile
  parts.canvas.width = left.width;
  parts.canvas.height = left.height;
  parts.canvas.getContext("2d", READ).putImageData(differenceOf(left, right, view.gain), 0, 0);
  const [first, second] = [nameOf(view.left), nameOf(view.right)];
  parts.canvas.setAttribute("aria-label", `Difference of ${first} and ${second}, amplified ${view.gain} times`);
}

async function pixelsOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", READ);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function differenceOf(left, right, gain) {
  const made = new ImageData(left.width, left.height);
  for (let i = 0; i < made.data.length; i++) {
    made.data[i] = i % 4 === 3 ? 255 : gain * Math.abs(left.data[i] - right.data[i]);
  }
  return made;
}

// ---- The address: a link to the page opens the same picture, codecs, quality and place.

let remembering = 0;

function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", `#${addressOf()}`), 150);
}

function addressOf() {
  const { width, height } = current();
  const entries = { picture: current().picture, left: view.left.trim(), right: view.right.trim() };
  entries.quality = shownOf(leader()).quality;
  if (stage.scale !== null) {
    entries.zoom = stage.scale.toFixed(2);
    entries.at = `${Math.round(stage.x * width)},${Math.round(stage.y * height)}`;
  }
  if (view.difference) entries.difference = view.gain;
  return new URLSearchParams(entries);
}

/** Show what the address says; whether it says something. */
function recall() {
  const entries = new URLSearchParams(location.hash.slice(1));
  const index = DATA.views.findIndex((entry) => entry.picture === entries.get("picture"));
  if (index < 0) return false;
  view.index = index;
  const named = (name) => (name === ORIGINAL.trim() && !(name in DATA.codecs) ? ORIGINAL : name);
  for (const side of ["left", "right"]) view[side] = named(entries.get(side) ?? "");
  const stop = current().codecs[leader()].findIndex((shown) => String(shown.quality) === entries.get("quality"));
  if (stop >= 0) view.stop = stop;
  view.difference = entries.has("difference");
  if (view.difference) view.gain = Number(entries.get("difference")) || 8;
  parts.gains.value = String(view.gain);
  const [x, y] = (entries.get("at") ?? "").split(",").map(Number);
  const isPlace = Number.isFinite(x) && Number.isFinite(y);
  [stage.x, stage.y] = isPlace ? [x / current().width, y / current().height] : [0.5, 0.5];
  stage.scale = Number(entries.get("zoom")) > 0 ? Math.min(Number(entries.get("zoom")), LARGEST_SCALE) : null;
  choosePicture(index);
  return true;
}

(function startViewer() {
  if (!DATA.views.length) return;
  buildViewer();
  onStage = remember;
  if (recall()) $("pictures").scrollIntoView({ behavior: "instant" });
  else choosePicture(0);
  window.addEventListener("hashchange", recall);
  window.addEventListener("resize", showStage);
})();
