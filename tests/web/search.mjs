// node search.mjs MODEL IN OUT PLANES ROWS COLUMNS: real residuals of a stage (float32) and then their scale indices
// (uint8), which IN holds, become integers (int16) and their tables (uint8).
import { readFileSync, writeFileSync } from "node:fs";
import { chooser } from "../../web/codec/choosing.js";
import { buildModel } from "../../web/codec/model.js";

const [directory, name, out, ...sizes] = process.argv.slice(2);
const [planes, rows, columns] = sizes.map(Number);
const bytes = (path) => new Uint8Array(readFileSync(path));
const model = buildModel(
  JSON.parse(readFileSync(`${directory}/manifest.json`)),
  bytes(`${directory}/tables.safetensors`),
);
const data = bytes(name).buffer;
const count = planes * model.M * 4 * rows * columns;
const symbols = { r: new Int16Array(count), index: new Uint8Array(data, 4 * count) };
const begins = Array.from({ length: planes }, (_, plane) => (plane * count) / planes);
chooser(model, symbols, { rows, columns, longPaths: true, tile: 0 })(new Float32Array(data, 0, count), begins);
writeFileSync(out, Buffer.concat([Buffer.from(symbols.r.buffer), symbols.index]));
console.log(JSON.stringify({ chosen: count }));
