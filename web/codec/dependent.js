// Dependent quantisation (docs/format.md): what was coded before in a block of cells says which quantiser a residual has.

export const SECOND = 64; // how far the second quantiser's tables lie behind
const LARGEST = 32766; // of a residual that is chosen
const BLOCK = 4; // cells along the side of a block, unless tiles are not made of such

/** The paths of a tile or picture of so many cells, in state 0. tile: the side of a file's tiles, 0 for one tile. */
export function newPaths({ rows, columns }, { longPaths, tile }) {
  let side = longPaths ? BLOCK : 1;
  while (tile % side) side /= 2;
  const across = Math.ceil(columns / side);
  return { states: new Uint16Array(Math.ceil(rows / side) * across), side, across, rows, columns };
}

/** Read a plane's residuals [M, 2·rows, 2·columns], and add SECOND to the index of each that is of the second quantiser.
 *
 * nextStates: after an even and after an odd value, [states, 2]. The paths go on.
 */
export function readDependent(decoder, r, index, tables, nextStates, { states, side, across, rows, columns }) {
  const width = 2 * columns;
  for (let line = 0, i = 0; i < r.length; line++) {
    const blocks = Math.floor((line % (2 * rows)) / (2 * side)) * across;
    for (let column = 0; column < width; column++, i++) {
      if (index[i] < tables.skip) continue;
      const block = blocks + Math.floor(column / (2 * side));
      if (states[block] & 1) index[i] += SECOND;
      r[i] = decoder.get(index[i], tables);
      states[block] = nextStates[2 * states[block] + (r[i] & 1)];
    }
  }
}

/** Choose a stage's residuals, block by block, so that their bits and errors cost least together.
 *
 * exact: the real ones, [planes, M, 2·rows, 2·columns]; their places in r and index, of all planes, are `begins[plane]`
 * and those after. costs: {bits, offsets, errorBits, nextStates}. The paths go on to where the blocks end.
 */
export function search(exact, begins, { r, index }, costs, skip, paths) {
  const area = 4 * paths.rows * paths.columns;
  const size = exact.length / begins.length;
  const path = newPath((exact.length / area) * Math.min(area, (2 * paths.side) ** 2), costs.nextStates);
  for (let block = 0; block < paths.states.length; block++) {
    const places = placesIn(block, paths);
    path.begin(paths.states[block]);
    for (let at = 0; at < exact.length; at += area) {
      for (const within of places) {
        const from = at + within;
        const place = begins[Math.floor(from / size)] + (from % size);
        if (index[place] >= skip) path.add(exact[from], index[place], place, costs);
      }
    }
    paths.states[block] = path.end(r, index);
  }
}

/** Where a block's elements are in a channel, in raster order. */
function placesIn(block, { side, across, rows, columns }) {
  const [top, left] = [2 * side * Math.floor(block / across), 2 * side * (block % across)];
  const [bottom, right] = [Math.min(top + 2 * side, 2 * rows), Math.min(left + 2 * side, 2 * columns)];
  const found = [];
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) found.push(row * 2 * columns + column);
  }
  return found;
}

/** The cheapest ways through the states (Viterbi), of at most `most` residuals. */
function newPath(most, nextStates) {
  const states = nextStates.length / 2;
  const places = new Int32Array(most);
  const signs = new Int8Array(most);
  const levels = new Int16Array(4 * most); // by quantiser and parity
  const reachedBy = new Uint16Array(states * most); // a step: two times the state before, and the parity there
  const option = new Float64Array(4); // what the levels cost
  let [costs, next] = [new Float64Array(states), new Float64Array(states)];
  let count = 0;
  return {
    begin(state) {
      costs.fill(Infinity);
      costs[state] = 0;
      count = 0;
    },
    add(exact, table, place, model) {
      places[count] = place;
      signs[count] = exact < 0 ? -1 : 1;
      const own = levels.subarray(4 * count, 4 * count + 4);
      setOptions(own, option, Math.min(Math.abs(exact), LARGEST), table, model);
      next.fill(Infinity);
      for (let step = 0; step < 2 * states; step++) {
        const to = nextStates[step];
        const cost = costs[step >> 1] + option[step & 3];
        if (cost < next[to]) (next[to] = cost), (reachedBy[states * count + to] = step);
      }
      [costs, next] = [next, costs];
      count++;
    },
    end(r, index) {
      const last = costs.indexOf(Math.min(...costs));
      for (let state = last, i = count - 1; i >= 0; i--) {
        const step = reachedBy[states * i + state];
        r[places[i]] = signs[i] * levels[4 * i + (step & 3)];
        state = step >> 1;
        if (state & 1) index[places[i]] += SECOND;
      }
      return last;
    },
  };
}

/** What a residual's magnitude may become, by quantiser and parity, and what that costs. */
function setOptions(levels, option, magnitude, table, { bits, reach, offsets, errorBits }) {
  for (let quantiser = 0; quantiser < 2; quantiser++) {
    const row = table + SECOND * quantiser;
    const offset = offsets[row] / 256;
    const allow = (level) => {
      const error = magnitude - (level ? level - offset : 0);
      const cost = errorBits * error ** 2 + bits[row * reach + Math.min(level, reach - 1)];
      const at = 2 * quantiser + (level & 1);
      if (cost < option[at]) (option[at] = cost), (levels[at] = level);
    };
    option.fill(Infinity, 2 * quantiser, 2 * quantiser + 2);
    const lower = Math.floor(magnitude + Math.max(offset, 0));
    allow(lower);
    allow(lower + 1);
    if (lower === 1 || lower === 2) allow(0); // it is much cheaper than 2
  }
}
