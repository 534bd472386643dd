// h_scale: which table a residual is read with follows from z by this network of integers (docs/format.md).
// Sums stay below 2^31: slimcodec refuses to save a model of which that is not true.

const ACTIVATION_BITS = 4;
const KERNELS = [3, 1, 3, 1];

/** The layers, ready to run: weights in the order [tap, input, output]. */
export function buildScaleNetwork(tensors) {
  return KERNELS.map((kernel, number) => {
    const [weight, bias, exponent] = ["weight", "bias", "exponent"].map(
      (part) => tensors[`h_scale.layers.${number}.${part}`],
    );
    const [outputs, inputs] = weight.shape;
    const taps = kernel * kernel;
    const turned = new Int8Array(weight.data.length);
    for (let o = 0; o < outputs; o++)
      for (let i = 0; i < inputs; i++)
        for (let t = 0; t < taps; t++)
          turned[(t * inputs + i) * outputs + o] = weight.data[(o * inputs + i) * taps + t];
    const shift = exponent.data[0] + (number ? ACTIVATION_BITS : 0) - ACTIVATION_BITS;
    return { kernel, inputs, outputs, shift, weight: turned, bias: bias.data };
  });
}

/** z Int8Array [N, rows, columns] → h Int32Array [2·rows, 2·columns, 4·M], the channels of a position together. */
export function scaleNetwork(layers, z, rows, columns) {
  const first = layer(layers[0], positionsFirst(z, layers[0].inputs, rows * columns), rows, columns, true);
  const second = shuffled(layer(layers[1], first, rows, columns, true), rows, columns);
  const third = layer(layers[2], second, 2 * rows, 2 * columns, true);
  return layer(layers[3], third, 2 * rows, 2 * columns, false);
}

function positionsFirst(planes, channels, area) {
  const found = new Int32Array(planes.length);
  for (let c = 0; c < channels; c++) for (let at = 0; at < area; at++) found[at * channels + c] = planes[c * area + at];
  return found;
}

/** A convolution, the shift, and unless it is the last layer the clamp to a uint8. Beyond the edges there are zeros. */
function layer({ kernel, inputs, outputs, shift, weight, bias }, x, rows, columns, activation) {
  const found = new Int32Array(rows * columns * outputs);
  const sums = new Int32Array(outputs);
  const terms = new Int32Array(2 * (kernel * kernel * inputs + 4)); // where the weights of an input are, and its value
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const count = collect(terms, x, row, column, rows, columns, inputs, outputs, kernel);
      sums.set(bias);
      for (let term = 0; term < count; term += 8) addFour(sums, weight, terms, term);
      const to = (row * columns + column) * outputs;
      for (let o = 0; o < outputs; o++) {
        const value = sums[o] >> shift;
        found[to + o] = activation ? (value < 0 ? 0 : value > 255 ? 255 : value) : value;
      }
    }
  }
  return found;
}

/** The inputs of a position that are not 0, into `terms`, with zeros behind. → twice as many as there are. */
function collect(terms, x, row, column, rows, columns, inputs, outputs, kernel) {
  const reach = kernel >> 1;
  let count = 0;
  for (let r = Math.max(row - reach, 0); r <= Math.min(row + reach, rows - 1); r++) {
    for (let c = Math.max(column - reach, 0); c <= Math.min(column + reach, columns - 1); c++) {
      const from = (r * columns + c) * inputs;
      const tap = ((r - row + reach) * kernel + c - column + reach) * inputs;
      for (let i = 0; i < inputs; i++) {
        const value = x[from + i];
        if (value === 0) continue;
        terms[count++] = (tap + i) * outputs;
        terms[count++] = value;
      }
    }
  }
  terms.fill(0, count, count + 8);
  return count;
}

/** Four inputs at a time: the sums are read and written a quarter as often. */
function addFour(sums, weight, terms, at) {
  const a = terms[at],
    x = terms[at + 1],
    b = terms[at + 2],
    y = terms[at + 3];
  const c = terms[at + 4],
    z = terms[at + 5],
    d = terms[at + 6],
    w = terms[at + 7];
  const count = sums.length;
  for (let o = 0; o < count; o++) {
    sums[o] +=
      Math.imul(weight[a + o], x) +
      Math.imul(weight[b + o], y) +
      Math.imul(weight[c + o], z) +
      Math.imul(weight[d + o], w);
  }
}

/** A pixel shuffle by 2, [rows, columns, 4·C] → [2·rows, 2·columns, C]: channel 4·c + 2·dy + dx goes to row dy, column dx. */
function shuffled(x, rows, columns) {
  const channels = x.length / (rows * columns * 4);
  const found = new Int32Array(x.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      for (let part = 0; part < 4; part++) {
        const from = (row * columns + column) * 4 * channels + part;
        const to = ((2 * row + (part >> 1)) * 2 * columns + 2 * column + (part & 1)) * channels;
        for (let c = 0; c < channels; c++) found[to + c] = x[from + 4 * c];
      }
  return found;
}
