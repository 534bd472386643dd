// node maps.mjs IN: maps as Python writes them, [{rows, columns, specialists, bytes}] → the cells of each, or an error.
import { readFileSync } from "node:fs";
import { layersOf } from "../../web/codec/maps.js";

const found = JSON.parse(readFileSync(process.argv[2])).map(({ rows, columns, specialists, bytes }) => {
  try {
    return [...layersOf({ architecture: { specialists } }, { rows, columns, map: bytes && Uint8Array.from(bytes) })];
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(found));
