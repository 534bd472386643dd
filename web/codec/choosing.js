// What an encoder makes of real residuals: integers that are near, or cheaper by more than their error costs.
import { newPaths, search } from "./dependent.js";
import { nearest } from "./integers.js";

const REACH = 32; // larger ones are rounded
const LARGEST = 32767; // of a residual
const ESCAPE_BITS = 16;

/** → (exact, begins): fills r, and index where it changes, for planes of real residuals, [planes, M, 2·rows, 2·columns].
 * `begins` says where these planes are in r and index.
 */
export function chooser(model, symbols, file) {
  const { rTables, errorBits, offsets, nextStates } = model;
  const bits = magnitudeBits(rTables);
  if (!nextStates) return (exact, begins) => round(exact, begins, symbols, bits, model);
  const paths = newPaths(file, file);
  const costs = { bits, reach: REACH, offsets, errorBits, nextStates };
  return (exact, begins) => search(exact, begins, symbols, costs, rTables.skip, paths);
}

/** Bits of every magnitude below REACH by every table, escapes included: [tables, REACH]. */
function magnitudeBits({ cumulative, start, minima }) {
  const bits = (symbol) => 16 - Math.log2(cumulative[symbol + 1] - cumulative[symbol]);
  const row = (largest, table) => {
    const middle = start[table] + largest;
    const escaped = bits(start[table + 1] - 2) + ESCAPE_BITS;
    return Array.from({ length: REACH }, (_, a) => (a > largest ? escaped : bits(middle + a)));
  };
  return Float64Array.from(minima.flatMap((least, table) => row(-least, table)));
}

/** The nearest integer, or one nearer to zero where the bits that it saves are worth more than its error. */
function round(exact, begins, { r, index }, bits, { rTables, errorBits }) {
  const size = exact.length / begins.length;
  for (let i = 0; i < exact.length; i++) {
    const place = begins[Math.floor(i / size)] + (i % size);
    if (index[place] < rTables.skip) continue;
    const magnitude = Math.abs(exact[i]);
    let rounded = nearest(magnitude);
    if (rounded && rounded < REACH) {
      const at = index[place] * REACH + rounded;
      if (bits[at] - bits[at - 1] > errorBits * (2 * (magnitude - rounded) + 1)) rounded--;
    }
    r[place] = Math.sign(exact[i]) * Math.min(rounded, LARGEST);
  }
}
