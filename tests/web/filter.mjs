// node filter.mjs IN OUT BASIS WIDTH K MAP ROWS COLUMNS TOP LEFT: the pixels of IN, [height, WIDTH, 4], filtered. They
// are those of a picture of ROWS and COLUMNS of cells from TOP and LEFT on. BASIS has a basis [K, 4, 256], int16, and then
// the coefficients of a file; MAP says which cell has which, or is empty. Standard output has what is said of a file that
// has one coefficient fewer, and of a model without a basis.
import { readFileSync, writeFileSync } from "node:fs";
import { filterPixels, filtersOf } from "../../web/codec/bilateral.js";
import { BadFile } from "../../web/codec/errors.js";

const [name, out, basis, mapped] = [2, 3, 4, 7].map((at) => process.argv[at]);
const [width, count, , rows, columns, top, left] = process.argv.slice(5).map(Number);
const { buffer } = new Uint8Array(readFileSync(basis));
const filterBasis = { data: new Int16Array(buffer, 0, count * 4 * 256), shape: [count, 4, 256] };
const filtering = new Uint8Array(buffer, filterBasis.data.byteLength);
const filterMap = new Uint8Array(readFileSync(mapped));
const file = { filtering, filterMap: filterMap.length ? filterMap : null, rows, columns };
const pixels = new Uint8ClampedArray(readFileSync(name));
filterPixels(pixels, width, filtersOf({ filterBasis }, file), top, left);
writeFileSync(out, pixels);

function complaint(model, other) {
  try {
    return filtersOf(model, other);
  } catch (error) {
    return error instanceof BadFile ? error.message : null;
  }
}

const fewer = { ...file, filtering: filtering.subarray(1) };
console.log(JSON.stringify([complaint({ filterBasis }, fewer), complaint({ filterBasis: null }, file)]));
