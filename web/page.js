// What happens on the page: a file comes in, a picture and its numbers are shown.
import { call, stop } from "./client.js";
import { contextOf, draw, left, resize, right } from "./compare.js";
import { pngOf } from "./png.js";
import { ofSize } from "./rival.js";

const part = (id) => document.getElementById(id);
const NAMES = { "image/jpeg": "JPEG", "image/webp": "WebP", original: "Original" };
const MAGIC = "SLIM";
const MAX_SIDE = 16384; // of a canvas

let shown = null; // {name, original: canvas or null, key, photo: whether it was compressed here, decoded, result, file}
let turn = 0; // what began before the latest turn is dropped

// --- files come in ---------------------------------------------------------------------------------------------------

part("choose").addEventListener("change", ({ target }) => {
  open([...target.files]);
  target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") open([...event.dataTransfer.files]);
  });
}
window.addEventListener("paste", (event) => open([...event.clipboardData.files]));
part("stop").addEventListener("click", () => {
  turn++;
  stop();
  finish("Stopped.");
});

/** Files that were dropped: one is a .slim file or a photo; of two one may be the other's original. */
function open(files) {
  if (!files.length) return;
  work("Reading …", async (current) => {
    const kinds = await Promise.all(files.map(isSlim));
    const file = files[kinds.indexOf(true)];
    const photo = files[kinds.indexOf(false)];
    const original = photo && (await canvasOf(photo));
    return current() && (file ? openFile(file, original, current) : openPhoto(photo, original, current));
  });
}

async function isSlim(file) {
  return new TextDecoder("latin1").decode(await file.slice(0, MAGIC.length).arrayBuffer()) === MAGIC;
}

async function canvasOf(photo) {
  const bitmap = await createImageBitmap(photo).catch(() => {
    throw new Error(`${photo.name}: neither a .slim file nor a picture that this browser reads.`);
  });
  const canvas = newCanvas(bitmap.width, bitmap.height);
  const context = contextOf(canvas);
  context.fillStyle = "#fff"; // what is transparent is shown on white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

function newCanvas(width, height) {
  if (Math.max(width, height) > MAX_SIDE)
    throw new Error(`The picture has ${width} × ${height} pixels. This page takes sides of up to ${MAX_SIDE}.`);
  return Object.assign(document.createElement("canvas"), { width, height });
}

async function openFile(file, original, current) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  say("Decoding …");
  const result = await call("decode", { bytes }, progress);
  if (!current()) return "";
  if (original && (original.width !== result.width || original.height !== result.height)) original = null;
  return show({ name: file.name.replace(/\.slim$/, ""), original, photo: false, result, file: bytes }, current);
}

async function openPhoto(photo, original, current) {
  await listModels();
  const pixels = contextOf(original).getImageData(0, 0, original.width, original.height).data;
  return compress({ name: photo.name.replace(/\.[^.]*$/, ""), original, key: turn }, pixels, current);
}

async function listModels() {
  const { models } = await call("models");
  if (part("model").options.length === models.length) return;
  part("model").replaceChildren(...models.map(({ name }) => new Option(name)));
}

async function compress({ name, original, key }, pixels, current) {
  say("Compressing …");
  const { width, height } = original;
  const input = { key, pixels, width, height, quality: Number(part("quality").value), model: part("model").value };
  const result = await call("encode", input, progress);
  return current() && show({ name, original, key, photo: true, result, file: result.file }, current);
}

// --- and are shown ---------------------------------------------------------------------------------------------------

async function show(next, current) {
  const { result, photo } = next;
  const decoded = newCanvas(result.width, result.height);
  contextOf(decoded).putImageData(new ImageData(result.pixels, result.width), 0, 0);
  const png = await pngOf(decoded, result.icc);
  draw(left, result.icc ? await createImageBitmap(png).catch(() => decoded) : decoded); // in its own colours
  if (!current()) return "";
  shown = { ...next, decoded };
  part("result").hidden = false;
  for (const id of ["quality-control", "model-control"]) part(id).hidden = !photo;
  link("save-slim", photo && new Blob([next.file]), `${next.name}.slim`);
  link("save-png", png, `${next.name}.png`);
  return compareWith(part("rival").value, current);
}

function link(id, blob, name) {
  const anchor = part(id);
  URL.revokeObjectURL(anchor.href);
  anchor.hidden = !blob;
  if (blob) Object.assign(anchor, { href: URL.createObjectURL(blob), download: name });
}

/** Put the original, or the browser's own file of as many bytes, on the other side. */
async function compareWith(kind, current) {
  const { original, decoded, result } = shown;
  const other =
    kind === "original" ? { picture: original ?? decoded } : await rivalOf(kind, original ?? decoded, result);
  if (!current()) return "";
  draw(right, other.picture);
  resize(part("zoom").value);
  const title = kind === "original" && !original ? "the same" : NAMES[kind];
  part("right-name").textContent = part("rival-title").textContent = title;
  tell(other);
  const where = result.runtime === "webgpu" ? ", on the GPU" : "";
  return `${shown.name}: ${sizeOf(result)}, model ${result.model}${where}.`;
}

function sizeOf({ width, height, coded = { width, height } }) {
  const smaller = coded.width < width || coded.height < height;
  return `${width} × ${height} pixels${smaller ? `, coded as ${coded.width} × ${coded.height}` : ""}`;
}

async function rivalOf(type, source, { bytes }) {
  const found = await ofSize(source, type, bytes);
  if (!found) throw new Error(`This browser does not write ${NAMES[type]}.`);
  return { ...found, picture: await createImageBitmap(found.blob) };
}

function tell(other) {
  const { original, photo, result } = shown;
  const pixels = result.width * result.height;
  const psnr = (canvas) => original && `${psnrDb(original, canvas).toFixed(2)} dB`;
  const rows = [
    ["Bytes", result.bytes.toLocaleString("en"), other.blob ? other.blob.size.toLocaleString("en") : "–"],
    [
      "Bits a pixel",
      ((8 * result.bytes) / pixels).toFixed(3),
      other.blob ? ((8 * other.blob.size) / pixels).toFixed(3) : "–",
    ],
    ["Quality", `${result.quality}`, other.blob ? `${other.quality} of 100` : "–"],
    ["PSNR", psnr(shown.decoded), other.blob ? psnr(right) : "–"],
    [photo ? "Encoded in" : "Decoded in", `${result.seconds.toFixed(2)} s`, "–"],
  ];
  part("facts-rows").replaceChildren(...rows.filter(([title]) => original || title !== "PSNR").map(rowOf));
  part("note").textContent = [
    other.blob && !original
      ? `The ${NAMES[part("rival").value]} was made of the decoded picture, for the original is not here.`
      : "",
    other.reached === false ? "Even at its lowest quality it needs more bytes." : "",
  ].join(" ");
}

function rowOf([title, ...values]) {
  const row = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { scope: "row", textContent: title });
  row.append(head, ...values.map((value) => Object.assign(document.createElement("td"), { textContent: value })));
  return row;
}

function psnrDb(one, other) {
  const [a, b] = [one, other].map((canvas) => contextOf(canvas).getImageData(0, 0, one.width, one.height).data);
  let error = 0;
  for (let i = 0; i < a.length; i += 4) for (let c = i; c < i + 3; c++) error += (a[c] - b[c]) ** 2;
  return 10 * Math.log10((255 ** 2 * 0.75 * a.length) / error);
}

// --- and what is asked of them ---------------------------------------------------------------------------------------

part("quality").addEventListener("input", () => (part("quality-value").textContent = part("quality").value));
part("quality").addEventListener("change", again);
part("model").addEventListener("change", again);
part("rival").addEventListener("change", () =>
  work("Comparing …", (current) => compareWith(part("rival").value, current)),
);
part("zoom").addEventListener("change", () => resize(part("zoom").value));

/** Compress the photo anew. */
function again() {
  if (!shown?.photo) return;
  const { original } = shown;
  work("Compressing …", (current) =>
    compress(shown, contextOf(original).getImageData(0, 0, original.width, original.height).data, current),
  );
}

/** Run a task, which returns what is to be said; a later one takes its place. What goes wrong is said in one line. */
async function work(line, task) {
  if (!part("stop").hidden) stop();
  const own = ++turn;
  const current = () => own === turn;
  say(line);
  part("stop").hidden = false;
  try {
    finish(await task(current), false, current);
  } catch (error) {
    finish(error.message, true, current);
  }
}

/** Say what came of it, unless something else was begun. */
function finish(text, wrong = false, current = () => true) {
  if (!current()) return;
  part("stop").hidden = part("progress").hidden = true;
  say(text, wrong);
}

function say(text, wrong = false) {
  part("said").textContent = text;
  part("said").classList.toggle("wrong", wrong);
}

function progress(share) {
  part("progress").hidden = false;
  part("progress").value = share;
}
