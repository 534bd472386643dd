"use strict";
// The picture viewer: two codecs in one crop with a line to drag between them, magnified, and their difference.

const ORIGINAL = " original"; // listed among the codecs; no codec has a name that begins with a space
const view = { index: 0, left: "", right: "", cut: 50, zoom: 0, gain: 8 };
const ZOOMS = [1, 2, 4];
const READ = { willReadFrequently: true }; // canvases in memory, not on the graphics card
const parts = {};

const current = () => DATA.views[view.index];
const imageOf = (name) => (name === ORIGINAL ? current().original : current().codecs[name].image);
const nameOf = (name) => (name === ORIGINAL ? "Original" : label(name));

/** Who can be shown of this picture: the original first, then the codecs that have a crop. */
function candidates() {
  return [ORIGINAL, ...Object.keys(DATA.codecs).filter((name) => current().codecs[name])];
}

function buildViewer() {
  parts.thumbs = element("div", { class: "thumbs", role: "group", "aria-label": "Picture" });
  parts.tools = element("div", { class: "viewer-tools" });
  parts.stage = element("div", { class: "stage" });
  parts.table = element("div");
  parts.difference = element("div", { class: "difference" });
  parts.notes = element("p", { class: "muted small" });
  const beside = element("div", { class: "side" }, parts.table, parts.difference);
  const panes = element(
    "div",
    { class: "panes" },
    element("div", { class: "shown" }, parts.stage, parts.notes),
    beside,
  );
  $("viewer").replaceChildren(parts.thumbs, parts.tools, panes);
  buildThumbs();
  buildStage();
  buildDifference();
}

function buildThumbs() {
  const thumbs = DATA.views.map((entry, index) => {
    const [left, top, right, bottom] = entry.box;
    const box = element("b");
    const percentOf = (value, whole) => `${(100 * value) / whole}%`;
    box.style.left = percentOf(left, entry.width);
    box.style.top = percentOf(top, entry.height);
    box.style.width = percentOf(right - left, entry.width);
    box.style.height = percentOf(bottom - top, entry.height);
    const image = element("img", { src: entry.thumbnail, alt: entry.picture });
    return element(
      "button",
      { type: "button", class: "thumb", title: entry.picture, onclick: () => choosePicture(index) },
      image,
      box,
    );
  });
  parts.thumbs.replaceChildren(...thumbs);
}

function buildStage() {
  parts.right = element("img", { class: "right", alt: "", draggable: "false" });
  parts.left = element("img", { class: "left", alt: "", draggable: "false" });
  parts.leftTag = element("span", { class: "tag l" });
  parts.rightTag = element("span", { class: "tag r" });
  parts.handle = element("div", {
    class: "handle",
    role: "slider",
    tabindex: "0",
    "aria-label": "Line between the left and the right codec",
    "aria-valuemin": "0",
    "aria-valuemax": "100",
    "aria-orientation": "horizontal",
  });
  parts.compare = element(
    "div",
    { class: "compare", id: "compare" },
    parts.right,
    parts.left,
    parts.leftTag,
    parts.rightTag,
    parts.handle,
  );
  parts.stage.append(parts.compare);
  parts.handle.addEventListener("keydown", moveByKey);
  parts.compare.addEventListener("pointerdown", startDrag);
}

function buildDifference() {
  parts.canvas = element("canvas", { id: "difference", role: "img" });
  const gains = dropDown(
    [2, 4, 8, 16, 32].map((gain) => [String(gain), `×${gain}`]),
    String(view.gain),
    { "aria-label": "Amplification" },
  );
  gains.addEventListener("change", () => {
    view.gain = Number(gains.value);
    drawDifference();
  });
  parts.differenceText = element("span");
  parts.difference.append(parts.canvas, element("p", { class: "small muted" }, parts.differenceText, gains));
}

/** The drop-down lists of this picture's codecs, and the magnification. */
function buildTools() {
  const choices = candidates().map((name) => [name, nameOf(name)]);
  const field = (title, which) => {
    const list = dropDown(choices, view[which], { id: `${which}-codec` });
    list.addEventListener("change", () => {
      view[which] = list.value;
      showCodecs();
    });
    return element("label", { class: "field" }, title, list);
  };
  const zooms = element("div", { class: "group", role: "group", "aria-label": "Magnification", id: "zooms" });
  choice(
    zooms,
    ZOOMS.map((zoom) => [zoom, `${zoom}×`]),
    view.zoom,
    (zoom) => {
      view.zoom = zoom;
      showZoom();
    },
  );
  const swap = element("button", { type: "button", class: "quiet", onclick: swapSides }, "Swap sides");
  parts.tools.replaceChildren(field("Left", "left"), field("Right", "right"), swap, zooms);
}

function choosePicture(index) {
  view.index = index;
  [...parts.thumbs.children].forEach((thumb, i) => thumb.setAttribute("aria-pressed", String(i === index)));
  const names = candidates();
  // What was compared stays compared where this picture has it. At first: the main codec and the first other one.
  if (!names.includes(view.left)) view.left = names.includes(DATA.main) ? DATA.main : names[0];
  if (!names.includes(view.right)) view.right = names.find((name) => DATA.codecs[name]?.group === "anchor") ?? names[0];
  if (!view.zoom) view.zoom = firstZoom();
  buildTools();
  showCodecs();
  showZoom();
  const gone = Object.entries(current().leftOut).map(([name, reason]) => `${label(name)}: ${reason}`);
  const [left, top, right, bottom] = current().box;
  const words = `${current().picture}, ${right - left} × ${bottom - top} pixels at (${left}, ${top}).`;
  parts.notes.textContent = words + (gone.length ? ` Not shown: ${gone.join("; ")}.` : "");
}

function swapSides() {
  [view.left, view.right] = [view.right, view.left];
  buildTools();
  showCodecs();
}

/** The largest magnification at which the crop fits beside its table. */
function firstZoom() {
  const width = current().box[2] - current().box[0];
  const room = Math.min($("viewer").clientWidth, 620);
  return ZOOMS.filter((zoom) => zoom * width <= room).at(-1) ?? 1;
}

function showCodecs() {
  parts.left.src = imageOf(view.left);
  parts.right.src = imageOf(view.right);
  parts.leftTag.textContent = nameOf(view.left);
  parts.rightTag.textContent = nameOf(view.right);
  parts.left.alt = `${current().picture} by ${nameOf(view.left)}`;
  parts.right.alt = `${current().picture} by ${nameOf(view.right)}`;
  moveTo(view.cut);
  parts.table.replaceChildren(metricTable());
  drawDifference();
}

function showZoom() {
  const [left, top, right, bottom] = current().box;
  parts.compare.style.width = `${view.zoom * (right - left)}px`;
  parts.compare.style.height = `${view.zoom * (bottom - top)}px`;
  parts.compare.classList.toggle("fits", view.zoom * (right - left) <= parts.stage.parentElement.clientWidth);
}

// ---- The line between the two

function moveTo(cut) {
  view.cut = Math.min(100, Math.max(0, cut));
  parts.compare.style.setProperty("--cut", `${view.cut}%`);
  parts.handle.setAttribute("aria-valuenow", String(Math.round(view.cut)));
  parts.handle.setAttribute("aria-valuetext", `${Math.round(view.cut)} % ${nameOf(view.left)}`);
}

const KEYS = {
  ArrowLeft: -2,
  ArrowDown: -2,
  ArrowRight: 2,
  ArrowUp: 2,
  PageDown: -10,
  PageUp: 10,
  Home: -100,
  End: 100,
};

function moveByKey(event) {
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  moveTo(view.cut + KEYS[event.key]);
}

function startDrag(event) {
  if (event.button !== 0) return;
  const follow = (move) => {
    const frame = parts.compare.getBoundingClientRect();
    moveTo((100 * (move.clientX - frame.left)) / frame.width);
  };
  const stop = () => {
    parts.compare.removeEventListener("pointermove", follow);
    for (const end of ["pointerup", "pointercancel"]) parts.compare.removeEventListener(end, stop);
  };
  if (event.pointerType === "mouse") event.preventDefault();
  parts.compare.setPointerCapture(event.pointerId);
  parts.compare.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"]) parts.compare.addEventListener(end, stop);
  parts.handle.focus({ preventScroll: true });
  follow(event);
}

// ---- Numbers and difference

function metricTable() {
  const sides = [view.left, view.right].map((name) => (name === ORIGINAL ? null : current().codecs[name]));
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
  const pair = [view.left, view.right];
  const [left, right] = await Promise.all(pair.map((name) => pixelsOf(imageOf(name))));
  if (pair[0] !== view.left || pair[1] !== view.right) return; // another was chosen meanwhile
  parts.canvas.width = left.width;
  parts.canvas.height = left.height;
  parts.canvas.getContext("2d", READ).putImageData(differenceOf(left, right, view.gain), 0, 0);
  parts.differenceText.textContent = "Difference of left and right, amplified";
  parts.canvas.setAttribute(
    "aria-label",
    `Difference of ${nameOf(pair[0])} and ${nameOf(pair[1])}, amplified ${view.gain} times`,
  );
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

(function startViewer() {
  if (!DATA.views.length) return;
  buildViewer();
  choosePicture(0);
  window.addEventListener("resize", showZoom);
})();
