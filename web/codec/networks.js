// The networks: integers to latents to pixels, and back. `run(name, feeds)` evaluates one ONNX file: feeds and what
// it gives, an array, are {data: Float32Array, dims}. Nothing that is parsed depends on anything here. In a decoder in integers all
// values are such, and float32 holds every sum.
import { REACH, filterPixels } from "./bilateral.js";
import { chooser } from "./choosing.js";
import { integerRestorer, nearest } from "./integers.js";
import { gains } from "./model.js";

const LATENT = 16; // pixels along the side of a latent
const TILE = 96; // latents: larger pictures pass g_a and g_s piece by piece

/** The integers of a whole picture → y_hat [M, 4·rows, 4·columns].
 *
 * choose(planes, mu): what an encoder does before a stage's integers are needed; it knows what was before.
 */
export async function latents(run, model, { z, index, r }, { rows, columns, quality }, choose = () => {}) {
  const { M, N, features: P, architecture } = model;
  const [h, w] = [2 * rows, 2 * columns];
  const area = h * w;
  const restore = restorer(model, quality);
  const seen = new Float32Array((P + 4 * M) * area); // p, and the planes in the order of coding
  const y = new Float32Array(4 * M * area);
  const [p] = await run("h_mean", { z_hat: { data: Float32Array.from(z), dims: [1, N, rows, columns] } });
  seen.set(p.data);
  let end = P * area;
  for (const [stage, planes] of architecture.stages.entries()) {
    const features = { data: seen.subarray(0, end), dims: [1, end / area, h, w] };
    const [{ data: mu }] = await run(`context.${stage}`, { features });
    choose(planes, mu);
    for (const [number, plane] of planes.entries()) {
      const own = seen.subarray(end, end + M * area);
      const [from, begin] = [number * M * area, plane * M * area];
      for (let i = 0; i < own.length; i++) {
        own[i] = restore(mu[from + i], r[begin + i], index[begin + i], Math.floor(i / area));
      }
      spread(own, y, plane, h, w);
      end += M * area;
    }
  }
  return { data: y, dims: [1, M, 2 * h, 2 * w] };
}

/** What a decoder makes of mu and an integer: moved towards zero by its table's offset, over the gain, added. */
function restorer(model, quality) {
  if (model.inIntegers) return integerRestorer(model, quality);
  const gain = gains(model, quality);
  const offsets = Float32Array.from(model.offsets, (offset) => offset / 256);
  return (mu, r, index, channel) => mu + (r - Math.sign(r) * offsets[index]) / gain[channel];
}

/** A plane [M, h, w] to its places in y [M, 2h, 2w]: plane 2·dy + dx is row dy, column dx of every 2 × 2. */
function spread(plane, y, number, h, w) {
  const [dy, dx] = [number >> 1, number & 1];
  for (let i = 0, row = 0; i < plane.length; row++) {
    const to = (2 * row + dy) * 2 * w + dx; // rows of all channels follow each other
    for (let column = 0; column < w; column++) y[to + 2 * column] = plane[i++];
  }
}

/** y [M, 2h, 2w] → its four planes, [4, M, h, w]. */
export function planesOf(y, h, w) {
  const found = new Float32Array(y.length);
  const size = y.length / 4;
  for (let plane = 0; plane < 4; plane++) {
    const [dy, dx] = [plane >> 1, plane & 1];
    for (let i = 0, row = 0; i < size; row++) {
      const from = (2 * row + dy) * 2 * w + dx;
      for (let column = 0; column < w; column++) found[plane * size + i++] = y[from + 2 * column];
    }
  }
  return found;
}

/** What `synthesise` takes where a model has one g_s. */
export function wholeSynthesis(run, model, head) {
  const feeds = {
    head_weight: { data: head.weight, dims: model.heads[0].weight.shape },
    head_bias: { data: head.bias, dims: model.heads[0].bias.shape },
  };
  return { side: 1, g_s: async (y_hat) => (await run("g_s", { y_hat, ...feeds }))[0].data };
}

/** y_hat → the picture's pixels, Uint8ClampedArray [height, width, 4], opaque. report(share done).
 *
 * g_s(y_hat, window) gives x_hat [3, …] of a window of latents, which is one of squares of `side` of them.
 * filters see the pixels around a piece, and those beyond the picture.
 */
export async function synthesise({ g_s, side, filters = null }, model, y, { width, height }, report = () => {}) {
  const pixels = new Uint8ClampedArray(4 * width * height);
  const [, M, rows, columns] = y.dims;
  const pieces = evenTiles(rows, columns);
  for (const [done, piece] of pieces.entries()) {
    const made = filters ? grown(piece, Math.ceil(REACH / LATENT), rows, columns) : piece;
    const seen = inSquares(grown(made, model.manifest.margins.g_s, rows, columns), side);
    const y_hat = { data: cut(y.data, M, rows, columns, seen), dims: [1, M, ...sides(seen)] };
    const painted = paint(await g_s(y_hat, seen), seen, made);
    if (filters) filterPixels(painted, LATENT * sides(made)[1], filters, LATENT * made.top, LATENT * made.left);
    place(painted, made, piece, pixels, width, height);
    report((done + 1) / pieces.length);
  }
  return pixels;
}

/** Pixels [height, width, 4] → y [M, 4·rows, 4·columns]; beyond the picture its edges are repeated. */
export async function analyse(run, model, pixels, { width, height, rows, columns }, report = () => {}) {
  const [h, w] = [4 * rows, 4 * columns];
  const y = new Float32Array(model.M * h * w);
  const pieces = evenTiles(h, w);
  for (const [done, piece] of pieces.entries()) {
    const seen = grown(piece, model.manifest.margins.g_a, h, w);
    const x = { data: padded(pixels, width, height, seen), dims: [1, 3, ...sides(seen).map((side) => LATENT * side)] };
    const [found] = await run("g_a", { x });
    paste(found.data, seen, piece, y, model.M, h, w);
    report((done + 1) / pieces.length);
  }
  return { data: y, dims: [1, model.M, h, w] };
}

function sides({ top, left, bottom, right }) {
  return [bottom - top, right - left];
}

/** As few pieces as sides of at most TILE allow, all of about the same size. */
function evenTiles(rows, columns) {
  const parts = (length) => {
    const count = Math.ceil(length / TILE);
    return Array.from({ length: count }, (_, i) => [
      Math.floor((length * i) / count),
      Math.floor((length * (i + 1)) / count),
    ]);
  };
  return parts(rows).flatMap(([top, bottom]) => parts(columns).map(([left, right]) => ({ top, left, bottom, right })));
}

function grown({ top, left, bottom, right }, margin, rows, columns) {
  return {
    top: Math.max(0, top - margin),
    left: Math.max(0, left - margin),
    bottom: Math.min(rows, bottom + margin),
    right: Math.min(columns, right + margin),
  };
}

function inSquares({ top, left, bottom, right }, side) {
  const [down, up] = [(value) => side * Math.floor(value / side), (value) => side * Math.ceil(value / side)];
  return { top: down(top), left: down(left), bottom: up(bottom), right: up(right) };
}

/** A window of planes [channels, rows, columns]. */
function cut(data, channels, rows, columns, { top, left, bottom, right }) {
  if (bottom - top === rows && right - left === columns) return data;
  const found = new Float32Array(channels * (bottom - top) * (right - left));
  let to = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let row = top; row < bottom; row++) {
      const from = (channel * rows + row) * columns;
      found.set(data.subarray(from + left, from + right), to);
      to += right - left;
    }
  }
  return found;
}

/** What of a result that covers `seen` belongs to `piece`, into planes [channels, rows, columns]. */
function paste(data, seen, piece, target, channels, rows, columns) {
  const [height, width] = sides(seen);
  for (let channel = 0; channel < channels; channel++) {
    for (let row = piece.top; row < piece.bottom; row++) {
      const from = (channel * height + row - seen.top) * width - seen.left;
      target.set(data.subarray(from + piece.left, from + piece.right), (channel * rows + row) * columns + piece.left);
    }
  }
}

/** x_hat of what was `seen` → the pixels of a piece, [height, width, 4], opaque. */
function paint(x, seen, piece) {
  const [rows, columns] = sides(seen).map((side) => LATENT * side);
  const [height, width] = sides(piece).map((side) => LATENT * side);
  const pixels = new Uint8ClampedArray(4 * height * width);
  const left = LATENT * (piece.left - seen.left);
  for (let row = 0, to = 0; row < height; row++) {
    let from = (row + LATENT * (piece.top - seen.top)) * columns + left;
    for (let column = 0; column < width; column++, from++, to += 4) {
      for (let colour = 0; colour < 3; colour++) pixels[to + colour] = 255 * x[colour * rows * columns + from];
      pixels[to + 3] = 255;
    }
  }
  return pixels;
}

/** What of the pixels of `made` belongs to `piece`, into those of the picture. */
function place(painted, made, piece, pixels, width, height) {
  const wide = LATENT * sides(made)[1];
  const [left, right] = [LATENT * piece.left, Math.min(LATENT * piece.right, width)];
  for (let row = LATENT * piece.top; row < Math.min(LATENT * piece.bottom, height); row++) {
    const from = (row - LATENT * made.top) * wide - LATENT * made.left;
    pixels.set(painted.subarray(4 * (from + left), 4 * (from + right)), 4 * (row * width + left));
  }
}

function padded(pixels, width, height, seen) {
  const [rows, columns] = sides(seen).map((side) => LATENT * side);
  const found = new Float32Array(3 * rows * columns);
  for (let row = 0, to = 0; row < rows; row++) {
    const line = 4 * width * Math.min(LATENT * seen.top + row, height - 1);
    for (let column = 0; column < columns; column++, to++) {
      const from = line + 4 * Math.min(LATENT * seen.left + column, width - 1);
      for (let colour = 0; colour < 3; colour++) found[colour * rows * columns + to] = pixels[from + colour] / 255;
    }
  }
  return found;
}

/** The integers of a picture at a quality: y → {z, index, r}. scaleIndex(z) gives the tables. */
export async function quantise(run, model, y, file, scaleIndex) {
  const { rows, columns, quality } = file;
  const gain = gains(model, quality);
  const [h, w] = [2 * rows, 2 * columns];
  const scaled = Float32Array.from(y.data, (value, i) => value * gain[Math.floor(i / (4 * h * w))]);
  const [hyper] = await run("h_a", { y: { data: scaled, dims: y.dims } });
  const z = Int8Array.from(hyper.data, (value) => nearest(Math.min(Math.max(value, -128), 127)));
  const index = scaleIndex(z);
  const symbols = { z, index, r: new Int16Array(index.length) };
  const planes = planesOf(y.data, h, w);
  const size = planes.length / 4;
  const choose = chooser(model, symbols, file);
  const y_hat = await latents(run, model, symbols, file, (stage, mu) => {
    const begins = stage.map((plane) => plane * size);
    const place = (i) => begins[Math.floor(i / size)] + (i % size);
    const exact = mu.map((mean, i) => (planes[place(i)] - mean) * gain[Math.floor((i % size) / (h * w))]);
    choose(exact, begins);
  });
  return { symbols, y_hat };
}
