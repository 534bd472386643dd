// node filter.mjs IN OUT BASIS WIDTH: the pixels of IN, [height, WIDTH, 4], filtered. BASIS has a basis [K, 4, 256],
// int16, and then the K coefficients of a file. Standard output has what is said of a file that has one of them fewer,
// and of a model without a basis.
import { readFileSync, writeFileSync } from "node:fs";
import { filterPixels, tableOf } from "../../web/codec/bilateral.js";
import { BadFile } from "../../web/codec/errors.js";

const [name, out, basis, width] = process.argv.slice(2);
const { buffer } = new Uint8Array(readFileSync(basis));
const count = buffer.byteLength / (2 * 4 * 256 + 1);
const filterBasis = { data: new Int16Array(buffer, 0, count * 4 * 256), shape: [count, 4, 256] };
const filter = new Uint8Array(buffer, filterBasis.data.byteLength);
const pixels = new Uint8ClampedArray(readFileSync(name));
filterPixels(pixels, Number(width), tableOf({ filterBasis }, { filter }));
writeFileSync(out, pixels);

function complaint(model, file) {
  try {
    return tableOf(model, file);
  } catch (error) {
    return error instanceof BadFile ? error.message : null;
  }
}

const fewer = { filter: filter.subarray(1) };
console.log(JSON.stringify([complaint({ filterBasis }, fewer), complaint({ filterBasis: null }, { filter })]));
