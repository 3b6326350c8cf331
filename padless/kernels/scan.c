/* Recurrent cells over packed steps, float32: LSTM, GRU (reset after), SimpleRNN; forward and backward.

   Steps stand in packed order, sequence after sequence, so the step before a step is the row before it (the row after
   it, walking backwards). The sequences of a part are sorted, longest first; at each time those still alive are the
   first ones. Parts run side by side, each with its own sequences from their first step to their last; nobody waits.

   Gates stand side by side, as Keras has them. A tile is all gates of LANES units: its product leaves them in registers,
   where they are activated at once. Units are filled up to whole vectors with zeros, which every cell keeps 0. Weights
   come packed: tile after tile, and for each the rows of the product's inner axis.

   Inputs are multiplied for a few times at once, so that what they give to the gates is still near when it is met; where
   nobody wants the gates afterwards it has no other place. The way back writes the slopes where the gates stood, which
   spares as much memory as all gates need.

   What the caller passes is checked in scan.py, and laid out in scan_compiled.py. */

#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#ifndef SOURCE
#define SOURCE ""
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 6
#elif defined(__AVX__)
#define LANES 8
#define ROWS 3
#else
#define LANES 4
#define ROWS 3
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float mem __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* a vec anywhere in memory */
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int64_t i64;

INLINE vec load(const float *p) { return (vec)*(const mem *)p; }
INLINE void store(float *p, vec v) { *(mem *)p = (mem)v; }
#if LANES == 16
INLINE vec all(float x) { return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#elif LANES == 8
INLINE vec all(float x) { return (vec){x, x, x, x, x, x, x, x}; }
#else
INLINE vec all(float x) { return (vec){x, x, x, x}; }
#endif

INLINE vec pick(ivec where, vec a, vec b) { return (vec)((where & (ivec)a) | (~where & (ivec)b)); }

/* A division takes as long as twenty products: an estimate, made twice as exact, is good to the last bit but one. */
#if LANES == 16
INLINE vec reciprocal(vec x) { vec r = (vec)_mm512_rcp14_ps((__m512)x); return r + r * (1.0f - x * r); }
#elif LANES == 8
INLINE vec reciprocal(vec x) { vec r = (vec)_mm256_rcp_ps((__m256)x); return r + r * (1.0f - x * r); }
#else
INLINE vec reciprocal(vec x) { return 1.0f / x; }
#endif

/* 2 to the power of t, to the last bit or two; no less than 2^-126 or 0, no more than 2^126, and NaN stays. */
#if LANES == 16
INLINE vec power(vec t) {
    t = (vec)_mm512_min_ps((__m512)all(126.0f), (__m512)t);
    const vec part = (vec)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), whole = t - part;
#else
INLINE vec power(vec t) {
    t = pick(t < all(-126.0f), all(-126.0f), t); /* NaN compares false */
    t = pick(t > all(126.0f), all(126.0f), t);
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    const vec shifted = t + magic, part = t - (shifted - magic);
#endif
    vec p = all(1.5345813e-4f); /* of sixth degree, fitted to 2^part between -1/2 and 1/2 */
    p = p * part + all(1.3399931e-3f);
    p = p * part + all(9.6184891e-3f);
    p = p * part + all(5.5503286e-2f);
    p = p * part + all(2.4022646e-1f);
    p = p * part + all(6.9314718e-1f);
    p = p * part + all(1.0f);
#if LANES == 16
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * (vec)(((ivec)shifted << 23) + 0x3f800000);
#endif
}
INLINE vec sigmoid(vec x) { return reciprocal(1.0f + power(x * -1.44269504f)); }
INLINE vec hyperbolic(vec x) { return 2.0f * reciprocal(1.0f + power(x * -2.88539008f)) - 1.0f; }

typedef struct { vec v0, v1, v2, v3; } row;

/* Up to four vectors, `apart` numbers from one to the next. */
INLINE void load_row(const int V, row *r, const float *p, i64 apart) {
    r->v0 = load(p);
    if (V > 1) r->v1 = load(p + apart);
    if (V > 2) r->v2 = load(p + 2 * apart);
    if (V > 3) r->v3 = load(p + 3 * apart);
}
INLINE void store_row(const int V, const row *r, float *p, i64 apart) {
    store(p, r->v0);
    if (V > 1) store(p + apart, r->v1);
    if (V > 2) store(p + 2 * apart, r->v2);
    if (V > 3) store(p + 3 * apart, r->v3);
}
INLINE void add_row(const int V, row *r, vec x, const row *b) {
    r->v0 += x * b->v0;
    if (V > 1) r->v1 += x * b->v1;
    if (V > 2) r->v2 += x * b->v2;
    if (V > 3) r->v3 += x * b->v3;
}

/* to[m] = from[m] + a[m] (numbers k to K) times a panel (K, V vectors), for M rows; the vectors of `from` are `apart`. The
   sums stand in variables of their own, in a function of its own: so they stay in registers, which decides the speed.
   Without `from` they begin at 0. What is needed `soon` is called for on the way: large weights come from far. */

typedef void (*product)(
    i64 k, i64 K, const float *const *a, const float *panel, const float *soon, const float *const *from, i64 apart,
    float *const *to);

#define ROW_BEGIN(m) const float *a##m = a[m]; row r##m = {0}; if (from) load_row(V, &r##m, from[m], apart);
#define ROW_STEP(m) add_row(V, &r##m, all(a##m[k]), &b);
#define ROW_END(m) store_row(V, &r##m, to[m], LANES);
#define ROWS_1(act) act(0)
#define ROWS_2(act) ROWS_1(act) act(1)
#define ROWS_3(act) ROWS_2(act) act(2)
#define ROWS_4(act) ROWS_3(act) act(3)
#define ROWS_5(act) ROWS_4(act) act(4)
#define ROWS_6(act) ROWS_5(act) act(5)

#define PRODUCT(M, width) \
    static __attribute__((noinline)) void product_##M##_##width( \
            i64 k, i64 K, const float *const *a, const float *panel, const float *soon, const float *const *from, \
            i64 apart, float *const *to) { \
        const int V = width; \
        ROWS_##M(ROW_BEGIN) \
        for (panel += k * V * LANES; k < K; k++, panel += V * LANES, soon += LANES) { \
            row b = {0}; \
            __builtin_prefetch(soon, 0, 2); \
            load_row(V, &b, panel, LANES); \
            ROWS_##M(ROW_STEP) \
        } \
        ROWS_##M(ROW_END) \
    }
#define PRODUCTS(M) PRODUCT(M, 1) PRODUCT(M, 2) PRODUCT(M, 3) PRODUCT(M, 4)
#define NAMES(M) {product_##M##_1, product_##M##_2, product_##M##_3, product_##M##_4}
PRODUCTS(1) PRODUCTS(2) PRODUCTS(3)
#if ROWS == 6
PRODUCTS(4) PRODUCTS(5) PRODUCTS(6)
static const product PRODUCT_OF[ROWS][4] = {NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6)};
#else
static const product PRODUCT_OF[ROWS][4] = {NAMES(1), NAMES(2), NAMES(3)};
#endif

/* What a call works on. Gates and states are in packed order, (steps, width) and (steps, units); first and last states,
   and what is carried, are (batch, units). `before` holds for each step the state that it began with. */
typedef struct {
    i64 units, real, width, ahead, stride, keep, relu; /* `real` of the units are no filling; `ahead` columns before the gates */
    i64 features, near, own; /* numbers in a row of x; rows of z made at once, and whether a part has so many of its own */
    const i64 *cuts, *starts, *lengths, *rows; /* parts; sequences: first step, how many, row of the batch */
    const float *x, *input; /* inputs of all steps, and their weights, packed; without x their products stand in z */
    const float *packed, *bias, *h0, *c0; /* of the bias one number for each column of the gates */
    float *z, *before, *h, *c, *h_last, *c_last; /* forward; with `keep` z is left with the gates, else it is scratch */
    const float *upstream;
    float *sums, *dh, *dc; /* backward: sums (parts, width) of the slopes; dh, dc come with the gradients of the last states */
    i64 first, time, alive; /* what stands in a part's own rows of z: its sequences, `alive` of them, from this time on */
} job;

/* The step of sequence s at time t, and the state before it: the row before it, or the first state. */
INLINE i64 at(const job *w, i64 s, i64 t) { return w->starts[s] + t * w->stride; }
INLINE float *gates(const job *w, i64 s, i64 t) {
    return w->z + (w->own ? (t - w->time) * w->alive + s - w->first : at(w, s, t)) * w->width;
}
INLINE const float *previous(const job *w, const float *states, const float *first, i64 s, i64 t) {
    return t ? states + at(w, s, t - 1) * w->units : first + w->rows[s] * w->units;
}
INLINE int min(i64 a, i64 b) { return (int)(a < b ? a : b); }

/* A state's vector where it stands, and where the step after it will look for it. */
INLINE void put_state(const job *w, i64 s, i64 t, i64 j, vec h) {
    const i64 place = at(w, s, t) * w->units + j;
    store(w->h + place, h);
    if (w->keep && t + 1 < w->lengths[s]) store(w->before + place + w->stride * w->units, h);
}

/* Products of many rows, `to` = `from` + a times a panel (K, V vectors): as many of the panel's rows at a time as stay in
   the nearest cache while all rows of a meet them. */
enum { DEPTH = 8192 / (4 * LANES), MANY = 8 * ROWS };
INLINE void multiply(i64 n, i64 K, int V, const float *const *a, const float *panel, const float *const *from, i64 apart,
                     float *const *to) {
    const i64 pieces = (K + DEPTH - 1) / DEPTH, depth = (K + pieces - 1) / pieces;
    for (i64 k = 0; k < K; k += depth)
        for (i64 m = 0, M, tile = 0; m < n; m += M, tile++) {
            const i64 tiles = (n - m + ROWS - 1) / ROWS;
            M = (n - m + tiles - 1) / tiles; /* all that are left in tiles of nearly equal height */
            const float *soon = panel + ((k + depth) * V + tile * depth) * LANES; /* a V-th of the next piece */
            PRODUCT_OF[M - 1][V - 1](k, k + depth < K ? k + depth : K, a + m, panel, soon,
                                     k ? (const float *const *)to + m : from ? from + m : 0, k ? LANES : apart, to + m);
        }
}

/* How many of the next `left` sequences go together. */
INLINE i64 together(i64 left) {
    const i64 groups = (left + MANY - 1) / MANY;
    return (left + groups - 1) / groups;
}

/* What a cell does in a tile, a sequence at time t and V vectors of units from j on: say where the product begins and where
   it goes (`to` is scratch unless it is set), and make gates and states of it. */
typedef struct { const float *from; float *to; } place;
typedef place (*beginning)(const job *w, i64 t, i64 s, i64 j, float *scratch);
typedef void (*ending)(const job *w, i64 t, i64 s, i64 j, int V, const float *sums);

/* The products of the inputs with their weights, put where the gates will stand, for some times from `t` on; returns the
   time after them. What is made at once stays in the second cache until it is met. */
INLINE i64 meet_inputs(const job *w, i64 from, i64 alive, i64 t) {
    const i64 U = w->units, K = w->features, columns = w->keep ? w->width - w->ahead : w->width;
    const i64 steps = w->near / (alive - from) ? w->near / (alive - from) : 1;
    const i64 end = t + steps < w->lengths[from] ? t + steps : w->lengths[from];
    for (i64 j = 0; j < columns; j += 4 * LANES) {
        const float *a[MANY];
        float *to[MANY];
        for (i64 now = t, last = alive, n = 0; now < end; now++) {
            while (w->lengths[last - 1] <= now) last--;
            for (i64 s = from; s < last; s++) {
                a[n] = w->x + at(w, s, now) * K;
                to[n++] = gates(w, s, now) + w->ahead + j;
                if (n < MANY && (now < end - 1 || s < last - 1)) continue;
                multiply(n, K, min(4, (columns - j) / LANES), a, w->input + j * K, 0, LANES, to);
                n = 0;
            }
        }
    }
    if (w->real < U) /* an infinite input times the weights' filling is not 0 */
        for (i64 now = t; now < end; now++)
            for (i64 s = from; s < alive && w->lengths[s] > now; s++)
                for (i64 j = w->real; j < columns; j += U)
                    memset(gates(w, s, now) + w->ahead + j, 0, (U - w->real) * sizeof(float));
    return end;
}

/* All tiles of a part, time after time; a tile is `vectors` of units wide, and of `gates` times as many sums. The sums that
   are begun with are `apart`. */
INLINE void walk(
        const job *given, i64 from, i64 to, i64 part, int vectors, int gates_, i64 apart, beginning begin, ending end) {
    job mine = *given;
    const job *w = &mine;
    const i64 U = w->units, row = U * sizeof(float);
    if (w->own) mine.z += part * w->near * w->width;
    mine.first = from;
    for (i64 s = from; w->keep && s < to; s++)
        if (w->lengths[s]) memcpy(w->before + at(w, s, 0) * U, w->h0 + w->rows[s] * U, row);
    for (i64 t = 0, alive = to, met = 0;; t++) {
        while (alive > from && w->lengths[alive - 1] <= t) alive--;
        if (alive == from) break;
        if (w->x && t == met) {
            mine.time = t;
            mine.alive = alive - from;
            met = meet_inputs(w, from, alive, t);
        }
        for (i64 j = 0; j < U; j += vectors * LANES)
            for (i64 s = from, n; s < alive; s += n) {
                const int V = min(vectors, (U - j) / LANES);
                const float *a[MANY], *first[MANY];
                float scratch[MANY][4 * LANES], *sums[MANY];
                n = together(alive - s);
                for (i64 m = 0; m < n; m++) {
                    const place p = begin(w, t, s + m, j, scratch[m]);
                    a[m] = previous(w, w->h, w->h0, s + m, t);
                    first[m] = p.from;
                    sums[m] = p.to;
                }
                multiply(n, U, V * gates_, a, w->packed + j * gates_ * U, first, apart, sums);
                for (i64 m = 0; m < n; m++) end(w, t, s + m, j, V, sums[m]);
            }
    }
    for (i64 s = from; s < to; s++)
        memcpy(w->h_last + w->rows[s] * U, previous(w, w->h, w->h0, s, w->lengths[s]), row);
}

/* All tiles from the last time to the first: each sequence's own slopes, added to `sums`, then what they carry to the time
   before, dh = slopes @ packed, or with `adds` dh + slopes @ packed. The first K of a row of z are the slopes to carry. */
typedef void (*sloping)(const job *w, i64 t, i64 s, float *sums);
INLINE void walk_back(const job *w, i64 from, i64 to, i64 part, sloping slopes, i64 K, int adds) {
    for (i64 t = from < to ? w->lengths[from] - 1 : -1, alive = from; t >= 0; t--) {
        while (alive < to && w->lengths[alive] > t) alive++;
        for (i64 s = from; s < alive; s++) slopes(w, t, s, w->sums + part * w->width);
        for (i64 j = 0; j < w->units; j += 4 * LANES)
            for (i64 s = from, n; s < alive; s += n) {
                const float *a[MANY];
                float *carried[MANY];
                n = together(alive - s);
                for (i64 m = 0; m < n; m++) {
                    a[m] = gates(w, s + m, t);
                    carried[m] = w->dh + w->rows[s + m] * w->units + j;
                }
                multiply(n, K, min(4, (w->units - j) / LANES), a, w->packed + j * K,
                         adds ? (const float *const *)carried : 0, LANES, carried);
            }
    }
}

/* What arrives at a step: from its own output, and carried from the step after it. */
INLINE vec arriving(const job *w, i64 n, i64 s, i64 j) {
    vec carried = load(w->dh + w->rows[s] * w->units + j);
    return w->upstream ? carried + load(w->upstream + n * w->units + j) : carried;
}

/* The slopes of a tile's gates, in place of them and added to the sums. */
INLINE void put_slopes(const job *w, const int V, const row *slopes, float *z, float *sums) {
    row sum;
    load_row(V, &sum, sums, w->units);
    add_row(V, &sum, all(1.0f), slopes);
    store_row(V, &sum, sums, w->units);
    store_row(V, slopes, z, w->units);
}

/* LSTM: gates i, f, candidate g, o */

INLINE place lstm_begin(const job *w, i64 t, i64 s, i64 j, float *scratch) {
    const float *z = gates(w, s, t) + j;
    for (int gate = 0; gate < 4; gate++) __builtin_prefetch(z + (w->own ? w->alive : w->stride) * w->width + gate * w->units);
    return (place){z, scratch};
}
INLINE void lstm_end(const job *w, i64 t, i64 s, i64 j, int V, const float *sums) {
    const i64 U = w->units;
    float *c = w->keep ? w->c + at(w, s, t) * U + j : w->c_last + w->rows[s] * U + j;
    const float *c_before = w->keep ? previous(w, w->c, w->c0, s, t) + j : c;
    row sum, bias;
    load_row(4, &sum, sums, LANES);
    load_row(4, &bias, w->bias + j, U);
    add_row(4, &sum, all(1.0f), &bias);
    row g = {sigmoid(sum.v0), sigmoid(sum.v1), hyperbolic(sum.v2), sigmoid(sum.v3)};
    vec state = g.v1 * load(c_before) + g.v0 * g.v2;
    if (w->keep) store_row(4, &g, gates(w, s, t) + j, U);
    store(c, state);
    put_state(w, s, t, j, g.v3 * hyperbolic(state));
}

static void lstm_forward(const job *w, i64 from, i64 to, i64 part) {
    walk(w, from, to, part, 1, 4, w->units, lstm_begin, lstm_end);
    for (i64 s = from; w->keep && s < to; s++)
        memcpy(w->c_last + w->rows[s] * w->units, previous(w, w->c, w->c0, s, w->lengths[s]), w->units * sizeof(float));
}

INLINE void lstm_slopes(const job *w, i64 t, i64 s, float *sums) {
    const i64 U = w->units, n = at(w, s, t);
    const float *c_before = previous(w, w->c, w->c0, s, t);
    float *dc = w->dc + w->rows[s] * U, *z = gates(w, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(4, &g, z + j, U);
        vec tanh_c = hyperbolic(load(w->c + n * U + j)), d = arriving(w, n, s, j);
        vec dc_t = load(dc + j) + d * g.v3 * (1.0f - tanh_c * tanh_c);
        row dz = {dc_t * g.v2 * g.v0 * (1.0f - g.v0), dc_t * load(c_before + j) * g.v1 * (1.0f - g.v1),
                  dc_t * g.v0 * (1.0f - g.v2 * g.v2), d * tanh_c * g.v3 * (1.0f - g.v3)};
        put_slopes(w, 4, &dz, z + j, sums + j);
        store(dc + j, dc_t * g.v1);
    }
}

static void lstm_backward(const job *w, i64 from, i64 to, i64 part) {
    walk_back(w, from, to, part, lstm_slopes, 4 * w->units, 0);
}

/* GRU: the candidate's product with the state, bias and all, before r meets it; gates z, r, candidate. On the way back
   the slope of that product stands first, so that what the state meets is in the first three places, and what the inputs
   meet in the last three. */

INLINE place gru_begin(const job *w, i64 t, i64 s, i64 j, float *scratch) {
    const i64 U = w->units;
    const float *z = gates(w, s, t) + U + j;
    for (int gate = 0; gate < 3; gate++) __builtin_prefetch(z + (w->own ? w->alive : w->stride) * w->width + gate * U);
    store(scratch, load(z) + load(w->bias + U + j));
    store(scratch + LANES, load(z + U) + load(w->bias + 2 * U + j));
    store(scratch + 2 * LANES, load(w->bias + j));
    return (place){scratch, scratch};
}
INLINE void gru_end(const job *w, i64 t, i64 s, i64 j, int V, const float *sums) {
    const i64 U = w->units;
    float *z = gates(w, s, t) + j;
    vec update = sigmoid(load(sums)), reset = sigmoid(load(sums + LANES)), inner = load(sums + 2 * LANES);
    vec candidate = hyperbolic(load(z + 3 * U) + load(w->bias + 3 * U + j) + reset * inner);
    if (w->keep) {
        row g = {inner, update, reset, candidate};
        store_row(4, &g, z, U);
    }
    put_state(w, s, t, j, candidate + update * (load(previous(w, w->h, w->h0, s, t) + j) - candidate));
}

static void gru_forward(const job *w, i64 from, i64 to, i64 part) {
    walk(w, from, to, part, 1, 3, LANES, gru_begin, gru_end);
}

INLINE void gru_slopes(const job *w, i64 t, i64 s, float *sums) {
    const i64 U = w->units, n = at(w, s, t);
    float *z = gates(w, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(4, &g, z + j, U);
        vec d = arriving(w, n, s, j), da = d * (1.0f - g.v1) * (1.0f - g.v3 * g.v3);
        row dz = {da * g.v2, d * (load(w->before + n * U + j) - g.v3) * g.v1 * (1.0f - g.v1),
                  da * g.v0 * g.v2 * (1.0f - g.v2), da};
        put_slopes(w, 4, &dz, z + j, sums + j);
        store(w->dh + w->rows[s] * U + j, d * g.v1);
    }
}

static void gru_backward(const job *w, i64 from, i64 to, i64 part) {
    walk_back(w, from, to, part, gru_slopes, 3 * w->units, 1);
}

/* SimpleRNN, with tanh or relu: the state stands where its gate stood */

INLINE place simple_begin(const job *w, i64 t, i64 s, i64 j, float *scratch) {
    float *h = gates(w, s, t) + j;
    return (place){h, h};
}
INLINE void simple_end(const job *w, i64 t, i64 s, i64 j, int V, const float *sums) {
    for (i64 l = 0; l < V * LANES; l += LANES) {
        vec x = load(sums + l) + load(w->bias + j + l);
        put_state(w, s, t, j + l, w->relu ? pick(x < all(0.0f), all(0.0f), x) : hyperbolic(x));
    }
}

static void simple_forward(const job *w, i64 from, i64 to, i64 part) {
    walk(w, from, to, part, 4, 1, LANES, simple_begin, simple_end);
}

INLINE void simple_slopes(const job *w, i64 t, i64 s, float *sums) {
    const i64 U = w->units, n = at(w, s, t);
    float *z = gates(w, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        vec h = load(z + j), d = arriving(w, n, s, j);
        row dz = {w->relu ? pick(h > all(0.0f), d, all(0.0f)) : d * (1.0f - h * h)};
        put_slopes(w, 1, &dz, z + j, sums + j);
    }
}

static void simple_backward(const job *w, i64 from, i64 to, i64 part) {
    walk_back(w, from, to, part, simple_slopes, w->units, 0);
}

/* The door: which cell, which way, in how many parts, on whose threads. */

typedef void (*run)(const job *, i64, i64, i64);
static const run RUNS[] = {lstm_forward, lstm_backward, gru_forward, gru_backward, simple_forward, simple_backward};
typedef struct { run run; const job *job; } order;

static void some(i64 from, i64 to, void *context) {
    const order *o = context;
    for (i64 part = from; part < to; part++) o->run(o->job, o->job->cuts[part], o->job->cuts[part + 1], part);
}

typedef int32_t (*parallel_for)(i64, i64, i64, void (*)(i64, i64, void *), void *);

int32_t padless_scan(i64 which, const job *job, i64 parts, parallel_for each) {
    order o = {RUNS[which], job};
    return each(0, parts, 1, some, &o);
}

i64 padless_scan_lanes(void) { return LANES; }

const char *padless_scan_source(void) { return SOURCE; }
