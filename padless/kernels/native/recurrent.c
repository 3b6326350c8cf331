/* Recurrent cells over packed steps, float32: LSTM, GRU (reset_after) and SimpleRNN, forward and backward pass.

   Steps are in packed order, sequence after sequence. So the step before a step is one row earlier (one row later if
   sequences run from their last step to their first). The sequences of a part are sorted, longest first: those that
   have a step at some time ("alive" sequences) are the first ones. Each part runs on one thread, from the first step
   of its sequences to the last, and does not wait for other parts.

   The gates of a step are one row, gate after gate as in Keras. A tile is LANES units of all gates for one step: its
   sums come out of the matrix product in registers, and the activations are computed at once. Units are padded with
   zeros to whole vectors, and every cell keeps the padding 0. The recurrent weights are packed in panels: for each
   tile of units, the rows of the product's inner axis.

   The products of the inputs with their weights are computed for a few times at once ("chunk"), just before these
   times, so that they are in the cache when they are used. If nothing is saved for the backward pass, the gates of a
   chunk have no other memory. The backward pass writes the gradients of the gates over the gates. That saves as much
   memory as all gates need.

   kernels/recurrent/native.py checks the arguments and prepares the memory. */

#include "activations.h"

#ifndef SOURCE
#define SOURCE ""
#endif

/* The arguments of a call. N: steps, B: rows of the batch, S: sequences, P: parts, U: units, W: width. The caller
   owns all memory. A copy of this struct for each part has the chunk_* fields, which belong to the thread. */
typedef struct {
    i64 units; /* U: units padded to whole vectors */
    i64 real_units; /* units without padding */
    i64 width; /* W: columns of a row of gates that is in memory: extra_columns, if saved, and U for each gate */
    i64 extra_columns; /* columns before the gates to which the inputs give: U for a GRU, else 0 */
    i64 stride; /* from a step to the next of its sequence: 1, or -1 for reverse */
    i64 save_for_backward; /* 1 if gates, c and h_before of all steps are written */
    i64 relu; /* 1 if SimpleRNN has relu and not tanh */
    i64 features; /* columns of x */
    i64 chunk_rows; /* steps of a part whose input products are computed at once */
    i64 thread_local_gates; /* 1 if each part has memory for the gates of chunk_rows steps only */
    const i64 *part_offsets; /* (P + 1,) first sequence of each part */
    const i64 *first_steps; /* (S,) step at which each sequence begins */
    const i64 *lengths; /* (S,) steps of each sequence, longest first in each part */
    const i64 *batch_rows; /* (S,) row of each sequence in the batch */
    const float *x; /* (N, features) inputs; null if `gates` has their products with the weights */
    const float *input_panels; /* (features, gates * U) input weights in panels */
    const float *recurrent_panels; /* forward: (U, gates * U); backward: its transpose; in panels */
    const float *bias; /* (extra_columns + gates * U,) a number for each column of the gates */
    const float *h0; /* (B, U) initial h */
    const float *c0; /* (B, U) initial c of an LSTM */
    float *gates; /* (N, W), or (P * chunk_rows, W) if thread_local_gates; backward: gates in, their gradients out */
    float *h_before; /* (N, U) h before each step; written if save_for_backward */
    float *h; /* (N, U) output; of SimpleRNN the same memory as gates */
    float *c; /* (N, U) c after each step; written if save_for_backward */
    float *h_last; /* (B, U) output */
    float *c_last; /* (B, U) output; without save_for_backward, c is updated here at each step */
    const float *grad_outputs; /* backward: (N, U) gradient of the outputs, or null */
    const i64 *bias_rows; /* backward: (S,) row of grad_bias to which each sequence adds; a row belongs to one part */
    float *grad_bias; /* backward: (rows, W) sums of the gradients of the gates */
    float *dh; /* backward: (B, U) gradient of h_last in, of h0 out */
    float *dc; /* backward: (B, U) gradient of c_last in, of c0 out */
    i64 chunk_sequence; /* thread: first sequence of the part */
    i64 chunk_time; /* thread: first time of the chunk */
    i64 chunk_alive; /* thread: sequences that are alive at chunk_time */
} rnn_args;

/* Return the packed step of sequence s at time t. */
INLINE i64 step_row(const rnn_args *args, i64 s, i64 t) { return args->first_steps[s] + t * args->stride; }

/* Return the gates of sequence s at time t. */
INLINE float *gates_of(const rnn_args *args, i64 s, i64 t) {
    return args->gates + (args->thread_local_gates ? (t - args->chunk_time) * args->chunk_alive + s - args->chunk_sequence
                                                   : step_row(args, s, t)) * args->width;
}

/* Prefetch the gates of the next step of the sequence, which are used at the next time. */
INLINE void prefetch_next(const rnn_args *args, const float *z, int gates) {
    z += (args->thread_local_gates ? args->chunk_alive : args->stride) * args->width;
    for (int gate = 0; gate < gates; gate++) __builtin_prefetch(z + gate * args->units);
}

/* Return the state of sequence s before time t: that after the step before, or the initial one. */
INLINE const float *state_before(const rnn_args *args, const float *states, const float *initial, i64 s, i64 t) {
    return t ? states + step_row(args, s, t - 1) * args->units : initial + args->batch_rows[s] * args->units;
}

/* Store a vector of h after a step, and also as h before the next step. */
INLINE void store_h(const rnn_args *args, i64 s, i64 t, i64 j, vec h) {
    const i64 offset = step_row(args, s, t) * args->units + j;
    store(args->h + offset, h);
    if (args->save_for_backward && t + 1 < args->lengths[s]) store(args->h_before + offset + args->stride * args->units, h);
}

/* ---- forward pass of any cell ---- */

/* Where the sums of a tile begin and where the product writes them. */
typedef struct {
    const float *begin; /* (V * LANES,) what the sums begin with, of the arguments or of scratch memory */
    float *out; /* (V * LANES,) where the product writes the sums, of the arguments or of scratch memory */
} tile_sums;

/* The two functions of a cell, for a tile: sequence s at time t, and V vectors of units from unit j on. The first
   says where the sums of the product begin, and where they go; `scratch` is free memory for both. The second computes
   gates and states. */
typedef tile_sums (*tile_begin)(const rnn_args *args, i64 t, i64 s, i64 j, float *scratch);
typedef void (*tile_end)(const rnn_args *args, i64 t, i64 s, i64 j, int V, const float *sums);

/* Write the products of the inputs with their weights to the gates, for the times of a chunk from time t on; `begin`
   and `alive` are the first sequence of the part, and the end of the sequences that are alive at t. Returns the time
   after the chunk. */
INLINE i64 project_inputs(const rnn_args *args, i64 begin, i64 alive, i64 t) {
    const i64 U = args->units, K = args->features;
    const i64 columns = args->save_for_backward ? args->width - args->extra_columns : args->width;
    const i64 times = args->chunk_rows / (alive - begin) ? args->chunk_rows / (alive - begin) : 1;
    const i64 end = t + times < args->lengths[begin] ? t + times : args->lengths[begin];
    for (i64 j = 0; j < columns; j += 4 * LANES) {
        const float *x[MAX_ROWS];
        float *out[MAX_ROWS];
        for (i64 now = t, last = alive, n = 0; now < end; now++) {
            while (args->lengths[last - 1] <= now) last--;
            for (i64 s = begin; s < last; s++) {
                x[n] = args->x + step_row(args, s, now) * K;
                out[n++] = gates_of(args, s, now) + args->extra_columns + j;
                if (n < MAX_ROWS && (now < end - 1 || s < last - 1)) continue;
                gemm(n, K, min(4, (columns - j) / LANES), x, args->input_panels + j * K, 0, LANES, out);
                n = 0;
            }
        }
    }
    if (args->real_units < U) /* an infinite input times the zeros of the padding is NaN */
        for (i64 now = t; now < end; now++)
            for (i64 s = begin; s < alive && args->lengths[s] > now; s++)
                for (i64 j = args->real_units; j < columns; j += U)
                    memset(gates_of(args, s, now) + args->extra_columns + j, 0, (U - args->real_units) * sizeof(float));
    return end;
}

/* Compute all tiles of a part, time after time. A tile has `vectors` vectors of units, and `gates` times as many
   sums. The vectors with which its sums begin are `distance` numbers apart. */
INLINE void run_forward(
        const rnn_args *shared, i64 begin, i64 end, i64 part, int vectors, int gates, i64 distance,
        tile_begin begin_tile, tile_end end_tile) {
    rnn_args of_thread = *shared;
    const rnn_args *args = &of_thread;
    const i64 U = args->units, row_size = U * sizeof(float);
    if (args->thread_local_gates) of_thread.gates += part * args->chunk_rows * args->width;
    of_thread.chunk_sequence = begin;
    for (i64 s = begin; args->save_for_backward && s < end; s++)
        if (args->lengths[s]) memcpy(args->h_before + step_row(args, s, 0) * U, args->h0 + args->batch_rows[s] * U, row_size);
    for (i64 t = 0, alive = end, chunk_end = 0;; t++) {
        while (alive > begin && args->lengths[alive - 1] <= t) alive--;
        if (alive == begin) break;
        if (args->x && t == chunk_end) {
            of_thread.chunk_time = t;
            of_thread.chunk_alive = alive - begin;
            chunk_end = project_inputs(args, begin, alive, t);
        }
        for (i64 j = 0; j < U; j += vectors * LANES)
            for (i64 s = begin, n; s < alive; s += n) {
                const int V = min(vectors, (U - j) / LANES);
                const float *h[MAX_ROWS], *sums_begin[MAX_ROWS];
                float scratch[MAX_ROWS][4 * LANES], *sums[MAX_ROWS];
                n = rows_per_tile(alive - s);
                for (i64 m = 0; m < n; m++) {
                    const tile_sums tile = begin_tile(args, t, s + m, j, scratch[m]);
                    h[m] = state_before(args, args->h, args->h0, s + m, t);
                    sums_begin[m] = tile.begin;
                    sums[m] = tile.out;
                }
                gemm(n, U, V * gates, h, args->recurrent_panels + j * gates * U, sums_begin, distance, sums);
                for (i64 m = 0; m < n; m++) end_tile(args, t, s + m, j, V, sums[m]);
            }
    }
    for (i64 s = begin; s < end; s++)
        memcpy(args->h_last + args->batch_rows[s] * U, state_before(args, args->h, args->h0, s, args->lengths[s]), row_size);
}

/* ---- backward pass of any cell ---- */

/* The function of a cell: write the gradients of the gates of a step over the gates, and add them to `grad_bias`. */
typedef void (*gate_gradients)(const rnn_args *args, i64 t, i64 s, float *grad_bias);

/* Compute a part from its last time to its first: the gradients of the gates of each sequence, then the gradient of
   the state before them. That is dh = gradients @ weights, or with `accumulate` dh + gradients @ weights, of the
   first K columns of the gates. */
INLINE void run_backward(const rnn_args *args, i64 begin, i64 end, gate_gradients gradients, i64 K, int accumulate) {
    for (i64 t = begin < end ? args->lengths[begin] - 1 : -1, alive = begin; t >= 0; t--) {
        while (alive < end && args->lengths[alive] > t) alive++;
        for (i64 s = begin; s < alive; s++) gradients(args, t, s, args->grad_bias + args->bias_rows[s] * args->width);
        for (i64 j = 0; j < args->units; j += 4 * LANES)
            for (i64 s = begin, n; s < alive; s += n) {
                const float *dz[MAX_ROWS];
                float *dh[MAX_ROWS];
                n = rows_per_tile(alive - s);
                for (i64 m = 0; m < n; m++) {
                    dz[m] = gates_of(args, s + m, t);
                    dh[m] = args->dh + args->batch_rows[s + m] * args->units + j;
                }
                gemm(n, K, min(4, (args->units - j) / LANES), dz, args->recurrent_panels + j * K,
                     accumulate ? (const float *const *)dh : 0, LANES, dh);
            }
    }
}

/* Return a vector of the gradient of h after step n: from its output, and from the step after it. */
INLINE vec gradient_of_h(const rnn_args *args, i64 n, i64 s, i64 j) {
    vec from_next = load(args->dh + args->batch_rows[s] * args->units + j);
    return args->grad_outputs ? from_next + load(args->grad_outputs + n * args->units + j) : from_next;
}

/* Store the gradients of V gates over the gates z, and add them to grad_bias. */
INLINE void store_gate_gradients(const rnn_args *args, const int V, const row *gradients, float *z, float *grad_bias) {
    row sum;
    load_row(V, &sum, grad_bias, args->units);
    add_row(V, &sum, broadcast(1.0f), gradients);
    store_row(V, &sum, grad_bias, args->units);
    store_row(V, gradients, z, args->units);
}

/* ---- LSTM: gates i, f, candidate g, o ---- */

INLINE tile_sums lstm_begin(const rnn_args *args, i64 t, i64 s, i64 j, float *scratch) {
    const float *z = gates_of(args, s, t) + j;
    prefetch_next(args, z, 4);
    return (tile_sums){z, scratch};
}
INLINE void lstm_end(const rnn_args *args, i64 t, i64 s, i64 j, int V, const float *sums) {
    const i64 U = args->units;
    float *c = args->save_for_backward ? args->c + step_row(args, s, t) * U + j : args->c_last + args->batch_rows[s] * U + j;
    const float *c_before = args->save_for_backward ? state_before(args, args->c, args->c0, s, t) + j : c;
    row z, bias;
    load_row(4, &z, sums, LANES);
    load_row(4, &bias, args->bias + j, U);
    add_row(4, &z, broadcast(1.0f), &bias);
    row g = {sigmoid(z.v0), sigmoid(z.v1), tanh_vec(z.v2), sigmoid(z.v3)};
    vec c_after = g.v1 * load(c_before) + g.v0 * g.v2;
    if (args->save_for_backward) store_row(4, &g, gates_of(args, s, t) + j, U);
    store(c, c_after);
    store_h(args, s, t, j, g.v3 * tanh_vec(c_after));
}

static void lstm_forward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_forward(args, begin, end, part, 1, 4, args->units, lstm_begin, lstm_end);
    for (i64 s = begin; args->save_for_backward && s < end; s++)
        memcpy(args->c_last + args->batch_rows[s] * args->units, state_before(args, args->c, args->c0, s, args->lengths[s]),
               args->units * sizeof(float));
}

INLINE void lstm_gradients(const rnn_args *args, i64 t, i64 s, float *grad_bias) {
    const i64 U = args->units, n = step_row(args, s, t);
    const float *c_before = state_before(args, args->c, args->c0, s, t);
    float *dc = args->dc + args->batch_rows[s] * U, *z = gates_of(args, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(4, &g, z + j, U);
        vec tanh_c = tanh_vec(load(args->c + n * U + j)), dh = gradient_of_h(args, n, s, j);
        vec dc_t = load(dc + j) + dh * g.v3 * (1.0f - tanh_c * tanh_c);
        row dz = {dc_t * g.v2 * g.v0 * (1.0f - g.v0), dc_t * load(c_before + j) * g.v1 * (1.0f - g.v1),
                  dc_t * g.v0 * (1.0f - g.v2 * g.v2), dh * tanh_c * g.v3 * (1.0f - g.v3)};
        store_gate_gradients(args, 4, &dz, z + j, grad_bias + j);
        store(dc + j, dc_t * g.v1);
    }
}

static void lstm_backward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_backward(args, begin, end, lstm_gradients, 4 * args->units, 0);
}

/* ---- GRU: m, z, r, candidate a; m is the product of the state for the candidate, with its bias, before r multiplies
   it ----

   In the backward pass the first three columns are the gradients of the product with the state, the last three those
   of the product with the inputs. */

INLINE tile_sums gru_begin(const rnn_args *args, i64 t, i64 s, i64 j, float *scratch) {
    const i64 U = args->units;
    const float *z = gates_of(args, s, t) + U + j;
    prefetch_next(args, z, 3);
    store(scratch, load(z) + load(args->bias + U + j));
    store(scratch + LANES, load(z + U) + load(args->bias + 2 * U + j));
    store(scratch + 2 * LANES, load(args->bias + j));
    return (tile_sums){scratch, scratch};
}
INLINE void gru_end(const rnn_args *args, i64 t, i64 s, i64 j, int V, const float *sums) {
    const i64 U = args->units;
    float *z = gates_of(args, s, t) + j;
    vec update = sigmoid(load(sums)), reset = sigmoid(load(sums + LANES)), inner = load(sums + 2 * LANES);
    vec candidate = tanh_vec(load(z + 3 * U) + load(args->bias + 3 * U + j) + reset * inner);
    if (args->save_for_backward) {
        row g = {inner, update, reset, candidate};
        store_row(4, &g, z, U);
    }
    store_h(args, s, t, j, candidate + update * (load(state_before(args, args->h, args->h0, s, t) + j) - candidate));
}

static void gru_forward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_forward(args, begin, end, part, 1, 3, LANES, gru_begin, gru_end);
}

INLINE void gru_gradients(const rnn_args *args, i64 t, i64 s, float *grad_bias) {
    const i64 U = args->units, n = step_row(args, s, t);
    float *z = gates_of(args, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        row g;
        load_row(4, &g, z + j, U);
        vec dh = gradient_of_h(args, n, s, j), da = dh * (1.0f - g.v1) * (1.0f - g.v3 * g.v3);
        row dz = {da * g.v2, dh * (load(args->h_before + n * U + j) - g.v3) * g.v1 * (1.0f - g.v1),
                  da * g.v0 * g.v2 * (1.0f - g.v2), da};
        store_gate_gradients(args, 4, &dz, z + j, grad_bias + j);
        store(args->dh + args->batch_rows[s] * U + j, dh * g.v1);
    }
}

static void gru_backward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_backward(args, begin, end, gru_gradients, 3 * args->units, 1);
}

/* ---- SimpleRNN, with tanh or relu: the state has the memory of its gate ---- */

INLINE tile_sums simple_rnn_begin(const rnn_args *args, i64 t, i64 s, i64 j, float *scratch) {
    float *h = gates_of(args, s, t) + j;
    return (tile_sums){h, h};
}
INLINE void simple_rnn_end(const rnn_args *args, i64 t, i64 s, i64 j, int V, const float *sums) {
    for (i64 l = 0; l < V * LANES; l += LANES) {
        vec z = load(sums + l) + load(args->bias + j + l);
        store_h(args, s, t, j + l, args->relu ? select_vec(z < broadcast(0.0f), broadcast(0.0f), z) : tanh_vec(z));
    }
}

static void simple_rnn_forward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_forward(args, begin, end, part, 4, 1, LANES, simple_rnn_begin, simple_rnn_end);
}

INLINE void simple_rnn_gradients(const rnn_args *args, i64 t, i64 s, float *grad_bias) {
    const i64 U = args->units, n = step_row(args, s, t);
    float *z = gates_of(args, s, t);
    for (i64 j = 0; j < U; j += LANES) {
        vec h = load(z + j), dh = gradient_of_h(args, n, s, j);
        row dz = {args->relu ? select_vec(h > broadcast(0.0f), dh, broadcast(0.0f)) : dh * (1.0f - h * h)};
        store_gate_gradients(args, 1, &dz, z + j, grad_bias + j);
    }
}

static void simple_rnn_backward(const rnn_args *args, i64 begin, i64 end, i64 part) {
    run_backward(args, begin, end, simple_rnn_gradients, args->units, 0);
}

/* ---- entry points ---- */

typedef void (*part_function)(const rnn_args *args, i64 begin, i64 end, i64 part);
static const part_function FUNCTIONS[] = {
    lstm_forward, lstm_backward, gru_forward, gru_backward, simple_rnn_forward, simple_rnn_backward};

/* A call for torch's threads. The entry point owns it until all parts are done. */
typedef struct {
    part_function function; /* the pass of the cell, one of FUNCTIONS */
    const rnn_args *args; /* the arguments, of the caller */
} rnn_task;

/* Run the parts from `begin` to `end`. */
static void run_parts(i64 begin, i64 end, void *context) {
    const rnn_task *task = context;
    for (i64 part = begin; part < end; part++)
        task->function(task->args, task->args->part_offsets[part], task->args->part_offsets[part + 1], part);
}

/* Run the function with this number in FUNCTIONS on torch's threads; the result is 0 if that succeeded. */
int32_t padless_rnn(i64 function, const rnn_args *args, i64 parts, parallel_for each) {
    rnn_task task = {FUNCTIONS[function], args};
    return each(0, parts, 1, run_parts, &task);
}

/* Apply tanh (number 0), sigmoid (1) or the power of 2 (2) to some vectors, for tests of their errors. */
void padless_activation(i64 number, i64 vectors, const float *x, float *out) {
    for (i64 i = 0; i < vectors * LANES; i += LANES) {
        const vec v = load(x + i);
        store(out + i, number == 0 ? tanh_vec(v) : number == 1 ? sigmoid(v) : exp2_vec(v));
    }
}

/* Return the number of float32 in a vector. */
i64 padless_lanes(void) { return LANES; }

/* Return the hash of the source from which the library was built. */
const char *padless_source(void) { return SOURCE; }
