// g_s where every cell of a picture has a specialist or a last layer of its own (docs/format.md, "Specialists", "Several
// corrections").
//
// Cells are sorted by last layer, of which every specialist has its own. Those of one are a batch [n, side, side, C],
// which a segment of layers maps to another. Before a layer that sees what is around, every cell is given that, from
// whichever specialist it is.
import { nearest } from "./integers.js";

const LATENTS = 4; // along the side of a cell
const COLOURS = 3;
const MID_GREY = 0.5; // which the last layer's results are less than colours
const [LEVELS, MIDDLE] = [255, 128]; // in a decoder in integers

/** What networks.js's `synthesise` takes. heads: all last layers; who: that of every cell of the picture. */
export function regionalSynthesis(run, model, heads, who, { columns }) {
  const { specialists = 1 } = model.architecture;
  const lastLayers = heads.map((head) => ordered(model, head));
  const last = (k, seen) =>
    specialists > 1 ? run("last_layer", { seen, ...lastLayers[k] }) : [throughLast(model, seen, lastLayers[k])];
  return {
    side: LATENTS,
    async g_s(y_hat, { top, left, bottom, right }) {
      const [rows, across] = [(bottom - top) / LATENTS, (right - left) / LATENTS];
      const own = Uint8Array.from({ length: rows * across }, (_, at) => {
        const row = top / LATENTS + Math.floor(at / across);
        return who[row * columns + left / LATENTS + (at % across)];
      });
      const cells = sorted(own, rows, across);
      const features =
        specialists > 1
          ? await throughSegments(run, model, takenApart(y_hat, cells), cells, specialists)
          : takenApart((await run("features", { y_hat }))[0], cells);
      const seen = lookAround(features, cells, model.architecture.head_kernel >> 1);
      const [blocks] = await byLayer(cells, (k, part) => last(k, part(seen)));
      return assembled(blocks, cells);
    },
  };
}

/** The outputs in the order row, column, colour. */
function ordered(model, { weight, bias }) {
  const [outputs, ...kernel] = model.heads[0].weight.shape;
  const size = weight.length / outputs;
  const from = (o) => (o % COLOURS) * (outputs / COLOURS) + Math.floor(o / COLOURS);
  return {
    head_weight: {
      data: Float32Array.from(weight, (_, at) => weight[from(Math.floor(at / size)) * size + (at % size)]),
      dims: [outputs, ...kernel],
    },
    head_bias: {
      data: Float32Array.from(bias, (_, o) => bias[from(o)] + (model.inIntegers ? 0 : MID_GREY)),
      dims: [outputs],
    },
  };
}

/** rank: the place in the order of every cell; groups: [last layer, first, end] in that order. */
function sorted(who, rows, columns) {
  const order = Array.from(who.keys()).sort((a, b) => who[a] - who[b] || a - b);
  const rank = new Int32Array(who.length);
  order.forEach((cell, place) => (rank[cell] = place));
  const groups = [];
  order.forEach((cell, place) => {
    if (groups.at(-1)?.[0] !== who[cell]) groups.push([who[cell], place, place]);
    groups.at(-1)[2]++;
  });
  return { rows, columns, order, rank, groups };
}

async function throughSegments(run, model, found, cells, specialists) {
  let carried = null;
  let handedOn = false;
  for (const [number, { margin, carries, hands_on }] of model.manifest.segments.entries()) {
    if (!carries) carried = null;
    else if (!handedOn) carried = found;
    const [seen, adds] = [lookAround(found, cells, margin), carried];
    [found, carried = null] = await byLayer(cells, (k, part) =>
      run(`g_s.${k % specialists}.${number}`, adds ? { seen: part(seen), carried: part(adds) } : { seen: part(seen) }),
    );
    handedOn = hands_on;
  }
  return found;
}

/** What run(last layer, part) gives for each group, put together: as many batches as it has results. */
async function byLayer({ order, groups }, run) {
  const found = [];
  for (const [k, first, end] of groups) {
    const part = ({ data, side, channels }) => {
      const size = side * side * channels;
      return { data: data.subarray(first * size, end * size), dims: [end - first, side, side, channels] };
    };
    const results = await run(k, part);
    results.forEach(({ data, dims: [, side, , channels] }, number) => {
      found[number] ??= { data: new Float32Array(order.length * side * side * channels), side, channels };
      found[number].data.set(data, first * side * side * channels);
    });
  }
  return found;
}

/** Of cells [n, side, side, C] → blocks of pixels: a last layer of a model without specialists. */
function throughLast({ inIntegers }, { data, dims: [count, wide, , channels] }, { head_weight, head_bias }) {
  const [outputs, , kernel] = head_weight.dims;
  const side = wide - kernel + 1;
  const taps = byTap(head_weight);
  const blocks = new Float32Array(count * side * side * outputs);
  for (let at = 0, block = 0; block < blocks.length; at++, block += outputs) {
    const [cell, y, x] = [Math.floor(at / side ** 2), Math.floor(at / side) % side, at % side];
    const sums = Float64Array.from(head_bias.data);
    taps.forEach((weights, tap) => {
      const from = channels * ((cell * wide + y + Math.floor(tap / kernel)) * wide + x + (tap % kernel));
      for (let o = 0, i = 0; o < outputs; o++) {
        let sum = 0;
        for (let c = from; c < from + channels; c++) sum += weights[i++] * data[c];
        sums[o] += sum;
      }
    });
    blocks.set(inIntegers ? sums.map(colour) : sums, block);
  }
  return { data: blocks, dims: [count, side, side, outputs] };
}

/** [O, C, k, k] → for each of the k² places [O, C]. */
function byTap({ data, dims: [outputs, channels, kernel] }) {
  return Array.from({ length: kernel ** 2 }, (_, tap) =>
    Float32Array.from({ length: outputs * channels }, (_, at) => data[at * kernel ** 2 + tap]),
  );
}

/** Of a decoder in integers. */
function colour(sum) {
  return (Math.min(Math.max(nearest(sum), -MIDDLE), LEVELS - MIDDLE) + MIDDLE) / LEVELS;
}

/** [C, rows·side, columns·side] → the batch of all cells. */
function takenApart({ data: planes, dims: [, channels, , across] }, { rank, rows, columns }) {
  const found = new Float32Array(planes.length);
  const side = across / columns;
  const [height, width] = [side * rows, side * columns];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const to = channels * placeOf(y, x, side, rank, columns);
      for (let c = 0; c < channels; c++) found[to + c] = planes[c * height * width + at];
    }
  }
  return { data: found, side, channels };
}

/** The number of an element among those of all cells in their order. */
function placeOf(y, x, side, rank, columns) {
  const cell = rank[Math.floor(y / side) * columns + Math.floor(x / side)];
  return (cell * side + (y % side)) * side + (x % side);
}

/** Cells with `margin` elements of what is around them; zeros beyond the window. */
function lookAround(found, { order, rank, rows, columns }, margin) {
  if (!margin) return found;
  const { data, side, channels } = found;
  const wide = side + 2 * margin;
  const seen = new Float32Array(order.length * wide * wide * channels);
  order.forEach((cell, place) => {
    const [top, left] = [Math.floor(cell / columns) * side - margin, (cell % columns) * side - margin];
    for (let y = Math.max(top, 0); y < Math.min(top + wide, rows * side); y++) {
      for (let x = Math.max(left, 0); x < Math.min(left + wide, columns * side); x++) {
        const from = channels * placeOf(y, x, side, rank, columns);
        const to = channels * ((place * wide + y - top) * wide + x - left);
        seen.set(data.subarray(from, from + channels), to);
      }
    }
  });
  return { data: seen, side: wide, channels };
}

/** Blocks of pixels, their channels in the order row, column, colour → planes of colours. */
function assembled({ data, side, channels }, { rank, rows, columns }) {
  const ratio = Math.sqrt(channels / COLOURS);
  const [height, width] = [rows * side * ratio, columns * side * ratio];
  const planes = new Float32Array(COLOURS * height * width);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const block = placeOf(Math.floor(y / ratio), Math.floor(x / ratio), side, rank, columns);
      const from = block * channels + ((y % ratio) * ratio + (x % ratio)) * COLOURS;
      for (let colour = 0; colour < COLOURS; colour++) planes[colour * height * width + at] = data[from + colour];
    }
  }
  return planes;
}
