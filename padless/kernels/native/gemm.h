/* SIMD vectors of float32, and matrix products of rows with packed weights.

   A product here is: for some rows a[m] of K numbers, wherever each row is stored, out[m] = begin[m] + a[m] @
   weights. The weights are packed in panels: a panel has up to four vectors of columns, and is stored row after row,
   (K, vectors * LANES). */

#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

/* LANES: float32 in a vector. TILE_ROWS: rows whose sums fit into the registers together with four vectors of
   weights. */
#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 6
#elif defined(__AVX__)
#define LANES 8
#define TILE_ROWS 3
#else
#define LANES 4
#define TILE_ROWS 3
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* a vec anywhere in memory */
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int64_t i64;

INLINE int min(i64 a, i64 b) { return (int)(a < b ? a : b); }

/* ---- vectors ---- */

INLINE vec load(const float *p) { return (vec)*(const unaligned_vec *)p; }
INLINE void store(float *p, vec v) { *(unaligned_vec *)p = (unaligned_vec)v; }
#if LANES == 16
INLINE vec broadcast(float x) { return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#elif LANES == 8
INLINE vec broadcast(float x) { return (vec){x, x, x, x, x, x, x, x}; }
#else
INLINE vec broadcast(float x) { return (vec){x, x, x, x}; }
#endif

/* Return a in lanes where the mask is set, else b. */
INLINE vec select_vec(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* ---- up to four vectors; V is their number, known at compile time ---- */

typedef struct {
    vec v0; /* (LANES,) the first numbers of the row */
    vec v1; /* (LANES,) used if V > 1 */
    vec v2; /* (LANES,) used if V > 2 */
    vec v3; /* (LANES,) used if V > 3 */
} row;

/* Load V vectors, each `distance` numbers after the one before it. */
INLINE void load_row(const int V, row *r, const float *p, i64 distance) {
    r->v0 = load(p);
    if (V > 1) r->v1 = load(p + distance);
    if (V > 2) r->v2 = load(p + 2 * distance);
    if (V > 3) r->v3 = load(p + 3 * distance);
}
INLINE void store_row(const int V, const row *r, float *p, i64 distance) {
    store(p, r->v0);
    if (V > 1) store(p + distance, r->v1);
    if (V > 2) store(p + 2 * distance, r->v2);
    if (V > 3) store(p + 3 * distance, r->v3);
}
/* r += x * b */
INLINE void add_row(const int V, row *r, vec x, const row *b) {
    r->v0 += x * b->v0;
    if (V > 1) r->v1 += x * b->v1;
    if (V > 2) r->v2 += x * b->v2;
    if (V > 3) r->v3 += x * b->v3;
}

/* ---- products ---- */

/* out[m] = begin[m] + a[m][k_begin:k_end] @ panel[k_begin:k_end], for a tile of M rows and a panel of V vectors. The
   vectors of begin[m] are `distance` numbers apart; without `begin` the sums begin at 0. There is one
   function for each M and V, and one variable for each row of sums. So the sums stay in registers, which decides the
   speed. `prefetch_ptr` is the part of the weights that is needed soon. It is prefetched meanwhile, because large
   weights come from far away. */
typedef void (*tile_product)(
    i64 k_begin, i64 k_end, const float *const *a, const float *panel, const float *prefetch_ptr,
    const float *const *begin, i64 distance, float *const *out);

#define ROW_BEGIN(m) const float *a##m = a[m]; row r##m = {0}; if (begin) load_row(V, &r##m, begin[m], distance);
#define ROW_STEP(m) add_row(V, &r##m, broadcast(a##m[k]), &b);
#define ROW_END(m) store_row(V, &r##m, out[m], LANES);
#define ROWS_1(act) act(0)
#define ROWS_2(act) ROWS_1(act) act(1)
#define ROWS_3(act) ROWS_2(act) act(2)
#define ROWS_4(act) ROWS_3(act) act(3)
#define ROWS_5(act) ROWS_4(act) act(4)
#define ROWS_6(act) ROWS_5(act) act(5)

#define TILE_PRODUCT(M, width) \
    static __attribute__((noinline)) void tile_product_##M##_##width( \
            i64 k, i64 k_end, const float *const *a, const float *panel, const float *prefetch_ptr, \
            const float *const *begin, i64 distance, float *const *out) { \
        const int V = width; \
        ROWS_##M(ROW_BEGIN) \
        for (panel += k * V * LANES; k < k_end; k++, panel += V * LANES, prefetch_ptr += LANES) { \
            row b = {0}; \
            __builtin_prefetch(prefetch_ptr, 0, 2); \
            load_row(V, &b, panel, LANES); \
            ROWS_##M(ROW_STEP) \
        } \
        ROWS_##M(ROW_END) \
    }
#define TILE_PRODUCTS(M) TILE_PRODUCT(M, 1) TILE_PRODUCT(M, 2) TILE_PRODUCT(M, 3) TILE_PRODUCT(M, 4)
#define TABLE_ROW(M) {tile_product_##M##_1, tile_product_##M##_2, tile_product_##M##_3, tile_product_##M##_4}
TILE_PRODUCTS(1) TILE_PRODUCTS(2) TILE_PRODUCTS(3)
#if TILE_ROWS == 6
TILE_PRODUCTS(4) TILE_PRODUCTS(5) TILE_PRODUCTS(6)
static const tile_product TILE_PRODUCT_OF[TILE_ROWS][4] = {
    TABLE_ROW(1), TABLE_ROW(2), TABLE_ROW(3), TABLE_ROW(4), TABLE_ROW(5), TABLE_ROW(6)};
#else
static const tile_product TILE_PRODUCT_OF[TILE_ROWS][4] = {TABLE_ROW(1), TABLE_ROW(2), TABLE_ROW(3)};
#endif

/* DEPTH: rows of a panel that stay in the L1 cache. MAX_ROWS: rows of a in one call of `gemm`. */
enum { DEPTH = 8192 / (4 * LANES), MAX_ROWS = 8 * TILE_ROWS };

/* out[m] = begin[m] + a[m] @ panel, for n rows of K numbers and a panel of V vectors. The K rows of the panel are
   taken in pieces of DEPTH at most, so that a piece stays in the L1 cache while all rows of a are multiplied with it.
   */
INLINE void gemm(i64 n, i64 K, int V, const float *const *a, const float *panel, const float *const *begin, i64 distance,
                 float *const *out) {
    const i64 pieces = (K + DEPTH - 1) / DEPTH, depth = (K + pieces - 1) / pieces;
    for (i64 k = 0; k < K; k += depth)
        for (i64 m = 0, M, tile = 0; m < n; m += M, tile++) {
            const i64 tiles = (n - m + TILE_ROWS - 1) / TILE_ROWS;
            M = (n - m + tiles - 1) / tiles; /* tiles of nearly equal height */
            const float *prefetch_ptr = panel + ((k + depth) * V + tile * depth) * LANES; /* each tile: a V-th of the next piece */
            TILE_PRODUCT_OF[M - 1][V - 1](k, k + depth < K ? k + depth : K, a + m, panel, prefetch_ptr,
                                          k ? (const float *const *)out + m : begin ? begin + m : 0, k ? LANES : distance,
                                          out + m);
        }
}

/* Return how many of the next `remaining` rows to give to `gemm`: MAX_ROWS at most, in calls of nearly equal size. */
INLINE i64 rows_per_tile(i64 remaining) {
    const i64 calls = (remaining + MAX_ROWS - 1) / MAX_ROWS;
    return (remaining + calls - 1) / calls;
}

/* ---- threads ---- */

/* Torch's function that calls `run(begin, end, context)` on its threads, for parts of the range from `begin` to `end`
   of at least `grain` numbers; its result is not 0 if that failed. */
typedef int32_t (*parallel_for)(i64 begin, i64 end, i64 grain, void (*run)(i64, i64, void *), void *context);
