/* Recurrent cells over packed steps, float32: LSTM, GRU (reset after), SimpleRNN; forward and backward.

   Steps stand in packed order, sequence after sequence, so the step before a step is the row before it (the row after
   it, walking backwards). The sequences of a part are sorted, longest first; at each time those still alive are the
   first ones. Parts run side by side, each with its own sequences from their first step to their last; nobody waits.

   Columns come in blocks of LANES units, and within a block gate by gate: so the product of a block leaves all gates of
   its units in registers, where they are activated at once. Units are filled up to whole blocks with zeros, which
   every cell keeps 0. Weights come packed: block after block, and for each the rows of the product's inner axis.

   What the caller passes is checked in scan.py, and laid out in scan_compiled.py. */

#include <stdint.h>
#include <string.h>

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

INLINE vec exponential(vec x) {
    x = pick(x < all(-87.0f), all(-87.0f), x); /* NaN compares false and stays */
    x = pick(x > all(88.0f), all(88.0f), x);
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec shifted = x * all(1.44269504f) + magic;
    vec n = shifted - magic;
    vec r = x - n * all(0.693359375f) + n * all(2.12194440e-4f);
    vec p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    ivec scale = ((ivec)shifted << 23) + 0x3f800000;
    return p * (vec)scale;
}
INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE vec hyperbolic(vec x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; }

typedef struct { vec v0, v1, v2, v3; } row;

INLINE void load_row(const int V, row *r, const float *p) {
    r->v0 = load(p);
    if (V > 1) r->v1 = load(p + LANES);
    if (V > 2) r->v2 = load(p + 2 * LANES);
    if (V > 3) r->v3 = load(p + 3 * LANES);
}
INLINE void store_row(const int V, const row *r, float *p) {
    store(p, r->v0);
    if (V > 1) store(p + LANES, r->v1);
    if (V > 2) store(p + 2 * LANES, r->v2);
    if (V > 3) store(p + 3 * LANES, r->v3);
}
INLINE void add_row(const int V, row *r, vec x, const row *b) {
    r->v0 += x * b->v0;
    if (V > 1) r->v1 += x * b->v1;
    if (V > 2) r->v2 += x * b->v2;
    if (V > 3) r->v3 += x * b->v3;
}

/* to[m] = from[m] + a[m] (K numbers) times a panel (K, V vectors), for M rows. The sums stand in variables of their own,
   in a function of its own: so they stay in registers, which decides the speed. Without `from` they begin at 0. */

typedef void (*product)(i64 K, const float *const *a, const float *panel, const float *const *from, float *const *to);

#define ROW_BEGIN(m) const float *a##m = a[m]; row r##m = {0}; if (from) load_row(V, &r##m, from[m]);
#define ROW_STEP(m) add_row(V, &r##m, all(a##m[k]), &b);
#define ROW_END(m) store_row(V, &r##m, to[m]);
#define ROWS_1(act) act(0)
#define ROWS_2(act) ROWS_1(act) act(1)
#define ROWS_3(act) ROWS_2(act) act(2)
#define ROWS_4(act) ROWS_3(act) act(3)
#define ROWS_5(act) ROWS_4(act) act(4)
#define ROWS_6(act) ROWS_5(act) act(5)

#define PRODUCT(M, width) \
    static __attribute__((noinline)) void product_##M##_##width( \
            i64 K, const float *const *a, const float *panel, const float *const *from, float *const *to) { \
        const int V = width; \
        ROWS_##M(ROW_BEGIN) \
        for (i64 k = 0; k < K; k++, panel += V * LANES) { \
            row b = {0}; \
            load_row(V, &b, panel); \
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

/* What a call works on. Gates and states are in packed order, (steps, gates * units) and (steps, units); first and last
   states, and what is carried, are (batch, units). */
typedef struct {
    i64 units, stride, keep, relu;
    const i64 *cuts, *starts, *lengths, *rows; /* parts; sequences: first step, how many, row of the batch */
    const float *packed, *bias, *h0, *c0;
    float *z, *inner, *h, *c, *h_last, *c_last; /* forward */
    const float *upstream;
    float *dz, *ds, *dh, *dc; /* backward: dh and dc come in with the gradients of the last states */
} job;

/* The step of sequence s at time t, and the state before it: the row before it, or the first state. */
INLINE i64 at(const job *w, i64 s, i64 t) { return w->starts[s] + t * w->stride; }
INLINE const float *before(const job *w, const float *states, const float *first, i64 s, i64 t) {
    return t ? states + at(w, s, t - 1) * w->units : first + w->rows[s] * w->units;
}
INLINE int min(i64 a, i64 b) { return (int)(a < b ? a : b); }

/* A tile: M sequences from s on, at time t, and a block of columns from unit j on. */
typedef void (*tile)(const job *w, i64 t, i64 s, int M, i64 j, int V);

/* All tiles of a part, time after time; a block is `vectors` wide. */
INLINE void walk(const job *w, i64 from, i64 to, int vectors, tile act) {
    for (i64 t = 0, alive = to;; t++) {
        while (alive > from && w->lengths[alive - 1] <= t) alive--;
        if (alive == from) return;
        for (i64 j = 0; j < w->units; j += vectors * LANES)
            for (i64 s = from; s < alive; s += ROWS)
                act(w, t, s, min(ROWS, alive - s), j, min(vectors, (w->units - j) / LANES));
    }
}

/* All tiles from the last time to the first: each sequence's own slopes, d (steps, K), then what they carry to the time
   before, dh = d @ packed, or with `adds` dh + d @ packed. */
INLINE void walk_back(const job *w, i64 from, i64 to, void (*slopes)(const job *, i64, i64), const float *d, i64 K, int adds) {
    for (i64 t = from < to ? w->lengths[from] - 1 : -1, alive = from; t >= 0; t--) {
        while (alive < to && w->lengths[alive] > t) alive++;
        for (i64 s = from; s < alive; s++) slopes(w, t, s);
        for (i64 j = 0; j < w->units; j += 4 * LANES)
            for (i64 s = from; s < alive; s += ROWS) {
                const float *a[ROWS];
                float *carried[ROWS];
                const int M = min(ROWS, alive - s), V = min(4, (w->units - j) / LANES);
                for (int m = 0; m < M; m++) {
                    a[m] = d + at(w, s + m, t) * K;
                    carried[m] = w->dh + w->rows[s + m] * w->units + j;
                }
                PRODUCT_OF[M - 1][V - 1](K, a, w->packed + j * K, adds ? (const float *const *)carried : 0, carried);
            }
    }
}

/* What arrives at a step: from its own output, and carried from the step after it. */
INLINE vec arriving(const job *w, i64 n, i64 s, i64 j) {
    vec carried = load(w->dh + w->rows[s] * w->units + j);
    return w->upstream ? carried + load(w->upstream + n * w->units + j) : carried;
}

static void last_states(const job *w, i64 from, i64 to, const float *states, const float *first, float *last) {
    for (i64 s = from; s < to; s++)
        memcpy(last + w->rows[s] * w->units, before(w, states, first, s, w->lengths[s]), w->units * sizeof(float));
}

/* LSTM: gates i, f, candidate g, o */

INLINE void lstm_tile(const job *w, i64 t, i64 s, int M, i64 j, int V) {
    const i64 U = w->units;
    const float *a[ROWS], *from[ROWS];
    float sums[ROWS][4 * LANES], *to[ROWS];
    for (int m = 0; m < M; m++) {
        a[m] = before(w, w->h, w->h0, s + m, t);
        from[m] = w->z + at(w, s + m, t) * 4 * U + 4 * j;
        to[m] = sums[m];
    }
    PRODUCT_OF[M - 1][3](U, a, w->packed + j * 4 * U, from, to);
    for (int m = 0; m < M; m++) {
        const i64 n = at(w, s + m, t);
        float *c = w->keep ? w->c + n * U + j : w->c_last + w->rows[s + m] * U + j;
        const float *c_before = w->keep ? before(w, w->c, w->c0, s + m, t) + j : c;
        row sum;
        load_row(4, &sum, sums[m]);
        row g = {sigmoid(sum.v0), sigmoid(sum.v1), hyperbolic(sum.v2), sigmoid(sum.v3)};
        vec state = g.v1 * load(c_before) + g.v0 * g.v2;
        if (w->keep) store_row(4, &g, w->z + n * 4 * U + 4 * j);
        store(c, state);
        store(w->h + n * U + j, g.v3 * hyperbolic(state));
    }
}

static void lstm_forward(const job *w, i64 from, i64 to) {
    walk(w, from, to, 1, lstm_tile);
    last_states(w, from, to, w->h, w->h0, w->h_last);
    if (w->keep) last_states(w, from, to, w->c, w->c0, w->c_last);
}

INLINE void lstm_slopes(const job *w, i64 t, i64 s) {
    const i64 U = w->units, n = at(w, s, t);
    const float *c_before = before(w, w->c, w->c0, s, t);
    float *dc = w->dc + w->rows[s] * U;
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(4, &g, w->z + n * 4 * U + 4 * j);
        vec tanh_c = hyperbolic(load(w->c + n * U + j)), d = arriving(w, n, s, j);
        vec dc_t = load(dc + j) + d * g.v3 * (1.0f - tanh_c * tanh_c);
        row dz = {dc_t * g.v2 * g.v0 * (1.0f - g.v0), dc_t * load(c_before + j) * g.v1 * (1.0f - g.v1),
                  dc_t * g.v0 * (1.0f - g.v2 * g.v2), d * tanh_c * g.v3 * (1.0f - g.v3)};
        store_row(4, &dz, w->dz + n * 4 * U + 4 * j);
        store(dc + j, dc_t * g.v1);
    }
}

static void lstm_backward(const job *w, i64 from, i64 to) { walk_back(w, from, to, lstm_slopes, w->dz, 4 * w->units, 0); }

/* GRU: gates z, r, candidate a; `inner` is the candidate's product with the state, bias and all, before r meets it */

INLINE void gru_tile(const job *w, i64 t, i64 s, int M, i64 j, int V) {
    const i64 U = w->units;
    const float *a[ROWS];
    float sums[ROWS][3 * LANES], *to[ROWS];
    for (int m = 0; m < M; m++) {
        a[m] = before(w, w->h, w->h0, s + m, t);
        to[m] = memcpy(sums[m], w->z + at(w, s + m, t) * 3 * U + 3 * j, 2 * LANES * sizeof(float));
        memcpy(sums[m] + 2 * LANES, w->bias + j, LANES * sizeof(float));
    }
    PRODUCT_OF[M - 1][2](U, a, w->packed + j * 3 * U, (const float *const *)to, to);
    for (int m = 0; m < M; m++) {
        const i64 n = at(w, s + m, t);
        float *z = w->z + n * 3 * U + 3 * j;
        vec update = sigmoid(load(sums[m])), reset = sigmoid(load(sums[m] + LANES)), inner = load(sums[m] + 2 * LANES);
        vec candidate = hyperbolic(load(z + 2 * LANES) + reset * inner);
        if (w->keep) {
            row g = {update, reset, candidate};
            store_row(3, &g, z);
            store(w->inner + n * U + j, inner);
        }
        store(w->h + n * U + j, candidate + update * (load(a[m] + j) - candidate));
    }
}

static void gru_forward(const job *w, i64 from, i64 to) {
    walk(w, from, to, 1, gru_tile);
    last_states(w, from, to, w->h, w->h0, w->h_last);
}

INLINE void gru_slopes(const job *w, i64 t, i64 s) {
    const i64 U = w->units, n = at(w, s, t);
    const float *h_before = before(w, w->h, w->h0, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(3, &g, w->z + n * 3 * U + 3 * j);
        vec d = arriving(w, n, s, j), inner = load(w->inner + n * U + j);
        vec da = d * (1.0f - g.v0) * (1.0f - g.v2 * g.v2);
        row ds = {d * (load(h_before + j) - g.v2) * g.v0 * (1.0f - g.v0), da * inner * g.v1 * (1.0f - g.v1), da * g.v1};
        store_row(3, &ds, w->ds + n * 3 * U + 3 * j);
        ds.v2 = da;
        store_row(3, &ds, w->dz + n * 3 * U + 3 * j);
        store(w->dh + w->rows[s] * U + j, d * g.v0);
    }
}

static void gru_backward(const job *w, i64 from, i64 to) { walk_back(w, from, to, gru_slopes, w->ds, 3 * w->units, 1); }

/* SimpleRNN, with tanh or relu: the product falls where the state will stand */

INLINE void simple_tile(const job *w, i64 t, i64 s, int M, i64 j, int V) {
    const float *a[ROWS];
    float *h[ROWS];
    for (int m = 0; m < M; m++) {
        a[m] = before(w, w->h, w->h0, s + m, t);
        h[m] = w->h + at(w, s + m, t) * w->units + j;
    }
    PRODUCT_OF[M - 1][V - 1](w->units, a, w->packed + j * w->units, (const float *const *)h, h);
    for (int m = 0; m < M; m++)
        for (i64 l = 0; l < V * LANES; l += LANES) {
            vec x = load(h[m] + l);
            store(h[m] + l, w->relu ? pick(x < all(0.0f), all(0.0f), x) : hyperbolic(x));
        }
}

static void simple_forward(const job *w, i64 from, i64 to) {
    walk(w, from, to, 4, simple_tile);
    last_states(w, from, to, w->h, w->h0, w->h_last);
}

INLINE void simple_slopes(const job *w, i64 t, i64 s) {
    const i64 U = w->units, n = at(w, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        vec h = load(w->h + n * U + j), d = arriving(w, n, s, j);
        store(w->dz + n * U + j, w->relu ? pick(h > all(0.0f), d, all(0.0f)) : d * (1.0f - h * h));
    }
}

static void simple_backward(const job *w, i64 from, i64 to) { walk_back(w, from, to, simple_slopes, w->dz, w->units, 0); }

/* The door: which cell, which way, in how many parts, on whose threads. */

typedef void (*run)(const job *, i64, i64);
static const run RUNS[] = {lstm_forward, lstm_backward, gru_forward, gru_backward, simple_forward, simple_backward};
typedef struct { run run; const job *job; } order;

static void some(i64 from, i64 to, void *context) {
    const order *o = context;
    for (i64 part = from; part < to; part++) o->run(o->job, o->job->cuts[part], o->job->cuts[part + 1]);
}

typedef int32_t (*parallel_for)(i64, i64, i64, void (*)(i64, i64, void *), void *);

int32_t padless_scan(i64 which, const job *job, i64 parts, parallel_for each) {
    order o = {RUNS[which], job};
    return each(0, parts, 1, some, &o);
}

i64 padless_scan_lanes(void) { return LANES; }

const char *padless_scan_source(void) { return SOURCE; }
