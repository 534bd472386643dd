// node integers.mjs MODEL FILE OUT: what is in a .slim file, as raw bytes of z (int8), index (uint8) and r (int16),
// then whether the streams that are written of them are those of the file, and the SHA-256 of g_s's last layer for it.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { unpack } from "../../web/codec/container.js";
import { headsOf, readCorrection } from "../../web/codec/correction.js";
import { buildModel } from "../../web/codec/model.js";
import { readSymbols, writeTile } from "../../web/codec/symbols.js";

const [directory, name, out] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(readFileSync(path));
const model = buildModel(
  JSON.parse(readFileSync(`${directory}/manifest.json`)),
  bytes(`${directory}/tables.safetensors`),
);
const file = unpack(bytes(name), 1e8);
const { z, index, r } = readSymbols(model, file);
writeFileSync(out, Buffer.concat([z, index, r].map((array) => Buffer.from(array.buffer))));
const whole = { rows: file.rows, columns: file.columns };
const rewritten =
  file.tiles.length === 1 &&
  Buffer.compare(Buffer.from(writeTile(model, { z, index, r }, whole, file.quality)), Buffer.from(file.streams[0])) ===
    0;
const read = file.corrections.map((bytes) => readCorrection(model, bytes, file.quality));
const correction = read.length > 1 ? read : (read[0] ?? null);
const layers = headsOf(model, file).map(({ weight, bias }) =>
  createHash("sha256").update(weight).update(bias).digest("hex"),
);
const head = layers.length > 1 ? layers : layers[0];
const { width, height } = file;
console.log(JSON.stringify({ modelHash: model.modelHash, width, height, rewritten, correction, head }));
