// What a file of version 3 changes in g_s's last layer (docs/format.md, "Corrections").
import { BadFile } from "./errors.js";
import { INDEX_STEP, nearestRung } from "./model.js";

/** The last layer's weight and bias for a file, Float32Arrays. Raises BadFile for a damaged correction. */
export function headOf(model, file) {
  const { weight, bias } = model.head;
  if (!file.correction) return { weight: weight.data, bias: bias.data };
  if (!model.basis) throw new BadFile("The file corrects its model, but this model knows no corrections.");
  const { shift, q } = readCorrection(model, file);
  const [, outputs, inputs] = model.basis.shape;
  const found = { weight: Float64Array.from(weight.data), bias: Float64Array.from(bias.data) };
  q.forEach((integer, k) => {
    const factor = integer * Math.exp(-INDEX_STEP * shift);
    if (!factor) return;
    for (let o = 0; o < outputs; o++) {
      const row = (k * outputs + o) * inputs;
      for (let i = 0; i < inputs - 1; i++) found.weight[o * (inputs - 1) + i] += factor * model.basis.data[row + i];
      found.bias[o] += factor * model.basis.data[row + inputs - 1];
    }
  });
  return { weight: Float32Array.from(found.weight), bias: Float32Array.from(found.bias) };
}

/** {shift, q}: the step, and the integers, one a correction of the basis. */
export function readCorrection(model, { correction, quality }) {
  const { cumulative, start, minima, skip } = model.rTables;
  const shift = correction[0];
  const [count] = model.basis.shape;
  let state = 0n;
  for (let i = correction.length - 1; i >= 1; i--) state = (state << 8n) | BigInt(correction[i]);
  const q = Array.from({ length: count }, (_, k) => {
    const scale = model.basisScales[nearestRung(model, quality) * count + k] + shift;
    const table = Math.min(Math.max(scale, 0), 63);
    if (table < skip) return 0;
    const slot = Number(state & 65535n);
    let symbol = start[table];
    while (cumulative[symbol + 1] <= slot) symbol++;
    const frequency = cumulative[symbol + 1] - cumulative[symbol];
    state = BigInt(frequency) * (state >> 16n) + BigInt(slot - cumulative[symbol]);
    if (symbol !== start[table + 1] - 2) return minima[table] + symbol - start[table];
    const value = Number(BigInt.asIntN(16, state));
    state >>= 16n;
    return value;
  });
  if (state || (correction.length > 1 && !correction[correction.length - 1])) {
    throw new BadFile("The file is damaged: its correction does not end where it should.");
  }
  return { shift, q };
}
