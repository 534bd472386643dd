// node resizing.mjs IN OUT WIDTH HEIGHT: pictures of that size from coded ones of 1, 2 and 3 quarters. IN has the pixels
// of these three, one after the other, OUT those of the three that are shown.
import { readFileSync, writeFileSync } from "node:fs";
import { codedSize } from "../../web/codec/container.js";
import { enlarged } from "../../web/codec/resizing.js";

const [name, out, ...sides] = process.argv.slice(2);
const [width, height] = sides.map(Number);
const pixels = new Uint8ClampedArray(readFileSync(name));
let begin = 0;
const shown = [1, 2, 3].map((quarters) => {
  const coded = codedSize(width, height, quarters);
  const end = begin + 4 * coded.width * coded.height;
  const found = enlarged(pixels.subarray(begin, end), { width, height, coded, quarters });
  begin = end;
  return new Uint8Array(found.buffer);
});
writeFileSync(out, Buffer.concat(shown));
console.log(JSON.stringify({ read: begin }));
