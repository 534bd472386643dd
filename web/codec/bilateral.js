// A bilateral filter of decoded pixels, in integers (docs/format.md): a pixel moves towards its neighbours by what a
// table of the file's says of the difference between their luma and its own.
import { BadFile } from "./errors.js";
import { readMap } from "./maps.js";

export const REACH = 2; // pixels around
const GROUPS = 4; // of neighbours: 1 pixel straight, 1 diagonally, 2 straight, and a knight's move away
const STEPS = 256; // of a difference without its sign
const LIMIT = 1023; // of an entry
// Beyond the pixels lies a luma whose difference from any is one that the table has zeros for: so no place is special.
const BEYOND = 511;
const SIDE = 1024; // entries of a group, by difference
const NONE = SIDE / 2; // where the difference is 0
const CELL = 64; // pixels
const MOST = 16; // filters

/** {tables: those of a file's filters, Int16Array [GROUPS, SIDE] each; who: which of them every cell has, null where
 * there is one; columns of cells}; null where it has none.
 *
 * Raises BadFile where file and model do not fit together.
 */
export function filtersOf({ filterBasis }, { filtering = null, filterMap = null, rows, columns }) {
  if (!filtering) return null;
  if (!filterBasis) throw new BadFile("The file filters its picture, but this model knows no such filter.");
  const { data: basis, shape } = filterBasis;
  const count = filtering.length / shape[0];
  if (!Number.isInteger(count) || (filterMap ? count < 2 || count > MOST : count !== 1))
    throw new BadFile("The file's filter coefficients are damaged: there is another number of them.");
  const own = (number) => filtering.subarray(shape[0] * number, shape[0] * (number + 1));
  const tables = Array.from({ length: count }, (_, number) => tableOf(basis, own(number)));
  return { tables, who: filterMap && readMap(filterMap, rows, columns, count, "filters"), columns };
}

function tableOf(basis, coefficients) {
  const sums = new Int32Array(GROUPS * STEPS);
  Int8Array.from(coefficients).forEach((q, k) => {
    for (let at = 0; at < sums.length; at++) sums[at] += q * basis[k * sums.length + at];
  });
  const table = new Int16Array(GROUPS * SIDE);
  for (let group = 0; group < GROUPS; group++) {
    for (let step = 1; step < STEPS; step++) {
      const value = Math.min(Math.max((sums[STEPS * group + step] + 128) >> 8, -LIMIT), LIMIT);
      table[SIDE * group + NONE + step] = value;
      table[SIDE * group + NONE - step] = -value;
    }
  }
  return table;
}

/** Pixels [height, width, 4] of a picture, from a row and a column of it on, are filtered where they are; their opacity
 * stays.
 */
export function filterPixels(pixels, width, { tables, who, columns }, top = 0, left = 0) {
  const [height, wide] = [pixels.length / (4 * width), width + 2 * REACH];
  const luma = lumaOf(pixels, width, height);
  for (let row = 0; row < height; row++) {
    const cells = Math.floor((top + row) / CELL) * columns;
    for (let begin = 0, end; begin < width; begin = end) {
      const cell = Math.floor((left + begin) / CELL);
      end = who ? Math.min(CELL * (cell + 1) - left, width) : width;
      const part = pixels.subarray(4 * (row * width + begin), 4 * (row * width + end));
      filterRow(part, luma, wide, (row + REACH) * wide + REACH + begin, tables[who ? who[cells + cell] : 0]);
    }
  }
}

/** Int16Array, with REACH more on every side. */
function lumaOf(pixels, width, height) {
  const wide = width + 2 * REACH;
  const luma = new Int16Array(wide * (height + 2 * REACH)).fill(BEYOND);
  for (let row = 0, from = 0; row < height; row++) {
    let to = (row + REACH) * wide + REACH;
    for (const end = to + width; to < end; to++, from += 4)
      luma[to] = (pixels[from] + 2 * pixels[from + 1] + pixels[from + 2] + 2) >> 2;
  }
  return luma;
}

/** Written out, for a loop over neighbours takes twice as long. One look a pair, added to both, saves little. */
function filterRow(pixels, luma, wide, begin, table) {
  for (let at = 0, i = begin; at < pixels.length; at += 4, i++) {
    const straight = NONE - luma[i];
    const diagonal = straight + SIDE;
    const further = diagonal + SIDE;
    const knight = further + SIDE;
    const [first, above, below, last] = [i - 2 * wide, i - wide, i + wide, i + 2 * wide];
    const sum =
      table[straight + luma[above]] +
      table[straight + luma[i - 1]] +
      table[straight + luma[i + 1]] +
      table[straight + luma[below]] +
      table[diagonal + luma[above - 1]] +
      table[diagonal + luma[above + 1]] +
      table[diagonal + luma[below - 1]] +
      table[diagonal + luma[below + 1]] +
      table[further + luma[first]] +
      table[further + luma[i - 2]] +
      table[further + luma[i + 2]] +
      table[further + luma[last]] +
      table[knight + luma[first - 1]] +
      table[knight + luma[first + 1]] +
      table[knight + luma[above - 2]] +
      table[knight + luma[above + 2]] +
      table[knight + luma[below - 2]] +
      table[knight + luma[below + 2]] +
      table[knight + luma[last - 1]] +
      table[knight + luma[last + 1]];
    const by = (sum + 32) >> 6;
    for (let colour = at; colour < at + 3; colour++) pixels[colour] += by; // and clamped, by the array
  }
}
