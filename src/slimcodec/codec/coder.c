/* The loops of the entropy coder, and one of codec/rows: codec/entropy says what a stream is, codec/contexts what banks
   are, and codec/native how these functions are called. C99 of unsigned integers, without a header of Python's and without a library.

   Who calls has checked the tables (build_tables), every table's number, and that all arrays are as long as is said
   here. Whatever the words are, nothing else is read or written. */

#include <stdint.h>

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* Of loops over floats, one after the other, a version for eight at a time as well. Which one runs is decided when the
   library is loaded. Both give the same numbers. Clang cannot export such functions. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

#define SLOT_BITS 16
#define SLOT_MASK 0xFFFFu
#define BUCKET_BITS 8 /* a table's look-up has 2^8 entries, one for each run of 2^8 slots */
#define INITIAL ((uint64_t)1 << 31)

/* See entropy.Tables. */
typedef struct {
    const uint32_t *cumulative;
    const int64_t *start;
    const int32_t *minimum;
    const uint16_t *lookup;
    int64_t skip;
    int escape;
} Tables;

#define TABLES_ARGUMENTS                                                                                               \
    const uint32_t *cumulative, const int64_t *start, const int32_t *minimum, const uint16_t *lookup, int64_t skip,    \
        int escape
#define TABLES {cumulative, start, minimum, lookup, skip, escape}

/* What decoding goes on from. */
typedef struct {
    uint64_t x, other;     /* the lane of the next symbol, and the other */
    const uint32_t *words; /* [count] */
    int64_t count, position;
} Stream;

static inline uint32_t table_of(const void *index, int64_t i, int bytes) {
    return bytes == 1 ? ((const uint8_t *)index)[i] : ((const uint32_t *)index)[i];
}

/* --------------------------------------------------------------------------------------------------- encoding */

static inline int64_t look_up(const int16_t *values, int64_t count, const void *index, int bytes, const Tables tables,
                              uint32_t *intervals, int64_t *written) {
    uint32_t *next = intervals;
    int64_t i;
    for (i = 0; i < count; i++) {
        uint32_t table = table_of(index, i, bytes);
        int64_t value = values[i];
        if (table < tables.skip) {
            if (value != 0) break;
            continue;
        }
        int64_t first = tables.start[table], last = tables.start[table + 1] - 2;
        int64_t symbol = first + value - tables.minimum[table];
        int escaped = symbol < first || symbol > last - tables.escape;
        if (escaped) {
            if (!tables.escape) break;
            symbol = last;
        }
        uint32_t slot = tables.cumulative[symbol];
        *next++ = slot | (tables.cumulative[symbol + 1] - slot - 1) << SLOT_BITS;
        if (escaped) *next++ = (uint16_t)value;
    }
    *written = next - intervals;
    return i;
}

/* Fill `intervals`, room for `count`, or twice as many with an escape. How many values were found is returned, all
   unless one has no symbol; how many intervals were made is `written`. */
EXPORTED int64_t slimcodec_look_up(const int16_t *values, int64_t count, const void *index, int bytes, TABLES_ARGUMENTS,
                                   uint32_t *intervals, int64_t *written) {
    const Tables tables = TABLES;
    return bytes == 1 ? look_up(values, count, index, 1, tables, intervals, written)
                      : look_up(values, count, index, 4, tables, intervals, written);
}

/* Encode from the last interval to the first, writing words downwards from `position`, of which there are at least
   `count`; the new position is returned. `states`: the lane of the last, then the other; on return the lane of the one
   before the first, then the other. */
EXPORTED int64_t slimcodec_encode(const uint32_t *intervals, int64_t count, uint64_t *states, uint32_t *words,
                                  int64_t position) {
    uint64_t x = states[0], other = states[1];
    for (int64_t i = count; i-- > 0;) {
        uint64_t start = intervals[i] & SLOT_MASK, frequency = (uint64_t)(intervals[i] >> SLOT_BITS) + 1;
        if (x >= frequency << (63 - SLOT_BITS)) {
            words[--position] = (uint32_t)x;
            x >>= 32;
        }
        uint64_t coded = (x / frequency << SLOT_BITS) + x % frequency + start;
        x = other;
        other = coded;
    }
    states[0] = x;
    states[1] = other;
    return position;
}

/* --------------------------------------------------------------------------------------------------- decoding */

/* The place in `cumulative` of the symbol that owns a slot of a table. */
static inline int64_t owner(const Tables tables, uint32_t table, uint32_t slot) {
    int64_t bucket = (int64_t)table << BUCKET_BITS | slot >> (SLOT_BITS - BUCKET_BITS);
    int64_t symbol = tables.start[table] + tables.lookup[bucket];
    while (tables.cumulative[symbol + 1] <= slot) symbol++; /* a table's last is 65536 */
    return symbol;
}

/* Take one symbol out of the state, bring it back above 2^31 with one word, and go on to the other lane. Past the end
   a word is 0, and the position is beyond it. */
static inline void pull(Stream *stream, uint64_t offset, uint64_t frequency) {
    uint64_t x = frequency * (stream->x >> SLOT_BITS) + offset;
    if (x < INITIAL) {
        uint64_t word = stream->position < stream->count ? stream->words[stream->position] : 0;
        x = x << 32 | word;
        stream->position++;
    }
    stream->x = stream->other;
    stream->other = x;
}

static inline int64_t next_symbol(Stream *stream, const Tables tables, uint32_t table) {
    uint32_t slot = stream->x & SLOT_MASK;
    int64_t symbol = owner(tables, table, slot);
    uint32_t first = tables.cumulative[symbol];
    pull(stream, slot - first, tables.cumulative[symbol + 1] - first);
    return symbol;
}

/* A symbol's value, also of an escaped one. */
static inline int16_t next_value(Stream *stream, const Tables tables, uint32_t table) {
    int64_t symbol = next_symbol(stream, tables, table);
    if (tables.escape && symbol == tables.start[table + 1] - 2) {
        int16_t value = (int16_t)(stream->x & SLOT_MASK);
        pull(stream, 0, 1);
        return value;
    }
    return (int16_t)(tables.minimum[table] + symbol - tables.start[table]);
}

static inline int exhausted(const Stream *stream) { return stream->position > stream->count; }

static inline int64_t left(const Stream *stream, uint64_t *states) {
    states[0] = stream->x;
    states[1] = stream->other;
    return stream->position;
}

static inline int64_t decode(Stream stream, uint64_t *states, const void *index, int bytes, int64_t symbol_count,
                             const Tables tables, int16_t *symbols) {
    for (int64_t i = 0; i < symbol_count; i++) {
        uint32_t table = table_of(index, i, bytes);
        if (table < tables.skip) continue;
        if (exhausted(&stream)) break;
        symbols[i] = next_value(&stream, tables, table);
    }
    return left(&stream, states);
}

/* Decode one symbol for each `index` into `symbols`, zeros before; the new position is returned. It is beyond the last
   word if one was missing, and then nothing more is decoded: the symbol that came before the word is still right.
   `states`: the lane of the next symbol, then the other, before and after. */
EXPORTED int64_t slimcodec_decode(uint64_t *states, const uint32_t *words, int64_t count, int64_t position,
                                  const void *index, int bytes, int64_t symbol_count, TABLES_ARGUMENTS,
                                  int16_t *symbols) {
    const Tables tables = TABLES;
    Stream stream = {states[0], states[1], words, count, position};
    return bytes == 1 ? decode(stream, states, index, 1, symbol_count, tables, symbols)
                      : decode(stream, states, index, 4, symbol_count, tables, symbols);
}

/* ------------------------------------------------------------------------------------------------------ banks */

static inline int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }

static inline int64_t edges_below(int64_t value, const int32_t *edges, int64_t count) {
    int64_t below = 0;
    for (int64_t i = 0; i < count; i++) below += value > edges[i];
    return below;
}

/* As slimcodec_decode, of one vector [channels] after the other: into `vectors` [rows, columns, channels], zeros
   before. Of a contexts.Rule: weights [channels], sum_edges [channels, sum_count], activity_edges [channels,
   activity_count], banks [channels, sum_count + 1, activity_count + 1], all of which are numbers of tables, and OWN. */
EXPORTED int64_t slimcodec_decode_banks(uint64_t *states, const uint32_t *words, int64_t count, int64_t position,
                                        const int32_t *weights, const int32_t *sum_edges, int64_t sum_count,
                                        const int32_t *activity_edges, int64_t activity_count, const uint8_t *banks,
                                        int64_t own, TABLES_ARGUMENTS, int64_t rows, int64_t columns, int64_t channels,
                                        int16_t *vectors) {
    const Tables tables = TABLES;
    Stream stream = {states[0], states[1], words, count, position};
    for (int64_t at = 0; at < rows * columns; at++) {
        int16_t *z = vectors + at * channels;
        /* Beyond an edge left and above stand for each other, and at the first position its own zeros for both. */
        const int16_t *before = at % columns ? z - channels : at ? z - columns * channels : z;
        const int16_t *above = at >= columns ? z - columns * channels : before;
        int64_t activity = 0;
        for (int64_t n = 0; n < channels; n++) activity += weights[n] * (magnitude(before[n]) + magnitude(above[n]));
        for (int64_t n = 0; n < channels; n++) {
            if (exhausted(&stream)) return left(&stream, states);
            int64_t near = weights[n] * (magnitude(before[n]) + magnitude(above[n]));
            int64_t sum = edges_below(before[n] + above[n], sum_edges + n * sum_count, sum_count);
            int64_t busy = edges_below(activity + own * near, activity_edges + n * activity_count, activity_count);
            uint32_t bank = banks[(n * (sum_count + 1) + sum) * (activity_count + 1) + busy];
            int64_t symbol = next_symbol(&stream, tables, bank);
            z[n] = (int16_t)(tables.minimum[bank] + symbol - tables.start[bank]);
            activity += 2 * (int64_t)weights[n] * magnitude(z[n]) - near;
        }
    }
    return left(&stream, states);
}

/* ------------------------------------------------------------------------------------ dependent quantisation */

/* See codec/dependent. */
#define MOST_STATES 1024
#define MOST_SIDE 4 /* of a block, in cells */
#define REACH 32 /* as in codec/rounding */
#define COST_UNIT 32.0f /* a bit: costs of paths are int16, so that many are looked at together */
#define MOST_COST 1536  /* of a residual more than its cheapest option: after ten, which are less than IMPOSSIBLE, any state is possible */
#define IMPOSSIBLE 16000
#define RENEWED 8000 /* from here on what all paths have in common is taken off */

static inline int quantiser_of(int state) { return state & 1; }

/* A block of cells, of planes [channels, 2 rows, 2 columns] whose cells are 2 x 2 elements: through its elements, channel
   by channel and each in raster order, a path leads. */
typedef struct {
    int64_t area;                             /* elements of a channel */
    int64_t count;                            /* of those, this block's */
    int64_t places[4 * MOST_SIDE * MOST_SIDE]; /* in the first channel */
} Block;

static inline Block block_at(int64_t rows, int64_t columns, int64_t side, int64_t row, int64_t column) {
    int64_t end = (row + 1) * side < rows ? (row + 1) * side : rows;
    int64_t last = (column + 1) * side < columns ? (column + 1) * side : columns;
    Block block = {4 * rows * columns, 0, {0}};
    for (int64_t y = 2 * row * side; y < 2 * end; y++)
        for (int64_t x = 2 * column * side; x < 2 * last; x++) block.places[block.count++] = y * 2 * columns + x;
    return block;
}

/* What a residual's magnitude may become, by quantiser and parity. */
typedef struct {
    float cost[2][2];
    int16_t level[2][2];
} Options;

static inline float cost_of(float magnitude, int64_t level, float offset, const float *bits, float error_bits) {
    float error = magnitude - (level ? (float)level - offset : 0);
    return error_bits * error * error + bits[level < REACH ? level : REACH - 1];
}

static inline Options options_of(float magnitude, const float *const bits[2], const float offset[2], float error_bits) {
    Options found;
    for (int quantiser = 0; quantiser < 2; quantiser++) {
        int64_t lower = (int64_t)(magnitude + (offset[quantiser] > 0 ? offset[quantiser] : 0));
        for (int64_t level = lower; level <= lower + 1; level++) {
            found.level[quantiser][level & 1] = (int16_t)level;
            found.cost[quantiser][level & 1] = cost_of(magnitude, level, offset[quantiser], bits[quantiser], error_bits);
        }
        if (found.level[quantiser][0] == 2) {
            float zero = cost_of(magnitude, 0, 0, bits[quantiser], error_bits);
            if (zero < found.cost[quantiser][0]) {
                found.cost[quantiser][0] = zero;
                found.level[quantiser][0] = 0;
            }
        }
    }
    return found;
}

/* What leads to which state, as the shift register of a convolutional code has it: from 2a an even integer to a and an odd
   one to a ^ of_parities; from 2a + 1 to those ^ of_quantisers, which are all in the upper half. */
typedef struct {
    int64_t states, of_parities, of_quantisers;
} Code;

enum { LANES = 8 }; /* states that are moved together */

/* to[i] = from[i ^ far ^ near], where `near` is below LANES and `far` a multiple of it. */
static inline void exchange_within(const int16_t *restrict from, int16_t *restrict to, int64_t count, int64_t far, int near) {
    for (int64_t i = 0; i < count; i += LANES) {
        const int16_t *source = from + (i ^ far);
        for (int k = 0; k < LANES; k++) to[i + k] = source[k ^ near];
    }
}

/* to[i] = from[i ^ mask] for as many as a multiple of LANES, or fewer than that: then there is room for all. A compiler
   makes vectors of constant cases. */
static inline void exchange(const int16_t *from, int16_t *to, int64_t count, int64_t mask) {
    int64_t far = mask & ~(int64_t)(LANES - 1);
    switch (mask & (LANES - 1)) {
    case 0: exchange_within(from, to, count, far, 0); break;
    case 1: exchange_within(from, to, count, far, 1); break;
    case 2: exchange_within(from, to, count, far, 2); break;
    case 3: exchange_within(from, to, count, far, 3); break;
    case 4: exchange_within(from, to, count, far, 4); break;
    case 5: exchange_within(from, to, count, far, 5); break;
    case 6: exchange_within(from, to, count, far, 6); break;
    default: exchange_within(from, to, count, far, 7);
    }
}

/* The cheaper of two ways into each state of a half, and whether it is the second, that of an odd integer. */
static inline void cheaper(const int16_t *restrict even, const int16_t *restrict odd, const int16_t cost[2], int64_t count,
                           int16_t *restrict costs, uint8_t *restrict parities) {
    for (int64_t i = 0; i < count; i++) {
        int16_t first = (int16_t)(even[i] + cost[0]), second = (int16_t)(odd[i] + cost[1]);
        parities[i] = second < first;
        costs[i] = second < first ? second : first;
    }
}

/* What the options cost more than the cheapest. */
static inline void set_costs(const Options options, int16_t cost[2][2]) {
    float least = options.cost[0][0];
    for (int i = 1; i < 4; i++) least = options.cost[i / 2][i % 2] < least ? options.cost[i / 2][i % 2] : least;
    for (int i = 0; i < 4; i++) {
        float more = (options.cost[i / 2][i % 2] - least) * COST_UNIT + 0.5f;
        cost[i / 2][i % 2] = (int16_t)(more < MOST_COST ? more : MOST_COST);
    }
}

/* One residual on: what it costs to be in each state, and by which parity it was reached. */
static inline void advance(int16_t *costs, const Code code, const Options options, uint8_t *parities) {
    int16_t from[2][MOST_STATES / 2], even[MOST_STATES / 2], odd[MOST_STATES / 2], cost[2][2];
    int64_t half = code.states / 2;
    set_costs(options, cost);
    if (costs[0] > RENEWED) {
        int16_t common = costs[0];
        for (int64_t i = 0; i < code.states; i++) costs[i] = (int16_t)(costs[i] - common);
    }
    for (int64_t i = 0; i < half; i++) {
        from[0][i] = costs[2 * i];
        from[1][i] = costs[2 * i + 1];
    }
    exchange(from[0], odd, half, code.of_parities);
    cheaper(from[0], odd, cost[0], half, costs, parities);
    exchange(from[1], even, half, code.of_quantisers - half);
    exchange(even, odd, half, code.of_parities);
    cheaper(even, odd, cost[1], half, costs + half, parities + half);
}

/* The state before, of which `parity` led to this one. */
static inline int64_t before(const Code code, int64_t state, int parity) {
    int64_t upper = state >= code.states / 2;
    return 2 * (state ^ (upper ? code.of_quantisers : 0) ^ (parity ? code.of_parities : 0)) + upper;
}

/* For residuals `exact` of planes [channels, 2 rows, 2 columns] the integers `r` and the tables that cost least
   together, block by block of side x side cells: error_bits * error^2, and bits. `table` holds scale indices before; where
   they are below `skip`, they stay, and so does r. `bits` [2 count, REACH] and `offsets` [2 count] are of both quantisers'
   tables. `blocks`, rows and then columns of them: in which states they begin, and on return end. Room: `levels`
   [16 * side^2 * channels], `parities` [4 * side^2 * channels, states]. Returns 1 for too large a side. */
EXPORTED WIDE int64_t slimcodec_search(const float *exact, uint8_t *table, int64_t channels, int64_t rows, int64_t columns,
                                  int64_t side, const float *bits, const float *offsets, int64_t count, double error_bits,
                                  int64_t skip, int64_t states, int64_t of_parities, int64_t of_quantisers,
                                  uint16_t *blocks, int16_t *levels, uint8_t *parities, int16_t *r) {
    const Code code = {states, of_parities, of_quantisers};
    if (side < 1 || side > MOST_SIDE) return 1;
    int64_t across = (columns + side - 1) / side, down = (rows + side - 1) / side;
    for (int64_t at = 0; at < down * across; at++) {
        const Block block = block_at(rows, columns, side, at / across, at % across);
        int16_t costs[MOST_STATES];
        for (int64_t state = 0; state < states; state++) costs[state] = state == blocks[at] ? 0 : IMPOSSIBLE;
        int64_t coded = 0;
        for (int64_t channel = 0; channel < channels; channel++) {
            for (int64_t i = 0; i < block.count; i++) {
                int64_t here = channel * block.area + block.places[i], first = table[here], second = first + count;
                if (first < skip) continue;
                const float *const its_bits[2] = {bits + first * REACH, bits + second * REACH};
                const float its_offsets[2] = {offsets[first], offsets[second]};
                float magnitude = exact[here] < 0 ? -exact[here] : exact[here];
                const Options options = options_of(magnitude, its_bits, its_offsets, (float)error_bits);
                for (int option = 0; option < 4; option++)
                    levels[4 * coded + option] = options.level[option / 2][option % 2];
                advance(costs, code, options, parities + states * coded++);
            }
        }
        int64_t state = 0;
        for (int64_t other = 1; other < states; other++) state = costs[other] < costs[state] ? other : state;
        blocks[at] = (uint16_t)state;
        for (int64_t channel = channels; channel-- > 0;) {
            for (int64_t i = block.count; i-- > 0;) {
                int64_t here = channel * block.area + block.places[i];
                if (table[here] < skip) continue;
                int parity = parities[states * --coded + state];
                state = before(code, state, parity);
                int quantiser = quantiser_of((int)state);
                int16_t level = levels[4 * coded + 2 * quantiser + parity];
                r[here] = exact[here] < 0 ? -level : level;
                table[here] += (uint8_t)(quantiser * count);
            }
        }
    }
    return 0;
}

/* As slimcodec_decode, of planes [channels, 2 rows, 2 columns]: `table` holds scale indices before, and what was read
   with afterwards. `next` [states, 2]: the state that an even and an odd integer lead to. `blocks`, rows and then columns
   of side x side cells: their states. `count`: how far the second quantiser's tables are behind. */
EXPORTED int64_t slimcodec_decode_dependent(uint64_t *states, const uint32_t *words, int64_t word_count,
                                            int64_t position, uint8_t *table, int64_t channels, int64_t rows,
                                            int64_t columns, int64_t side, TABLES_ARGUMENTS, int64_t count,
                                            const uint16_t *next, uint16_t *blocks, int16_t *symbols) {
    const Tables tables = TABLES;
    Stream stream = {states[0], states[1], words, word_count, position};
    for (int64_t row = 0; row < 2 * rows * channels; row++) {
        uint16_t *state = blocks + row % (2 * rows) / (2 * side) * ((columns + side - 1) / side);
        for (int64_t column = 0; column < 2 * columns; state++) {
            int64_t end = column + 2 * side < 2 * columns ? column + 2 * side : 2 * columns;
            for (; column < end; column++) {
                int64_t i = row * 2 * columns + column;
                if (table[i] < tables.skip) continue;
                if (exhausted(&stream)) return left(&stream, states);
                table[i] += (uint8_t)(quantiser_of(*state) * count);
                symbols[i] = next_value(&stream, tables, table[i]);
                *state = next[2 * *state + (symbols[i] & 1)];
            }
        }
    }
    return left(&stream, states);
}

/* --------------------------------------------------------------------------------------------------- specialists */

/* A depthwise convolution of 3x3 with a ReLU after it, x [rows, channels] → found [count, channels]: `around`
   [count, 9] says which rows are seen, a number that is none stands for `nothing`, zeros [channels]. weight
   [9, channels], bias [channels]. One pass for all nine: sums stay in registers. */
EXPORTED WIDE int64_t slimcodec_depthwise(const float *x, int64_t rows, int64_t channels, const int32_t *around,
                                     int64_t count, const float *w, const float *bias, const float *nothing,
                                     float *restrict found) {
    const int64_t n = channels;
    for (int64_t i = 0; i < count; i++, around += 9, found += n) {
        const float *seen[9];
        for (int tap = 0; tap < 9; tap++) {
            int64_t row = around[tap];
            seen[tap] = row < 0 || row >= rows ? nothing : x + row * n;
        }
        const float *a = seen[0], *b = seen[1], *c = seen[2], *d = seen[3], *e = seen[4], *f = seen[5], *g = seen[6],
                    *h = seen[7], *k = seen[8];
        for (int64_t j = 0; j < n; j++) {
            float above = w[j] * a[j] + w[n + j] * b[j] + w[2 * n + j] * c[j];
            float beside = w[3 * n + j] * d[j] + w[4 * n + j] * e[j] + w[5 * n + j] * f[j];
            float below = w[6 * n + j] * g[j] + w[7 * n + j] * h[j] + w[8 * n + j] * k[j];
            float sum = bias[j] + above + beside + below;
            found[j] = sum > 0 ? sum : 0;
        }
    }
    return 0;
}

/* Adds bias [channels] to found [rows, channels], and `added` [rows, channels] if there is any, and makes what is below
   0 that if it is asked to: one pass for what NumPy takes three for. */
EXPORTED WIDE int64_t slimcodec_finish(float *restrict found, int64_t rows, int64_t channels, const float *bias,
                                  const float *added, int64_t adds, int64_t relu) {
    for (int64_t row = 0; row < rows; row++, found += channels, added += channels) {
        for (int64_t j = 0; j < channels; j++) {
            float sum = found[j] + bias[j];
            if (adds)
                sum += added[j];
            found[j] = sum > 0 || !relu ? sum : 0;
        }
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------------- corrections */

/* The integers q [count] that make q·curvature·q - 2·slope·q + Σ bits[magnitude] small, curvature [count, count], bits
   [count, largest + 1]: from 0 on, one after the other is chosen anew, at most so many times. */
EXPORTED WIDE int64_t slimcodec_integers(const double *curvature, const double *slope, const double *bits, int64_t count,
                                    int64_t largest, int64_t sweeps, int64_t *q) {
    for (int64_t k = 0; k < count; k++)
        q[k] = 0;
    for (int changed = 1; sweeps > 0 && changed; sweeps--) {
        changed = 0;
        for (int64_t k = 0; k < count; k++) {
            double rest = slope[k], own = curvature[k * count + k], least = 0;
            for (int64_t l = 0; l < count; l++)
                rest -= l == k ? 0 : curvature[k * count + l] * (double)q[l];
            int64_t best = -largest - 1;
            for (int64_t value = -largest; value <= largest; value++) {
                double m = (double)value, cost = (own * m - 2 * rest) * m;
                cost += bits[k * (largest + 1) + (value < 0 ? -value : value)];
                if (best < -largest || cost < least) {
                    best = value;
                    least = cost;
                }
            }
            changed |= best != q[k];
            q[k] = best;
        }
    }
    return 0;
}

/* ---------------------------------------------------------------------------------------------------------- maps */

enum { MAP_MOST_KINDS = 256, MAP_STEP = 2, MAP_MOST = 1 << 15, MAP_LEAST_RANGE = 1 << 24 };

typedef struct {
    uint64_t low; /* of what is written, with its carry in bit 32 */
    uint32_t range, value;
    uint8_t *bytes;
    int64_t size, at;
    int writes;
} Map;

static void map_shift(Map *map) {
    if (map->writes) {
        if (map->low >> 32) {
            int64_t place = map->at - 1;
            while (map->bytes[place] == 255)
                map->bytes[place--] = 0;
            map->bytes[place]++;
        }
        if (map->at < map->size)
            map->bytes[map->at++] = (uint8_t)(map->low >> 24);
        map->low = map->low << 8 & UINT32_MAX;
    } else {
        map->value = map->value << 8 | (map->at < map->size ? map->bytes[map->at] : 0);
        map->at++;
    }
    map->range <<= 8;
}

/* The answer to a question, which a reader is not given; answers come as often as their counts say. */
static int map_code(Map *map, const int32_t *counts, int kinds, int answer) {
    uint32_t sum = 0, before = 0;
    for (int k = 0; k < kinds; k++)
        sum += counts[k];
    map->range /= sum;
    if (map->writes) {
        for (int k = 0; k < answer; k++)
            before += counts[k];
        map->low += (uint64_t)map->range * before;
    } else {
        uint32_t place = map->value / map->range;
        place = place < sum ? place : sum - 1;
        for (answer = 0; before + counts[answer] <= place; answer++)
            before += counts[answer];
        map->value -= map->range * before;
    }
    map->range *= counts[answer];
    while (map->range < MAP_LEAST_RANGE)
        map_shift(map);
    return answer;
}

static void map_count(int32_t *counts, int kinds, int answer) {
    int32_t sum = 0;
    counts[answer] += MAP_STEP;
    for (int k = 0; k < kinds; k++)
        sum += counts[k];
    for (int k = 0; sum >= MAP_MOST && k < kinds; k++)
        counts[k] = (counts[k] + 1) / 2;
}

static int map_asked(Map *map, int32_t *counts, int answer) {
    answer = map_code(map, counts, 2, answer);
    map_count(counts, 2, answer);
    return answer;
}

/* codec/maps: who [rows, columns], 2 to 256 kinds of it. Writes up to `size` bytes of it, or reads it from them.
   Returns how many were written, with zeros at the end. */
EXPORTED int64_t slimcodec_map(uint8_t *who, int64_t rows, int64_t columns, int64_t kinds, uint8_t *bytes, int64_t size,
                               int64_t writes) {
    Map map = {0, UINT32_MAX, 0, bytes, size, 0, writes != 0};
    int32_t as_left[2][2] = {{1, 1}, {1, 1}}, as_above[2] = {1, 1}, often[MAP_MOST_KINDS], others[MAP_MOST_KINDS];
    if (kinds < 2 || kinds > MAP_MOST_KINDS)
        return -1;
    for (int k = 0; k < kinds; k++)
        often[k] = 1;
    for (; !writes && map.at < 4; map.at++)
        map.value = map.value << 8 | (map.at < size ? bytes[map.at] : 0);
    for (int64_t cell = 0; cell < rows * columns; cell++) {
        int above = cell < columns ? (cell ? who[cell - 1] : 0) : who[cell - columns];
        int left = cell % columns ? who[cell - 1] : above, own = writes ? who[cell] : 0;
        if (map_asked(&map, as_left[left == above], own == left))
            own = left;
        else if (above != left && (kinds == 2 || map_asked(&map, as_above, own == above)))
            own = above;
        else {
            for (int k = 0; k < kinds; k++)
                others[k] = k == left || k == above ? 0 : often[k];
            own = map_code(&map, others, (int)kinds, own);
        }
        map_count(often, (int)kinds, own);
        who[cell] = (uint8_t)own;
    }
    if (!writes)
        return 0;
    uint64_t end = map.low + map.range;
    for (int bits = 32; bits >= 0; bits -= 8) { /* the shortest number that stands for what was written */
        uint64_t rounded = (map.low + ((uint64_t)1 << bits) - 1) >> bits << bits;
        if (rounded < end) {
            map.low = rounded;
            break;
        }
    }
    for (int i = 0; i < 4; i++)
        map_shift(&map);
    return map.at;
}

/* Adds to sums [size] each row of basis [count, size] times its coefficient, one row after the other: the same floats
   wherever it is compiled, as no product is rounded together with its sum. */
EXPORTED WIDE int64_t slimcodec_add_rows(float *restrict sums, const float *basis, const float *coefficients, int64_t count,
                                    int64_t size) {
    enum { AT_ONCE = 1024 }; /* which stay in the cache */
    for (int64_t begin = 0; begin < size; begin += AT_ONCE) {
        int64_t end = begin + AT_ONCE < size ? begin + AT_ONCE : size;
        for (int64_t k = 0; k < count; k++) {
            const float *row = basis + k * size, coefficient = coefficients[k];
            for (int64_t i = begin; coefficient != 0 && i < end; i++) {
                float product = coefficient * row[i];
                sums[i] += product;
            }
        }
    }
    return 0;
}

/* Floats in [0, 1], or beyond, to the nearest of 256 levels; halves to the even one, by the rounding of a float that is
   too large for fractions. */
EXPORTED WIDE int64_t slimcodec_levels(const float *restrict x, uint8_t *restrict found, int64_t count) {
    const float whole = 12582912.0f; /* 1.5 · 2^23 */
    for (int64_t i = 0; i < count; i++) {
        float level = x[i] * 255.0f;
        level = level > 0.0f ? level : 0.0f;
        level = level < 255.0f ? level : 255.0f;
        found[i] = (uint8_t)((level + whole) - whole);
    }
    return 0;
}

/* Residuals, nearer to zero by their table's offset. */
EXPORTED int64_t slimcodec_reconstruct(const float *restrict r, const uint8_t *restrict index, const float *offsets,
                                       float *restrict found, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        found[i] = r[i] > 0 ? r[i] - offsets[index[i]] : r[i] < 0 ? r[i] + offsets[index[i]] : 0;
    return 0;
}

/* A bilateral filter of pixels [count, 3]; codec/bilateral says how. First their luma. */
EXPORTED WIDE int64_t slimcodec_luma(const uint8_t *restrict pixels, uint8_t *restrict luma, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        luma[i] = (uint8_t)((pixels[3 * i] + 2 * pixels[3 * i + 1] + pixels[3 * i + 2] + 2) >> 2);
    return 0;
}

/* Then what the neighbours say, added to sums [rows, columns]: table [4, 511] by difference, from -255 on. A difference
   with the other sign says the opposite, so each pair of pixels is looked up once. Apart from that the loops are such that
   compilers make them wide. */
EXPORTED WIDE int64_t slimcodec_neighbours(const uint8_t *luma, int64_t rows, int64_t columns, const int16_t *table,
                                           int16_t *sums) {
    static const struct { int down, right, group; } pairs[10] = {
        {0, 1, 0}, {1, 0, 0}, {1, -1, 1}, {1, 1, 1}, {0, 2, 2}, {2, 0, 2}, {1, -2, 3}, {1, 2, 3}, {2, -1, 3}, {2, 1, 3},
    };
    enum { AT_ONCE = 1024 };
    int16_t found[AT_ONCE];
    for (int64_t row = 0; row < rows; row++) {
        for (int pair = 0; pair < 10; pair++) {
            int64_t down = pairs[pair].down, right = pairs[pair].right;
            if (row + down >= rows) continue;
            const int16_t *of_group = table + 511 * pairs[pair].group + 255;
            const uint8_t *here = luma + row * columns, *there = here + down * columns + right;
            int16_t *sum = sums + row * columns, *other = sum + down * columns + right;
            int64_t end = right > 0 ? columns - right : columns;
            for (int64_t begin = right < 0 ? -right : 0; begin < end; begin += AT_ONCE) {
                int64_t count = begin + AT_ONCE < end ? AT_ONCE : end - begin;
                for (int64_t i = 0; i < count; i++) found[i] = of_group[there[begin + i] - here[begin + i]];
                for (int64_t i = 0; i < count; i++) sum[begin + i] = (int16_t)(sum[begin + i] + found[i]);
                for (int64_t i = 0; i < count; i++) other[begin + i] = (int16_t)(other[begin + i] - found[i]);
            }
        }
    }
    return 0;
}

/* The same by tables [n, 4, 511], of which each cell of side x side pixels has its own, as who says. The luma begins at a
   row and a column of the picture. */
EXPORTED int64_t slimcodec_neighbours_by_cell(const uint8_t *luma, int64_t rows, int64_t columns, const int16_t *tables,
                                              const uint8_t *who, int64_t cells, int64_t side, int64_t top, int64_t left,
                                              int16_t *sums) {
    enum { MOST = 68 * 68 }; /* a cell of 64 x 64 pixels and its neighbours */
    uint8_t near[MOST];
    int16_t found[MOST];
    if ((side + 4) * (side + 4) > MOST) return -1;
    for (int64_t row = 0, end; row < rows; row = end) {
        int64_t cell_row = (top + row) / side;
        end = (cell_row + 1) * side - top < rows ? (cell_row + 1) * side - top : rows;
        for (int64_t column = 0, last; column < columns; column = last) {
            int64_t cell_column = (left + column) / side;
            last = (cell_column + 1) * side - left < columns ? (cell_column + 1) * side - left : columns;
            int64_t first_row = row > 2 ? row - 2 : 0, last_row = end + 2 < rows ? end + 2 : rows;
            int64_t first = column > 2 ? column - 2 : 0, wide = (last + 2 < columns ? last + 2 : columns) - first;
            for (int64_t r = first_row; r < last_row; r++) {
                const uint8_t *from = luma + r * columns + first;
                for (int64_t i = 0; i < wide; i++) near[(r - first_row) * wide + i] = from[i];
            }
            for (int i = 0; i < MOST; i++) found[i] = 0;
            const int16_t *table = tables + 4 * 511 * who[cell_row * cells + cell_column];
            slimcodec_neighbours(near, last_row - first_row, wide, table, found);
            for (int64_t r = row; r < end; r++) {
                const int16_t *from = found + (r - first_row) * wide + column - first;
                for (int64_t i = 0; i < last - column; i++) sums[r * columns + column + i] = from[i];
            }
        }
    }
    return 0;
}

/* And then the pixels are moved, by 1/64 levels. */
EXPORTED WIDE int64_t slimcodec_move(const uint8_t *restrict pixels, const int16_t *restrict sums,
                                     uint8_t *restrict found, int64_t count) {
    enum { AT_ONCE = 512 };
    int16_t by[3 * AT_ONCE];
    for (int64_t begin = 0; begin < count; begin += AT_ONCE) {
        int64_t here = begin + AT_ONCE < count ? AT_ONCE : count - begin;
        for (int64_t i = 0; i < here; i++)
            by[3 * i] = by[3 * i + 1] = by[3 * i + 2] = (int16_t)((sums[begin + i] + 32) >> 6);
        for (int64_t i = 0; i < 3 * here; i++) {
            int16_t level = (int16_t)(pixels[3 * begin + i] + by[i]);
            level = level < 0 ? 0 : level;
            found[3 * begin + i] = (uint8_t)(level > 255 ? 255 : level);
        }
    }
    return 0;
}
