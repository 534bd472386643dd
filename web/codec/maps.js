// Which specialist and which correction every cell has (docs/format.md, "Specialists"): a range coder that counts answers as it goes.
import { BadFile } from "./errors.js";

const WORD = 2 ** 32;
const LEAST_RANGE = 2 ** 24;
const STEP = 2; // what a count rises by
const MOST = 2 ** 15; // the sum at which counts are halved

/** The last layer of every cell of a file among those of `headsOf`, Uint8Array [rows, columns]; null where it has one.
 *
 * Raises BadFile where file and model do not fit together, and for a damaged map.
 */
export function layersOf(model, file) {
  const specialists = specialistsOf(model, file);
  const { corrections, correctionMap, rows, columns } = file;
  if (!correctionMap) return specialists;
  const found = readMap(correctionMap, rows, columns, corrections.length, "corrections");
  const { specialists: count = 1 } = model.architecture;
  return found.map((correction, cell) => correction * count + (specialists ? specialists[cell] : 0));
}

function specialistsOf({ architecture: { specialists = 1 } }, { map, rows, columns }) {
  if (!map && specialists === 1) return null;
  if (!map) throw new BadFile("The file has no map of specialists, but its model has some.");
  if (specialists === 1) throw new BadFile("The file has a map of specialists, but its model has none.");
  return readMap(map, rows, columns, specialists, "specialists");
}

export function readMap(bytes, rows, columns, specialists, what) {
  const who = code(new MapDecoder(bytes), rows * columns, columns, specialists, () => undefined);
  const again = writeMap(who, columns, specialists);
  if (again.length !== bytes.length || again.some((byte, i) => byte !== bytes[i]))
    throw new BadFile(`The file's map of ${what} is damaged: it does not end where it should.`);
  return who;
}

export function writeMap(who, columns, specialists) {
  const encoder = new MapEncoder();
  code(encoder, who.length, columns, specialists, (cell) => who[cell]);
  return encoder.finish();
}

/** The cells in raster order. actual(cell): its specialist, which a decoder does not know. */
function code(coder, cells, columns, specialists, actual) {
  const found = new Uint8Array(cells);
  const ask = (counts, cell, other) => {
    const known = actual(cell);
    return count(counts, coder.code(counts, known === undefined ? undefined : Number(known === other)));
  };
  const asLeft = { true: [1, 1], false: [1, 1] }; // by whether the one above is the same
  const asAbove = [1, 1];
  const often = Array(specialists).fill(1);
  for (let cell = 0; cell < cells; cell++) {
    const [left, above] = neighbours(found, cell, columns);
    const others = often.map((times, who) => (who === left || who === above ? 0 : times));
    let who;
    if (ask(asLeft[left === above], cell, left)) who = left;
    else if (left !== above && (specialists === 2 || ask(asAbove, cell, above))) who = above;
    else who = coder.code(others, actual(cell));
    found[cell] = count(often, who);
  }
  return found;
}

function neighbours(found, cell, columns) {
  if (!cell) return [0, 0];
  const above = cell < columns ? found[cell - 1] : found[cell - columns];
  return [cell % columns ? found[cell - 1] : above, above];
}

function count(counts, answer) {
  counts[answer] += STEP;
  if (sum(counts) >= MOST) counts.forEach((value, i) => (counts[i] = (value + 1) >> 1));
  return answer;
}

function sum(counts) {
  return counts.reduce((total, value) => total + value, 0);
}

class MapDecoder {
  constructor(bytes) {
    this.bytes = bytes;
    this.next = this.value = 0;
    this.range = WORD - 1;
    for (let i = 0; i < 4; i++) this.shift();
  }

  code(counts) {
    const total = sum(counts);
    this.range = Math.floor(this.range / total);
    let place = Math.min(Math.floor(this.value / this.range), total - 1);
    let answer = 0;
    let before = 0;
    for (; place >= counts[answer]; answer++) {
      place -= counts[answer];
      before += counts[answer];
    }
    this.value -= this.range * before;
    this.range *= counts[answer];
    for (; this.range < LEAST_RANGE; this.range *= 256) this.shift();
    return answer;
  }

  shift() {
    this.value = (this.value * 256 + (this.bytes[this.next++] ?? 0)) % WORD;
  }
}

class MapEncoder {
  constructor() {
    this.bytes = [];
    this.low = 0;
    this.range = WORD - 1;
  }

  code(counts, answer) {
    this.range = Math.floor(this.range / sum(counts));
    this.low += this.range * sum(counts.slice(0, answer));
    this.range *= counts[answer];
    for (; this.range < LEAST_RANGE; this.range *= 256) this.shift();
    return answer;
  }

  /** The bytes of the shortest number in the range that is left, without zeros at their end. */
  finish() {
    const rounded = [32, 24, 16, 8, 0].map((bits) => Math.ceil(this.low / 2 ** bits) * 2 ** bits);
    this.low = rounded.find((value) => value < this.low + this.range);
    for (let i = 0; i < 4; i++) this.shift();
    while (this.bytes.at(-1) === 0) this.bytes.pop();
    return Uint8Array.from(this.bytes);
  }

  /** Move the highest byte out, and what it carries into those before. */
  shift() {
    if (this.low >= WORD) {
      let at = this.bytes.length - 1;
      for (; this.bytes[at] === 255; at--) this.bytes[at] = 0;
      this.bytes[at]++;
    }
    this.bytes.push(Math.floor(this.low / LEAST_RANGE) % 256);
    this.low = (this.low * 256) % WORD;
  }
}
