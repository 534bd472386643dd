"use strict";
// The stage: two pictures over each other, of which a line shows one at its left, one at its right; moved and magnified.

const LARGEST_SCALE = 16;
const stage = { cut: 50, scale: null, x: 0.5, y: 0.5 }; // scale null: the whole picture; x, y: what is in the middle
const fingers = new Map(); // pointers that are down: id → [x, y] in the stage
let onStage = () => {}; // called when the reader has moved something

/** {stage, layers: {left, right}, handle}, to be put on the page. */
function buildStage() {
  const image = (side) => element("img", { class: side, alt: "", draggable: "false" });
  const layer = (side) => element("div", { class: `layer ${side}` }, image(side));
  parts.leftLayer = layer("left");
  parts.rightLayer = layer("right");
  parts.left = parts.leftLayer.firstChild;
  parts.right = parts.rightLayer.firstChild;
  parts.canvas = element("canvas", { id: "difference", role: "img", hidden: "" });
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
  const about = "Picture: arrow keys move it, plus and minus magnify it, 0 shows all of it";
  parts.compare = element(
    "div",
    { class: "compare", id: "compare", tabindex: "0", role: "group", "aria-label": about },
    parts.rightLayer,
    parts.leftLayer,
    element("div", { class: "layer" }, parts.canvas),
    parts.leftTag,
    parts.rightTag,
    parts.handle,
  );
  parts.handle.addEventListener("keydown", moveByKey);
  parts.compare.addEventListener("keydown", panByKey);
  parts.compare.addEventListener("pointerdown", startDrag);
  parts.compare.addEventListener("dblclick", (event) => zoomAt(2, inStage(event)));
  parts.compare.addEventListener("wheel", zoomByWheel, { passive: false });
  return parts.compare;
}

// ---- Where the picture is

const size = () => [parts.compare.clientWidth, parts.compare.clientHeight];
const inStage = (event) => {
  const frame = parts.compare.getBoundingClientRect();
  return [event.clientX - frame.left, event.clientY - frame.top];
};

/** The scale at which all of the picture is to be seen. A tiny picture is not blown up without end. */
function fitting() {
  const { width, height } = current();
  return Math.min(size()[0] / width, size()[1] / height, 4);
}

const smallest = () => Math.min(fitting(), 1);
const scaleNow = () => Math.max(stage.scale ?? fitting(), smallest());
const isWhole = () => stage.scale === null || stage.scale <= fitting() * 1.001;

/** The stage is as wide as there is room, and as high as the picture then is. */
function showStage() {
  const { width, height } = current();
  const room = parts.compare.parentElement.clientWidth;
  const most = Math.max(240, Math.min(0.78 * window.innerHeight, (room * height) / width));
  parts.compare.style.height = `${Math.min(most, 4 * height)}px`;
  parts.compare.style.maxWidth = `${Math.max(4 * width, 160)}px`;
  const scale = scaleNow();
  keepInside(scale);
  const [left, top] = size().map((side, i) => side / 2 - [stage.x * width, stage.y * height][i] * scale);
  for (const shown of [parts.left, parts.right, parts.canvas]) {
    shown.style.width = `${width}px`;
    shown.style.height = `${height}px`;
    shown.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    shown.style.imageRendering = scale >= 2 ? "pixelated" : "auto";
  }
  parts.compare.classList.toggle("fits", isWhole());
  parts.zoomText.textContent = stage.scale === null ? "whole picture" : `${number(100 * scale)} %`;
  moveTo(stage.cut);
}

/** Nothing beside the picture is shown where it fills the stage; else it stands in the middle. */
function keepInside(scale) {
  const { width, height } = current();
  const half = [size()[0] / 2 / (width * scale), size()[1] / 2 / (height * scale)];
  const inside = (place, reach) => (reach >= 0.5 ? 0.5 : Math.min(1 - reach, Math.max(reach, place)));
  [stage.x, stage.y] = [inside(stage.x, half[0]), inside(stage.y, half[1])];
}

function pan(dx, dy) {
  const { width, height } = current();
  stage.x -= dx / (width * scaleNow());
  stage.y -= dy / (height * scaleNow());
  showStage();
  onStage();
}

/** Magnify by a factor; what is under the place in the stage stays there. */
function zoomAt(factor, place = size().map((side) => side / 2)) {
  const { width, height } = current();
  const before = scaleNow();
  const after = Math.min(LARGEST_SCALE, Math.max(smallest(), before * factor));
  const [fromX, fromY] = size().map((side, i) => place[i] - side / 2);
  stage.x += (fromX / before - fromX / after) / width;
  stage.y += (fromY / before - fromY / after) / height;
  stage.scale = Math.abs(after / fitting() - 1) < 1e-3 ? null : after;
  showStage();
  onStage();
}

function showWhole() {
  [stage.scale, stage.x, stage.y] = [null, 0.5, 0.5];
  showStage();
  onStage();
}

/** Magnify what the box holds, in whole multiples where they are large. */
function showBox([left, top, right, bottom]) {
  const { width, height } = current();
  const scale = Math.min(size()[0] / (right - left), size()[1] / (bottom - top), LARGEST_SCALE);
  stage.scale = scale >= 2 && Math.floor(scale) > fitting() ? Math.floor(scale) : scale;
  [stage.x, stage.y] = [(left + right) / 2 / width, (top + bottom) / 2 / height];
  showStage();
  onStage();
}

// ---- The line between the two

function moveTo(cut) {
  stage.cut = Math.min(100, Math.max(0, cut));
  parts.compare.style.setProperty("--cut", `${stage.cut}%`);
  parts.handle.setAttribute("aria-valuenow", String(Math.round(stage.cut)));
  parts.handle.setAttribute("aria-valuetext", `${Math.round(stage.cut)} % ${nameOf(view.left)}`);
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
  event.stopPropagation();
  moveTo(stage.cut + KEYS[event.key]);
}

const STEP = 40; // pixels that an arrow key moves the picture
const PANS = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };

function panByKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in PANS && !isWhole()) pan(...PANS[event.key]);
  else if (event.key === "+" || event.key === "=") zoomAt(2);
  else if (event.key === "-") zoomAt(0.5);
  else if (event.key === "0") showWhole();
  else return;
  event.preventDefault();
}

// ---- Fingers and the mouse: one moves the line or, where the picture is magnified, the picture; two magnify.

function zoomByWheel(event) {
  if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
  event.preventDefault();
  zoomAt(2 ** (-event.deltaY / 200), inStage(event));
}

function startDrag(event) {
  if (event.button !== 0) return;
  fingers.set(event.pointerId, inStage(event));
  const line = event.target === parts.handle || isWhole();
  const follow = (move) => {
    if (move.pointerId === event.pointerId) drag(move, line);
  };
  const stop = (end) => {
    if (end.pointerId !== event.pointerId) return;
    fingers.delete(event.pointerId);
    parts.compare.removeEventListener("pointermove", follow);
    for (const name of ["pointerup", "pointercancel"]) parts.compare.removeEventListener(name, stop);
  };
  if (event.pointerType === "mouse") event.preventDefault();
  parts.compare.setPointerCapture(event.pointerId);
  parts.compare.addEventListener("pointermove", follow);
  for (const name of ["pointerup", "pointercancel"]) parts.compare.addEventListener(name, stop);
  (line ? parts.handle : parts.compare).focus({ preventScroll: true });
  if (line && fingers.size === 1) drag(event, line);
}

function drag(event, line) {
  const [before, now] = [fingers.get(event.pointerId), inStage(event)];
  if (fingers.size > 1) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const apart = (place) => Math.max(Math.hypot(place[0] - other[0], place[1] - other[1]), 1);
    zoomAt(apart(now) / apart(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
  } else if (line) {
    moveTo((100 * now[0]) / size()[0]);
  } else {
    pan(now[0] - before[0], now[1] - before[1]);
  }
  fingers.set(event.pointerId, now);
}
