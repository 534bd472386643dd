// What a file changes in g_s's last layer (docs/format.md, "Corrections").
import { BadFile } from "./errors.js";
import { addIntegers } from "./integers.js";
import { INDEX_STEP, nearestRung } from "./model.js";

/** The last layers' weights and biases for a file, Float32Arrays: those of all specialists for every correction.
 *
 * Raises BadFile for a damaged correction.
 */
export function headsOf(model, { corrections = [], quality }) {
  const all = corrections.length ? corrections : [null];
  return all.flatMap((correction) => model.heads.map((head) => headOf(model, head, correction, quality)));
}

function headOf(model, { weight, bias }, correction, quality) {
  const outputs = bias.data.length;
  const inputs = weight.data.length / outputs;
  const rows = rowsOf(weight.data, bias.data, inputs);
  if (correction) correct(model, rows, correction, quality);
  const unit = (o) => (model.inIntegers ? 2 ** -model.headShift[o] : 1);
  return {
    weight: Float32Array.from(weight.data, (_, at) => {
      const o = Math.floor(at / inputs);
      return rows[at + o] * unit(o);
    }),
    bias: Float32Array.from(bias.data, (_, o) => rows[o * (inputs + 1) + inputs] * unit(o)),
  };
}

/** Every output's kernel, flat, and last its bias. */
function rowsOf(weight, bias, inputs) {
  const rows = new Float64Array(weight.length + bias.length);
  bias.forEach((value, o) => {
    rows.set(weight.subarray(o * inputs, (o + 1) * inputs), o * (inputs + 1));
    rows[o * (inputs + 1) + inputs] = value;
  });
  return rows;
}

function correct(model, rows, correction, quality) {
  if (!model.basis) throw new BadFile("The file corrects its model, but this model knows no corrections.");
  const { shift, q } = readCorrection(model, correction, quality);
  const step = Math.exp(-INDEX_STEP * shift);
  const sums = new Float64Array(rows.length);
  q.forEach((integer, k) => {
    if (!integer) return;
    for (let at = 0; at < sums.length; at++) sums[at] += integer * model.basis.data[k * sums.length + at];
  });
  if (model.inIntegers) addIntegers(model, rows, sums, step);
  else sums.forEach((sum, at) => (rows[at] += step * sum));
}

/** {shift, q}: the step, and the integers, one a correction of the basis. */
export function readCorrection(model, correction, quality) {
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
