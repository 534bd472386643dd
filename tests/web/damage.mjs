// node damage.mjs MODEL FILE: what becomes of damaged copies. Anything but a BadFile of one line is listed in `others`.
import { readFileSync } from "node:fs";
import { filtersOf } from "../../web/codec/bilateral.js";
import { crc32, inflated, unpack } from "../../web/codec/container.js";
import { headsOf } from "../../web/codec/correction.js";
import { BadFile } from "../../web/codec/errors.js";
import { buildModel } from "../../web/codec/model.js";
import { readSymbols } from "../../web/codec/symbols.js";

const [directory, name] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(readFileSync(path));
const model = buildModel(
  JSON.parse(readFileSync(`${directory}/manifest.json`)),
  bytes(`${directory}/tables.safetensors`),
);
const intact = bytes(name);
const report = { refused: 0, decoded: 0, others: [] };

function withChecksum(data) {
  const checksum = crc32(data.subarray(25), crc32(data.subarray(0, 21)));
  new DataView(data.buffer).setUint32(21, checksum, true);
  return data;
}

async function attempt(data, what) {
  try {
    const file = unpack(data, 1e6);
    if (file.quality < 256 || file.quality > 256 * model.rungs) throw new BadFile("quality");
    readSymbols(model, file);
    headsOf(model, file);
    filtersOf(model, file);
    if (file.chunks.alpha) await inflated(file.chunks.alpha, "alpha", file.width * file.height);
    report.decoded++;
  } catch (error) {
    if (error instanceof BadFile && !error.message.includes("\n")) report.refused++;
    else report.others.push(`${what}: ${error.stack}`);
  }
}

for (let length = 0; length < intact.length; length++) await attempt(intact.slice(0, length), `${length} bytes`);
await attempt(Uint8Array.from([...intact, 0]), "one more byte");
for (let at = 0; at < intact.length; at++) {
  const flipped = intact.slice();
  flipped[at] ^= 1 << (at % 8);
  await attempt(flipped, `byte ${at}`);
  await attempt(withChecksum(flipped.slice()), `byte ${at}, right checksum`);
}
console.log(JSON.stringify(report));
