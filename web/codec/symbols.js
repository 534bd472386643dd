// The integers of a file, tile by tile: z, then the scale indices that follow from it, then the residuals r.
import { newPaths, readDependent } from "./dependent.js";
import { Decoder, Encoder } from "./rans.js";
import { gainShift, nearestRung } from "./model.js";
import { scaleNetwork } from "./scale.js";

/** A file's integers: z Int8Array [N, rows, columns], index Uint8Array and r Int16Array [4, M, 2·rows, 2·columns].
 *
 * index: the table of every residual. That is its scale index, and 64 more with the second of two quantisers.
 */
export function readSymbols(model, file) {
  const found = emptySymbols(model, file);
  file.tiles.forEach((tile, number) => {
    const part = readTile(model, file.streams[number], tile, file);
    for (const [name, scale] of [
      ["z", 1],
      ["index", 2],
      ["r", 2],
    ]) {
      paste(part[name], found[name], tile, file, scale);
    }
  });
  return found;
}

export function emptySymbols({ M, N }, { rows, columns }) {
  const area = rows * columns;
  return { z: new Int8Array(N * area), index: new Uint8Array(16 * M * area), r: new Int16Array(16 * M * area) };
}

function readTile(model, stream, tile, file) {
  const { quality } = file;
  const decoder = new Decoder(stream);
  const z = model.banks ? readBankedZ(model, decoder, tile, quality) : readZ(model, decoder, tile, quality);
  const index = scaleIndex(model, z, tile, quality);
  const r = new Int16Array(index.length);
  const paths = newPaths(tile, file);
  for (const span of planeSpans(model, index.length)) {
    const plane = [r.subarray(...span), index.subarray(...span), model.rTables];
    if (model.nextStates) readDependent(decoder, ...plane, model.nextStates, paths);
    else decoder.fill(...plane);
  }
  decoder.finish();
  return { z, index, r };
}

/** A tile's symbols → its stream. */
export function writeTile(model, { z, index, r }, tile, quality) {
  const encoder = new Encoder();
  if (model.banks) writeBankedZ(model, encoder, z, tile, quality);
  else writeZ(model, encoder, z, tile, quality);
  for (const span of planeSpans(model, index.length))
    encoder.putAll(r.subarray(...span), index.subarray(...span), model.rTables);
  return encoder.finish();
}

/** Where the planes lie, [begin, end], in the order in which they are coded. */
function planeSpans({ architecture }, length) {
  return architecture.stages.flat().map((plane) => [(plane * length) / 4, ((plane + 1) * length) / 4]);
}

function readZ(model, decoder, { rows, columns }, quality) {
  const area = rows * columns;
  const z = new Int8Array(model.N * area);
  const rung = nearestRung(model, quality);
  for (let i = 0; i < z.length; i++) z[i] = decoder.get(rung * model.N + Math.floor(i / area), model.zTables);
  return z;
}

function writeZ(model, encoder, z, { rows, columns }, quality) {
  const rung = nearestRung(model, quality);
  z.forEach((value, i) => encoder.put(value, rung * model.N + Math.floor(i / (rows * columns)), model.zTables));
}

function readBankedZ(model, decoder, tile, quality) {
  const z = new Int8Array(model.N * tile.rows * tile.columns);
  eachBank(model, tile, quality, z, (bank, at) => (z[at] = decoder.get(bank, model.zTables)));
  return z;
}

function writeBankedZ(model, encoder, z, tile, quality) {
  eachBank(model, tile, quality, z, (bank, at) => encoder.put(z[at], bank, model.zTables));
}

/** Call code(bank, place in z) for every hyper-latent in order. Once it returns, z is known there.
 *
 * Doubles hold the sums as long as there are fewer than 4096 channels.
 */
function eachBank(model, { rows, columns }, quality, z, code) {
  const { N, banks: rule } = model;
  const area = rows * columns;
  const channels = nearestRung(model, quality) * N;
  const near = new Float64Array(N);
  for (let at = 0; at < area; at++) {
    const [row, column] = [Math.floor(at / columns), at % columns];
    const left = column ? at - 1 : row ? at - columns : -1; // beyond an edge one stands for the other
    const above = row ? at - columns : left;
    const around = (c, place) => (place < 0 ? 0 : z[c * area + place]);
    let activity = 0;
    for (let c = 0; c < N; c++) {
      near[c] = rule.weights[channels + c] * (Math.abs(around(c, left)) + Math.abs(around(c, above)));
      activity += near[c];
    }
    for (let n = 0; n < N; n++) {
      const channel = channels + n;
      const sum = below(rule.sumEdges, channel * (rule.sums - 1), rule.sums - 1, around(n, left) + around(n, above));
      const edges = rule.activities - 1;
      const busy = below(rule.activityEdges, channel * edges, edges, activity + 6 * near[n]);
      const place = n * area + at;
      code(rule.banks[(channel * rule.sums + sum) * rule.activities + busy], place);
      activity += 2 * rule.weights[channel] * Math.abs(z[place]) - near[n];
    }
  }
}

function below(edges, begin, count, value) {
  let found = 0;
  for (let i = begin; i < begin + count; i++) found += edges[i] < value ? 1 : 0;
  return found;
}

/** The table of every residual, Uint8Array [4, M, 2·rows, 2·columns]. */
export function scaleIndex(model, z, { rows, columns }, quality) {
  const shift = gainShift(model, quality);
  const h = scaleNetwork(model.scaleLayers, z, rows, columns);
  const [area, outputs] = [4 * rows * columns, 4 * model.M];
  const index = new Uint8Array(area * outputs);
  for (let channel = 0; channel < outputs; channel++) {
    const moved = shift[channel % model.M] + 8;
    for (let at = 0; at < area; at++) {
      const found = (h[at * outputs + channel] + moved) >> 4;
      index[channel * area + at] = found < 0 ? 0 : found > 63 ? 63 : found;
    }
  }
  return index;
}

/** Put a tile's planes into the picture's. scale: elements along the side of a cell. */
function paste(source, target, tile, file, scale) {
  const [rows, width, across] = [scale * tile.rows, scale * tile.columns, scale * file.columns];
  const planes = source.length / (rows * width);
  for (let plane = 0; plane < planes; plane++) {
    for (let row = 0; row < rows; row++) {
      const from = (plane * rows + row) * width;
      const to = (plane * scale * file.rows + scale * tile.top + row) * across + scale * tile.left;
      target.set(source.subarray(from, from + width), to);
    }
  }
}
