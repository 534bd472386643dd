// Dependent quantisation (docs/format.md): what was coded before in a cell says which quantiser a residual has.

export const SECOND = 64; // how far the second quantiser's tables lie behind
const LARGEST = 32766; // of a residual that is chosen

/** Read a plane's residuals [M, 2·rows, 2·columns], and add SECOND to the index of each that is of the second quantiser.
 *
 * states: of the tile's cells, [rows, columns]. nextStates: after an even and after an odd value, [states, 2].
 */
export function readDependent(decoder, r, index, tables, nextStates, states, { rows, columns }) {
  const width = 2 * columns;
  for (let line = 0, i = 0; i < r.length; line++) {
    const cells = ((line % (2 * rows)) >> 1) * columns;
    for (let column = 0; column < width; column++, i++) {
      if (index[i] < tables.skip) continue;
      const cell = cells + (column >> 1);
      if (states[cell] & 1) index[i] += SECOND;
      r[i] = decoder.get(index[i], tables);
      states[cell] = nextStates[2 * states[cell] + (r[i] & 1)];
    }
  }
}

/** Choose a stage's residuals, cell by cell, so that their bits and errors cost least together.
 *
 * exact: the real ones, [planes, M, 2·rows, 2·columns]; their places in r and index, of all planes, are `begins[plane]`
 * and those after. costs: {bits, offsets, errorBits, nextStates}. `states` go on to where the cells end.
 */
export function search(exact, begins, { r, index }, costs, skip, states, { rows, columns }) {
  const area = 4 * rows * columns;
  const size = exact.length / begins.length;
  const path = newPath(4 * (exact.length / area), costs.nextStates);
  for (let cell = 0; cell < states.length; cell++) {
    const first = 4 * Math.floor(cell / columns) * columns + 2 * (cell % columns);
    path.begin(states[cell]);
    for (let at = first; at < exact.length; at += area) {
      for (const within of [0, 1, 2 * columns, 2 * columns + 1]) {
        const from = at + within;
        const place = begins[Math.floor(from / size)] + (from % size);
        if (index[place] >= skip) path.add(exact[from], index[place], place, costs);
      }
    }
    states[cell] = path.end(r, index);
  }
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
