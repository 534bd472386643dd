// Two pictures, one over the other, with a divider between them.

const part = (id) => document.getElementById(id);
const [compare, frame, stack, divider, split] = ["compare", "frame", "stack", "divider", "split"].map(part);
export const left = part("left");
export const right = part("right");

/** Draw a picture, anything that a canvas draws. */
export function draw(canvas, picture) {
  [canvas.width, canvas.height] = [picture.width, picture.height];
  contextOf(canvas).drawImage(picture, 0, 0);
}

/** All canvases here are read: PSNR is measured on them. */
export function contextOf(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** The size at which pictures are shown: "fit", or so many pixels of the window for one of theirs. */
export function resize(zoom) {
  const enlarged = zoom !== "fit";
  stack.style.width = `${enlarged ? left.width * Number(zoom) : fitted()}px`;
  stack.style.aspectRatio = `${left.width} / ${left.height}`;
  stack.classList.toggle("enlarged", enlarged && Number(zoom) > 1);
  place();
}

/** As wide as the frame, but no higher than the window has room for, and at most twice as large as it is. */
function fitted() {
  const height = 0.78 * window.innerHeight;
  return Math.floor(Math.min(compare.clientWidth, (height * left.width) / left.height, 2 * left.width));
}

/** The left picture as far as the divider, whatever part of it is in view. */
function place() {
  const x = (split.value / 100) * compare.clientWidth;
  const inside = Math.min(Math.max(x - stack.offsetLeft + frame.scrollLeft, 0), stack.clientWidth);
  divider.style.left = `${x}px`;
  left.style.clipPath = `inset(0 ${stack.clientWidth - inside}px 0 0)`;
}

split.addEventListener("input", place);
frame.addEventListener("scroll", place);
window.addEventListener("resize", () => resize(part("zoom").value));
divider.addEventListener("pointerdown", (event) => {
  divider.setPointerCapture(event.pointerId);
  divider.onpointermove = (moved) => {
    const { left: begin, width } = compare.getBoundingClientRect();
    split.value = (100 * (moved.clientX - begin)) / width;
    place();
  };
});
for (const name of ["pointerup", "pointercancel"]) divider.addEventListener(name, () => (divider.onpointermove = null));
