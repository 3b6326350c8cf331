/* Attention of packed queries to the packed keys of the same row, float32, forward and backward pass.

   All is transposed: a vector holds LANES queries of a row, and scores are stored as (keys, queries). So maxima, sums
   and powers need no operation across the lanes of a vector, keys and values are multiplied where they are stored,
   and the scores are the panel of the next product. The queries of a row and head are computed in blocks of up to
   four vectors. A block gets its keys in pieces that stay in the L2 cache. The maximum and the sum of a query's
   softmax are carried from piece to piece. The backward pass computes the scores again.

   kernels/attention/native.py checks the arguments and prepares the memory. */

#include "activations.h"

enum {
    PIECE_KEYS = 512, /* most keys of a piece */
    BLOCK = 4 * LANES /* most queries of a block */
};
#define LOG2_E 1.44269504f /* scores are in units of log 2, because the softmax is computed with powers of 2 */

/* The arguments of a call. R: rows, H: heads of queries, G: heads of keys (groups), D: size, E: width, Q: queries, K:
   keys, P: parts. The caller owns all memory. */
typedef struct {
    i64 rows; /* R: rows of the batch */
    i64 heads; /* H: heads of queries, a multiple of G */
    i64 groups; /* G: heads of keys and values */
    i64 size; /* D: size of queries and keys, a multiple of LANES */
    i64 width; /* E: size of values, a multiple of LANES */
    i64 causal; /* 1 if a query sees the keys up to its own step only */
    i64 scratch_size; /* numbers of scratch memory of a part, see padless_attention_scratch_size */
    const i64 *query_offsets; /* (R + 1,) first query of each row */
    const i64 *key_offsets; /* (R + 1,) first key of each row */
    const i64 *unit_offsets; /* (R + 1,) first unit of work of each row: a block and head, backward a group */
    const i64 *part_offsets; /* (P + 1,) first unit of work of each part */
    const float *q; /* (Q, H, D) */
    const float *k; /* (K, G, D) */
    const float *v; /* (K, G, E) */
    float *out; /* (Q, H, E) written forward, read backward */
    float *softmax_stats; /* (Q, H, 2) greatest score and 1 / sum; written forward unless null, read backward */
    const float *grad_out; /* backward: (Q, H, E) */
    float *dq; /* backward: (Q, H, D) output */
    float *dk; /* backward: (K, G, D) output */
    float *dv; /* backward: (K, G, E) output */
    float *scratch; /* (P, scratch_size) */
    float scale; /* factor of the scores */
} attn_args;

/* Return the size of each piece if n things are split into pieces of nearly equal size, `most` at most. */
INLINE i64 even_split(i64 n, i64 most) {
    const i64 pieces = (n + most - 1) / most;
    return pieces ? (n + pieces - 1) / pieces : 0;
}

/* Return the number of queries of each block of a row. */
INLINE i64 block_size(i64 queries) { return even_split((queries + LANES - 1) / LANES, 4) * LANES; }

/* Return the distance of transposed rows of n numbers: whole vectors, and one more, so that the rows do not all use
   the same lines of the cache. */
INLINE i64 transposed_stride(i64 n) { return (n + LANES - 1) / LANES * LANES + LANES; }

/* ---- moving rows ---- */

/* Interleave the lower (upper) halves of two vectors. */
#if defined(__clang__) || LANES < 8
INLINE vec interleave_low(vec a, vec b) {
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = i % 2 ? b[i / 2] : a[i / 2];
    return r;
}
INLINE vec interleave_high(vec a, vec b) {
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = i % 2 ? b[(LANES + i) / 2] : a[(LANES + i) / 2];
    return r;
}
#elif LANES == 16
INLINE vec interleave_low(vec a, vec b) {
    return __builtin_shuffle(a, b, (ivec){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
INLINE vec interleave_high(vec a, vec b) {
    return __builtin_shuffle(a, b, (ivec){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}
#else
INLINE vec interleave_low(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){0, 8, 1, 9, 2, 10, 3, 11}); }
INLINE vec interleave_high(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){4, 12, 5, 13, 6, 14, 7, 15}); }
#endif

/* Transpose a square of LANES vectors: log2(LANES) rounds of interleaving its first half with its second half. */
INLINE void transpose(vec *x) {
    vec y[LANES];
    for (int step = 1; step < LANES; step *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = interleave_low(x[i], x[i + LANES / 2]);
            y[2 * i + 1] = interleave_high(x[i], x[i + LANES / 2]);
        }
        memcpy(x, y, sizeof y);
    }
}

/* Transpose n rows of `columns` numbers and multiply them with a factor: (n, columns) to (columns, n), n padded with
   zeros to whole vectors. Rows are `stride` numbers apart, transposed ones `out_stride`. */
static void transpose_in(const float *rows, i64 stride, i64 n, i64 columns, float factor, float *out, i64 out_stride) {
    for (i64 c = 0; c < columns; c += LANES)
        for (i64 r = 0; r < n; r += LANES) {
            vec x[LANES];
            for (int i = 0; i < LANES; i++)
                x[i] = r + i < n ? load(rows + (r + i) * stride + c) * factor : broadcast(0.0f);
            transpose(x);
            for (int i = 0; i < LANES; i++) store(out + (c + i) * out_stride + r, x[i]);
        }
}

/* Transpose back: (columns, n) to n rows, each multiplied with its factor if there are factors. Replaces the rows of
   `out`, or with `accumulate` adds to them. */
static void transpose_out(
        const float *transposed, i64 stride, i64 n, i64 columns, const float *factors, float *out, i64 out_stride,
        int accumulate) {
    for (i64 c = 0; c < columns; c += LANES)
        for (i64 r = 0; r < n; r += LANES) {
            vec x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = load(transposed + (c + i) * stride + r);
            for (int i = 0; factors && i < LANES; i++) x[i] *= load(factors + r);
            transpose(x);
            for (int i = 0; i < LANES && r + i < n; i++) {
                float *row_out = out + (r + i) * out_stride + c;
                store(row_out, accumulate ? load(row_out) + x[i] : x[i]);
            }
        }
}

/* Copy n rows, `stride` numbers apart, into panels of up to four vectors. */
static void pack_panels(const float *rows, i64 stride, i64 n, i64 columns, float *out) {
    for (i64 c = 0; c < columns; c += BLOCK)
        for (i64 r = 0; r < n; r++)
            for (i64 j = c; j < columns && j < c + BLOCK; j += LANES, out += LANES) store(out, load(rows + r * stride + j));
}

/* out = a @ panels for n rows of K numbers, or with `accumulate` out + a @ panels. Rows of a are `stride` numbers
   apart, rows of out `out_stride`. */
static void gemm_rows(
        i64 n, i64 K, i64 columns, const float *a, i64 stride, const float *panels, float *out, i64 out_stride,
        int accumulate) {
    for (i64 c = 0; c < columns; c += BLOCK)
        for (i64 m = 0, tile_rows; m < n; m += tile_rows) {
            const float *rows[MAX_ROWS];
            float *sums[MAX_ROWS];
            tile_rows = rows_per_tile(n - m);
            for (i64 i = 0; i < tile_rows; i++) {
                rows[i] = a + (m + i) * stride;
                sums[i] = out + (m + i) * out_stride + c;
            }
            gemm(tile_rows, K, min(4, (columns - c) / LANES), rows, panels + c * K,
                 accumulate ? (const float *const *)sums : 0, LANES, sums);
        }
}

/* Set n rows to 0. */
static void zero_rows(float *rows, i64 stride, i64 n, i64 columns) {
    for (i64 i = 0; i < n; i++) memset(rows + i * stride, 0, columns * sizeof(float));
}

/* ---- softmax ---- */

/* Return the mask of the lanes from this one on. */
INLINE ivec lanes_from(i64 number) {
    ivec lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    return lanes >= (int32_t)(number < LANES ? number : LANES);
}

INLINE vec max_vec(vec a, vec b) { return select_vec(a > b, a, b); }

/* Replace the scores of n keys by weights that are not yet divided by their sum, for one vector of queries. Rows of
   scores are `width` numbers apart. `offset` is the number of the first key minus that of the first query: with
   `causal`, key i is hidden from the queries before number offset + i. `maximum` and `sum` are those of earlier
   pieces, and are updated. Returns the factor by which earlier sums shrink, because the maximum may have grown. */
INLINE vec softmax_block(float *scores, i64 width, i64 n, i64 offset, int causal, vec *maximum, vec *sum) {
    const vec old_maximum = *maximum, lowest = broadcast(-__builtin_inff());
    vec new_maximum = old_maximum, total = broadcast(0.0f);
    for (i64 i = 0; i < n; i++) {
        const vec x = load(scores + i * width);
        new_maximum = max_vec(causal && offset + i > 0 ? select_vec(lanes_from(offset + i), x, lowest) : x, new_maximum);
    }
    /* If all scores are -infinity, the base is 0; a greater score may come in a later piece. */
    const vec base = select_vec(new_maximum == lowest, broadcast(0.0f), new_maximum);
    for (i64 i = 0; i < n; i++) {
        vec p = exp2_vec(load(scores + i * width) - base);
        if (causal && offset + i > 0) p = select_vec(lanes_from(offset + i), p, broadcast(0.0f));
        store(scores + i * width, p);
        total += p;
    }
    const vec shrink = exp2_vec(old_maximum - base);
    *maximum = new_maximum;
    *sum = *sum * shrink + total;
    return shrink;
}

/* ---- forward pass ---- */

/* Compute a block of queries of a row and a head. */
static void attend_block(const attn_args *args, float *scratch, i64 row, i64 head, i64 block) {
    const i64 group = head / (args->heads / args->groups);
    const i64 first_query = args->query_offsets[row], first_key = args->key_offsets[row];
    const i64 row_queries = args->query_offsets[row + 1] - first_query, row_keys = args->key_offsets[row + 1] - first_key;
    const i64 queries_per_block = block_size(row_queries), q0 = block * queries_per_block;
    const i64 remaining = row_queries - q0, nq = remaining < queries_per_block ? remaining : queries_per_block;
    const i64 width = (nq + LANES - 1) / LANES * LANES; /* queries of the block, in whole vectors */
    const i64 end = args->causal && q0 + nq < row_keys ? q0 + nq : row_keys; /* keys that some query of the block sees */
    const i64 piece = even_split(end, PIECE_KEYS), v_stride = transposed_stride(piece);
    const i64 out_row = (first_query + q0) * args->heads + head;
    float *q = scratch, *scores = q + args->size * BLOCK, *out = scores + PIECE_KEYS * BLOCK;
    float *piece_out = out + args->width * BLOCK, *v = piece_out + args->width * BLOCK;
    float maxima[BLOCK], sums[BLOCK];
    if (!end) zero_rows(args->out + out_row * args->width, args->heads * args->width, nq, args->width);
    transpose_in(args->q + out_row * args->size, args->heads * args->size, nq, args->size, args->scale * LOG2_E, q, width);
    for (i64 j = 0; j < width; j += LANES) {
        store(maxima + j, broadcast(-__builtin_inff()));
        store(sums + j, broadcast(0.0f));
    }
    for (i64 j = 0, n; j < end; j += n) {
        n = end - j < piece ? end - j : piece;
        const i64 key_row = (first_key + j) * args->groups + group;
        gemm_rows(n, args->size, width, args->k + key_row * args->size, args->groups * args->size, q, scores, width, 0);
        for (i64 c = 0; c < width; c += LANES) {
            vec maximum = load(maxima + c), sum = load(sums + c);
            const vec shrink = softmax_block(scores + c, width, n, j - q0 - c, (int)args->causal, &maximum, &sum);
            store(maxima + c, maximum);
            store(sums + c, sum);
            for (i64 i = 0; j && i < args->width; i++) store(out + i * width + c, load(out + i * width + c) * shrink);
        }
        transpose_in(args->v + key_row * args->width, args->groups * args->width, n, args->width, 1.0f, v, v_stride);
        gemm_rows(args->width, n, width, v, v_stride, scores, j ? piece_out : out, width, 0);
        for (i64 i = 0; j && i < args->width * width; i += LANES) /* sums of sums of pieces: smaller rounding errors */
            store(out + i, load(out + i) + load(piece_out + i));
    }
    for (i64 j = 0; j < width; j += LANES) store(sums + j, end ? 1.0f / load(sums + j) : broadcast(0.0f));
    if (end)
        transpose_out(out, width, nq, args->width, sums, args->out + out_row * args->width, args->heads * args->width, 0);
    for (i64 i = 0; args->softmax_stats && i < nq; i++) {
        args->softmax_stats[(out_row + i * args->heads) * 2] = end ? maxima[i] : 0.0f;
        args->softmax_stats[(out_row + i * args->heads) * 2 + 1] = sums[i];
    }
}

/* ---- backward pass ---- */

/* Replace scores by weights, and the gradients of the weights by those of the scores; both are (keys, queries).
   `stats` has three rows of BLOCK numbers: for each query its greatest score, 1 / sum, and the product of its output
   with the output's gradient. */
INLINE void score_gradients(
        const attn_args *args, float *weights, float *gradients, i64 width, i64 n, i64 offset, const float *stats) {
    for (i64 c = 0; c < width; c += LANES) {
        const vec maximum = load(stats + c), inverse = load(stats + BLOCK + c), out_product = load(stats + 2 * BLOCK + c);
        for (i64 i = 0; i < n; i++) {
            float *p = weights + i * width + c, *d = gradients + i * width + c;
            vec x = exp2_vec(load(p) - maximum) * inverse;
            if (args->causal && offset + i > c) x = select_vec(lanes_from(offset + i - c), x, broadcast(0.0f));
            store(p, x);
            store(d, x * (load(d) - out_product) * args->scale);
        }
    }
}

/* Add the gradients of a block of nq queries of a head and a piece of n keys of its group. `keys_t` are the
   transposed keys. */
static void attend_backward_block(
        const attn_args *args, float *scratch, const float *keys_t, i64 keys_stride, i64 query_row, i64 nq, i64 key_row, i64 n,
        i64 offset) {
    const i64 width = (nq + LANES - 1) / LANES * LANES, H = args->heads, G = args->groups, D = args->size, E = args->width;
    float *q_t = scratch, *dq_t = q_t + D * BLOCK, *q_panels = dq_t + D * BLOCK, *grad_t = q_panels + D * BLOCK;
    float *grad_panels = grad_t + E * BLOCK, *weights = grad_panels + E * BLOCK, *gradients = weights + PIECE_KEYS * BLOCK;
    float stats[3 * BLOCK] = {0}; /* see score_gradients */
    for (i64 i = 0; i < nq; i++) {
        const i64 step = query_row + i * H;
        vec sum = broadcast(0.0f);
        for (i64 c = 0; c < E; c += LANES) sum += load(args->grad_out + step * E + c) * load(args->out + step * E + c);
        stats[i] = args->softmax_stats[step * 2];
        stats[BLOCK + i] = args->softmax_stats[step * 2 + 1];
        for (int c = 0; c < LANES; c++) stats[2 * BLOCK + i] += sum[c];
    }
    transpose_in(args->q + query_row * D, H * D, nq, D, args->scale * LOG2_E, q_t, width);
    transpose_in(args->grad_out + query_row * E, H * E, nq, E, 1.0f, grad_t, width);
    pack_panels(args->q + query_row * D, H * D, nq, D, q_panels);
    pack_panels(args->grad_out + query_row * E, H * E, nq, E, grad_panels);
    gemm_rows(n, D, width, args->k + key_row * D, G * D, q_t, weights, width, 0);
    gemm_rows(n, E, width, args->v + key_row * E, G * E, grad_t, gradients, width, 0);
    score_gradients(args, weights, gradients, width, n, offset, stats);
    gemm_rows(n, nq, E, weights, width, grad_panels, args->dv + key_row * E, G * E, 1);
    gemm_rows(n, nq, D, gradients, width, q_panels, args->dk + key_row * D, G * D, 1);
    gemm_rows(D, n, width, keys_t, keys_stride, gradients, dq_t, width, 0);
    transpose_out(dq_t, width, nq, D, 0, args->dq + query_row * D, H * D, 1);
}

/* Compute the gradients of a row and a group of heads. No other unit of work adds to the gradients of these keys. */
static void attend_backward(const attn_args *args, float *scratch, i64 row, i64 group) {
    const i64 heads_per_group = args->heads / args->groups, D = args->size;
    const i64 first_query = args->query_offsets[row], first_key = args->key_offsets[row];
    const i64 queries = args->query_offsets[row + 1] - first_query, keys = args->key_offsets[row + 1] - first_key;
    const i64 queries_per_block = block_size(queries), piece = even_split(keys, PIECE_KEYS);
    const i64 keys_stride = transposed_stride(piece);
    float *keys_t = scratch + args->scratch_size - D * keys_stride;
    for (i64 head = group * heads_per_group; head < (group + 1) * heads_per_group; head++)
        zero_rows(args->dq + (first_query * args->heads + head) * D, args->heads * D, queries, D);
    zero_rows(args->dk + (first_key * args->groups + group) * D, args->groups * D, keys, D);
    zero_rows(args->dv + (first_key * args->groups + group) * args->width, args->groups * args->width, keys, args->width);
    for (i64 j = 0; j < keys; j += piece) {
        const i64 n = keys - j < piece ? keys - j : piece, key_row = (first_key + j) * args->groups + group;
        transpose_in(args->k + key_row * D, args->groups * D, n, D, 1.0f, keys_t, keys_stride);
        for (i64 head = group * heads_per_group; head < (group + 1) * heads_per_group; head++)
            for (i64 q0 = 0; q0 < queries; q0 += queries_per_block) {
                const i64 nq = queries - q0 < queries_per_block ? queries - q0 : queries_per_block;
                const i64 visible = args->causal && q0 + nq - j < n ? q0 + nq - j : n; /* keys that some query sees */
                if (visible > 0)
                    attend_backward_block(args, scratch, keys_t, keys_stride, (first_query + q0) * args->heads + head, nq,
                                          key_row, visible, j - q0);
            }
    }
}

/* ---- entry points ---- */

/* A call for torch's threads. The entry point owns it until all parts are done. */
typedef struct {
    const attn_args *args; /* the arguments, of the caller */
    int backward; /* 1 for the backward pass */
} attn_task;

/* Run the parts from `begin` to `end`. */
static void run_parts(i64 begin, i64 end, void *context) {
    const attn_task *task = context;
    const attn_args *args = task->args;
    for (i64 part = begin; part < end; part++)
        for (i64 row = 0; row < args->rows; row++) { /* the units of this row that belong to the part */
            const i64 first = args->unit_offsets[row], count = args->unit_offsets[row + 1] - first;
            const i64 unit_begin = args->part_offsets[part] > first ? args->part_offsets[part] - first : 0;
            const i64 unit_end = args->part_offsets[part + 1] - first < count ? args->part_offsets[part + 1] - first : count;
            for (i64 unit = unit_begin; unit < unit_end; unit++) {
                float *scratch = args->scratch + part * args->scratch_size;
                if (task->backward) attend_backward(args, scratch, row, unit);
                else attend_block(args, scratch, row, unit / (count / args->heads), unit % (count / args->heads));
            }
        }
}

/* Run the forward or the backward pass on torch's threads; the result is 0 if that succeeded. */
int32_t padless_attention(i64 backward, const attn_args *args, i64 parts, parallel_for each) {
    attn_task task = {args, (int)backward};
    return each(0, parts, 1, run_parts, &task);
}

/* Return how many numbers of scratch memory a part needs. */
i64 padless_attention_scratch_size(i64 size, i64 width) {
    return (2 * PIECE_KEYS + 3 * (size + width)) * BLOCK + (size > width ? size : width) * transposed_stride(PIECE_KEYS);
}
