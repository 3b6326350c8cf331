/* Vectors of float32, and products of rows, wherever they stand, with packed weights. */

#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
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

/* 2 to the power of t, to the last bit or two; below 2^-126 it may be 0, no more than 2^126, and NaN stays. */
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
    p *= (vec)(((ivec)shifted << 23) + 0x3f800000);
    return pick(t <= all(-126.0f), all(0.0f), p);
#endif
}

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

INLINE int min(i64 a, i64 b) { return (int)(a < b ? a : b); }

/* Torch runs `some` on its threads, for parts of the numbers from a first one up to a last. */
typedef int32_t (*parallel_for)(i64, i64, i64, void (*)(i64, i64, void *), void *);
