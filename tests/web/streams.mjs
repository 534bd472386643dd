// Random symbols of random tables, escapes and skipped tables among them, through Encoder and Decoder.
import { Decoder, Encoder, buildTables } from "../../web/codec/rans.js";

let seed = 1;
const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
const sizes = [2, 4, 64, 400, 4];
const frequencies = sizes.flatMap((size, table) => {
  const found = Array.from({ length: size }, () => 1 + random(table === 4 ? 1 : 100));
  found[random(size)] += 65536 - found.reduce((sum, value) => sum + value);
  return found;
});
const tables = buildTables(
  frequencies,
  sizes,
  sizes.map((size) => -(size - 2) / 2),
  { escape: true, skip: 1 },
);
const index = Uint8Array.from({ length: 200000 }, () => random(5));
const symbols = Int16Array.from(index, (table) => (table < 1 ? 0 : random(20) ? random(5) - 2 : random(65536) - 32768));
const encoder = new Encoder();
encoder.putAll(symbols, index, tables);
const decoder = new Decoder(encoder.finish());
const found = new Int16Array(symbols.length);
decoder.fill(found, index, tables);
decoder.finish();
console.log(JSON.stringify({ same: found.every((value, i) => value === symbols[i]) }));
