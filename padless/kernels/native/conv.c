/* A convolution: the products of windows over a line of steps with its kernel, nothing copied. kernels/conv/taps.py calls it. */

#include "gemm.h"

/* Windows over a line: the products of `size` numbers with packed weights. A window begins `apart` numbers further than the
   one before it; those that are `chosen` by number, where not all are wanted. */
typedef struct {
    i64 size, apart, columns;
    const i64 *chosen;
    const float *line, *packed, *bias;
    float *to;
} sliding;

static void slide(i64 from, i64 to, void *context) {
    const sliding *w = context;
    const float *a[MANY], *first[MANY];
    float *sums[MANY];
    for (i64 s = from, n; s < to; s += n) {
        n = together(to - s);
        for (i64 j = 0; j < w->columns; j += 4 * LANES) {
            for (i64 m = 0; m < n; m++) {
                a[m] = w->line + (w->chosen ? w->chosen[s + m] : s + m) * w->apart;
                first[m] = w->bias + j;
                sums[m] = w->to + (s + m) * w->columns + j;
            }
            multiply(n, w->size, min(4, (w->columns - j) / LANES), a, w->packed + j * w->size, w->bias ? first : 0, LANES,
                     sums);
        }
    }
}

int32_t padless_windows(i64 count, const sliding *windows, parallel_for each) {
    return each(0, count, MANY, slide, (void *)windows);
}
