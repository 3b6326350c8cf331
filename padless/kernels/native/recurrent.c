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

#include "gemm.h"

#ifndef SOURCE
#define SOURCE ""
#endif

INLINE vec sigmoid(vec x) { return reciprocal(1.0f + power(x * -1.44269504f)); }
INLINE vec hyperbolic(vec x) { return 2.0f * reciprocal(1.0f + power(x * -2.88539008f)) - 1.0f; }

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
/* Calls for the gates of the step after, which will be met at the next time. */
INLINE void call_next(const job *w, const float *z, int gates_) {
    z += (w->own ? w->alive : w->stride) * w->width;
    for (int gate = 0; gate < gates_; gate++) __builtin_prefetch(z + gate * w->units);
}
INLINE const float *previous(const job *w, const float *states, const float *first, i64 s, i64 t) {
    return t ? states + at(w, s, t - 1) * w->units : first + w->rows[s] * w->units;
}

/* A state's vector where it stands, and where the step after it will look for it. */
INLINE void put_state(const job *w, i64 s, i64 t, i64 j, vec h) {
    const i64 place = at(w, s, t) * w->units + j;
    store(w->h + place, h);
    if (w->keep && t + 1 < w->lengths[s]) store(w->before + place + w->stride * w->units, h);
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
    call_next(w, z, 4);
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
    call_next(w, z, 3);
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

int32_t padless_scan(i64 which, const job *job, i64 parts, parallel_for each) {
    order o = {RUNS[which], job};
    return each(0, parts, 1, some, &o);
}

i64 padless_scan_lanes(void) { return LANES; }

const char *padless_scan_source(void) { return SOURCE; }
