/* Activations of SIMD vectors of float32: tanh, sigmoid and powers of 2.

   tanh and sigmoid are within 3 units in the last place (ulp) of the exact value for every float32. The mean of the
   errors is 0.01 ulp at most, so they do not add up over many steps. From a number to the next one the result
   decreases by 2 ulp at most. tanh is odd bit by bit, and tanh(0) is 0, so a small state keeps its relative
   precision. Both functions reach 1 exactly, so a saturated gate has the slope 0. NaN stays NaN.

   x is split into n * log(2) and a remainder r of at most log(2) / 2. The power of 2 is made from the bits of n, and e^r
   is a polynomial. Its coefficients have the smallest greatest relative error, each rounded to float32. */

#pragma once
#include "gemm.h"

typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

/* Return the smaller (greater) of a number and x; NaN if x is NaN. */
#if LANES == 16
INLINE vec at_most(float number, vec x) { return (vec)_mm512_min_ps((__m512)broadcast(number), (__m512)x); }
INLINE vec at_least(float number, vec x) { return (vec)_mm512_max_ps((__m512)broadcast(number), (__m512)x); }
#elif LANES == 8
INLINE vec at_most(float number, vec x) { return (vec)_mm256_min_ps((__m256)broadcast(number), (__m256)x); }
INLINE vec at_least(float number, vec x) { return (vec)_mm256_max_ps((__m256)broadcast(number), (__m256)x); }
#else
INLINE vec at_most(float number, vec x) { return select_vec(x > broadcast(number), broadcast(number), x); }
INLINE vec at_least(float number, vec x) { return select_vec(x < broadcast(number), broadcast(number), x); }
#endif

/* Return a / b for b from 1 to 2^64. With AVX-512 a division takes as long as twenty products. So a quotient by an
   estimate is corrected by its remainder: the error of the estimate is squared, below 2^-27. */
#if LANES == 16
INLINE vec divide(vec a, vec b) {
    const vec estimate = (vec)_mm512_rcp14_ps((__m512)b), quotient = a * estimate;
    const vec remainder = (vec)_mm512_fnmadd_ps((__m512)quotient, (__m512)b, (__m512)a); /* rounded once, or it is 0 */
    return quotient + estimate * remainder;
}
#else
INLINE vec divide(vec a, vec b) { return a / b; }
#endif

/* Adding ROUND to a number of at most 2^21 rounds it to a whole number n, and leaves n in the last bits. */
#define ROUND 12582912.0f /* 1.5 * 2^23 */

/* Return tanh(x) = s / (s + 1), where s = (e^2a - 1) / 2 and a = |x|. s is exact for small a, because e^2a - 1 is
   computed as 2^n * (e^2r - 1) + (2^n - 1). */
INLINE vec tanh_vec(vec x) {
    const uvec sign = (uvec)x & 0x80000000u;
    const vec a = at_most(10.0f, (vec)((uvec)x ^ sign)); /* tanh(10) is 1 in float32 */
    const vec shifted = a * 2.88539008f + (ROUND + 127); /* 2 / log(2); 127 is the bias of exponents */
    const vec r = a - (shifted - (ROUND + 127)) * 0.34657359f; /* log(2) / 2 */
    const vec power = (vec)((uvec)shifted << 23);
    vec p = r * 0.0446289703f + 0.13386631f;
    p = p * r + 0.333330244f;
    p = p * r + 0.66666168f;
    p = p * r + 1.0f;
    const vec s = power * (r + r * r * p) + (power * 0.5f - 0.5f);
    return (vec)((uvec)divide(s, s + 1.0f) | sign);
}

/* Return sigmoid(x): 1 / (1 + e) for positive x and e / (1 + e) for negative x, where e = e^-|x|. */
INLINE vec sigmoid(vec x) {
    const vec a = at_least(-104.0f, (vec)((uvec)x | 0x80000000u)); /* e^-104 is 0 in float32 */
    const vec shifted = a * 1.44269504f + (ROUND + 191); /* 64 more than the bias: 2^(n + 64) is not denormal */
    const vec n = shifted - (ROUND + 191);
    const vec r = a - n * 0.693359375f + n * 2.12194440e-4f; /* log(2) in two parts: the first product is exact */
    vec p = r * 1.38144672e-3f + 8.36878084e-3f;
    p = p * r + 4.16683927e-2f;
    p = p * r + 0.166665196f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vec e = p * (vec)((uvec)shifted << 23) * 0x1p-64f;
    return divide(select_vec((ivec)x >> 31, e, broadcast(1.0f)), 1.0f + e);
}

/* Return 2^t within 2 ulp. It is 2^126 at most, may be 0 where 2^t is below the normal numbers, and is NaN for NaN. */
#if LANES == 16
INLINE vec exp2_vec(vec t) {
    t = at_most(126.0f, t);
    const vec fraction = (vec)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec whole = t - fraction;
#else
INLINE vec exp2_vec(vec t) {
    t = at_least(-127.0f, at_most(126.0f, t));
    const vec shifted = t + (ROUND + 127), fraction = t - (shifted - (ROUND + 127));
#endif
    vec p = broadcast(1.5345813e-4f); /* of degree 6, fitted to 2^fraction between -1/2 and 1/2 */
    p = p * fraction + broadcast(1.3399931e-3f);
    p = p * fraction + broadcast(9.6184891e-3f);
    p = p * fraction + broadcast(5.5503286e-2f);
    p = p * fraction + broadcast(2.4022646e-1f);
    p = p * fraction + broadcast(6.9314718e-1f);
    p = p * fraction + broadcast(1.0f);
#if LANES == 16
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * (vec)((uvec)shifted << 23); /* for -127 the bits are those of 0 */
#endif
}
