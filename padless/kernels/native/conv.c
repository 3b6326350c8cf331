/* Convolution of a line of steps: products of windows with the kernel, without a copy of the windows. Called by
   kernels/conv/native.py. */

#include "gemm.h"

/* The arguments of a call. The caller owns all memory; the kernel writes `out` only. */
typedef struct {
    i64 window_size; /* numbers in a window: kernel size * channels */
    i64 window_stride; /* numbers from the beginning of a window to that of the next */
    i64 filters; /* outputs of a window, a multiple of LANES */
    const i64 *window_numbers; /* (windows,) the windows to compute; null for all of them */
    const float *line; /* the numbers of all steps */
    const float *weight_panels; /* (window_size, filters) in panels, see gemm.h */
    const float *bias; /* (filters,) or null */
    float *out; /* (windows, filters) */
} conv_args;

/* Compute the windows from `begin` to `end`. */
static void conv_windows(i64 begin, i64 end, void *context) {
    const conv_args *args = context;
    const float *windows[MAX_ROWS], *bias[MAX_ROWS];
    float *out[MAX_ROWS];
    for (i64 w = begin, n; w < end; w += n) {
        n = rows_per_tile(end - w);
        for (i64 j = 0; j < args->filters; j += 4 * LANES) {
            for (i64 m = 0; m < n; m++) {
                windows[m] = args->line + (args->window_numbers ? args->window_numbers[w + m] : w + m) * args->window_stride;
                bias[m] = args->bias + j;
                out[m] = args->out + (w + m) * args->filters + j;
            }
            gemm(n, args->window_size, min(4, (args->filters - j) / LANES), windows,
                 args->weight_panels + j * args->window_size, args->bias ? bias : 0, LANES, out);
        }
    }
}

/* Compute `count` windows on torch's threads; the result is 0 if that succeeded. */
int32_t padless_conv(i64 count, const conv_args *args, parallel_for each) {
    return each(0, count, MAX_ROWS, conv_windows, (void *)args);
}
