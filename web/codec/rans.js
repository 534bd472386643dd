// The range coder of docs/format.md: 64-bit states as two halves of 32 bits, which doubles hold exactly.
import { BadFile } from "./errors.js";

const LOWEST = 2 ** 31; // of a state
const WORD = 2 ** 32;

/** Probability tables laid end to end, with what finding a slot's symbol quickly takes.
 *
 * sizes: symbols of each table; minima: the value of each table's first one; skip: so many tables are not coded.
 */
export function buildTables(frequencies, sizes, minima, { escape, skip = 0 }) {
  const count = sizes.length;
  const start = new Int32Array(count + 1);
  const cumulative = new Uint32Array(frequencies.length + count);
  const lookup = new Uint16Array(256 * count);
  let from = 0;
  for (let table = 0; table < count; table++) {
    const begin = (start[table] = from + table);
    for (let symbol = 0; symbol < sizes[table]; symbol++) {
      cumulative[begin + symbol + 1] = cumulative[begin + symbol] + frequencies[from++];
    }
    for (let bucket = 0, symbol = 0; bucket < 256; bucket++) {
      while (cumulative[begin + symbol + 1] <= 256 * bucket) symbol++;
      lookup[256 * table + bucket] = symbol;
    }
    if (cumulative[begin + sizes[table]] !== 65536) throw new Error(`table ${table} does not add up to 65536`);
  }
  start[count] = from + count;
  return { cumulative, start, minima, lookup, escape, skip };
}

export class Decoder {
  /** Raises BadFile for what cannot be a stream. */
  constructor(bytes) {
    if (bytes.length < 16 || bytes.length % 4)
      throw new BadFile("The file is damaged: a stream has an impossible length.");
    this.words = new Uint32Array(bytes.slice().buffer); // little endian, as every machine that runs a browser
    [this.low, this.high, this.otherLow, this.otherHigh] = this.words;
    this.position = 4;
    for (const [low, high] of [
      [this.low, this.high],
      [this.otherLow, this.otherHigh],
    ]) {
      if (high >= LOWEST || (high === 0 && low < LOWEST))
        throw new BadFile("The file is damaged: a stream begins with an impossible state.");
    }
  }

  /** One symbol of a table that is coded. */
  get(table, tables) {
    const { cumulative, start, lookup } = tables;
    const slot = this.low & 65535;
    let symbol = start[table] + lookup[256 * table + (slot >>> 8)];
    while (cumulative[symbol + 1] <= slot) symbol++;
    const first = cumulative[symbol];
    this.take(cumulative[symbol + 1] - first, slot - first);
    if (tables.escape && symbol === start[table + 1] - 2) {
      const value = this.low & 65535;
      this.take(1, 0);
      return (value << 16) >> 16;
    }
    return tables.minima[table] + symbol - start[table];
  }

  /** The next symbols, one for each table, into `symbols`; those of skipped tables are 0. */
  fill(symbols, index, tables) {
    for (let i = 0; i < index.length; i++) {
      symbols[i] = index[i] < tables.skip ? 0 : this.get(index[i], tables);
    }
  }

  /** Take a symbol out of the state, and let the other lane be next. */
  take(frequency, offset) {
    const product = frequency * (((this.high << 16) | (this.low >>> 16)) >>> 0) + offset;
    let low = product >>> 0;
    let high = frequency * (this.high >>> 16) + (product - low) / WORD;
    if (high === 0 && low < LOWEST) {
      if (this.position >= this.words.length)
        throw new BadFile("The file is damaged: a stream ends before its last symbol.");
      high = low;
      low = this.words[this.position++];
    }
    this.low = this.otherLow;
    this.high = this.otherHigh;
    this.otherLow = low;
    this.otherHigh = high;
  }

  /** Raises BadFile unless exactly everything was read. */
  finish() {
    const initial = [this.low, this.otherLow].every((low) => low === LOWEST) && this.high + this.otherHigh === 0;
    if (!initial || this.position !== this.words.length) {
      throw new BadFile("The file is damaged: decoding did not end where it should.");
    }
  }
}

/** Collects symbols in the order in which they will be decoded. */
export class Encoder {
  constructor() {
    this.starts = [];
    this.frequencies = [];
  }

  put(value, table, tables) {
    const { cumulative, start, minima } = tables;
    const last = start[table + 1] - 2;
    let symbol = start[table] + value - minima[table];
    const escaped = tables.escape && (symbol < start[table] || symbol >= last);
    if (escaped) symbol = last;
    this.starts.push(cumulative[symbol]);
    this.frequencies.push(cumulative[symbol + 1] - cumulative[symbol]);
    if (escaped) {
      this.starts.push(value & 65535);
      this.frequencies.push(1);
    }
  }

  putAll(symbols, index, tables) {
    for (let i = 0; i < index.length; i++) {
      if (index[i] >= tables.skip) this.put(symbols[i], index[i], tables);
    }
  }

  /** The stream. What is decoded first is encoded last. */
  finish() {
    const count = this.starts.length;
    const words = []; // from the last to the first
    const low = [LOWEST, LOWEST];
    const high = [0, 0];
    for (let i = count - 1; i >= 0; i--) {
      const lane = i % 2;
      const frequency = this.frequencies[i];
      if (high[lane] >= frequency * 2 ** 15) {
        words.push(low[lane]);
        low[lane] = high[lane];
        high[lane] = 0;
      }
      // The state divided by the frequency, as in long division; all that is in between is below 2^53.
      const upper = Math.floor(high[lane] / frequency);
      const rest = (high[lane] - upper * frequency) * WORD + low[lane];
      const lower = Math.floor(rest / frequency);
      low[lane] = ((lower << 16) >>> 0) + rest - lower * frequency + this.starts[i];
      high[lane] = upper * 65536 + (lower >>> 16);
    }
    const found = Uint32Array.from([low[0], high[0], low[1], high[1]].concat(words.reverse()));
    return new Uint8Array(found.buffer);
  }
}
