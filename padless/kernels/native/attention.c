/* Attention of packed queries to the packed keys of their own row, float32; forward and backward.

   All is turned round: a vector holds LANES queries of a row, and scores stand as (keys, queries). So maxima, sums and
   powers need no step across a vector, keys and values are multiplied where they lie, and the scores are the panel of the
   product after. A block of up to four vectors of queries meets its keys in pieces that stay in the second cache; a
   query's maximum and sum are carried from piece to piece. The way back makes the scores again.

   What the caller passes is checked and laid out in attend_compiled.py. */

#include "gemm.h"

enum { KEYS = 512, BLOCK = 4 * LANES };

/* What a call works on: queries (steps, heads, size), keys (steps, groups, size), values (steps, groups, width). */
typedef struct {
    i64 rows, heads, groups, size, width, causal, room; /* numbers of scratch for a part */
    const i64 *queries, *keys; /* of each row its first step, and one number more */
    const i64 *units, *cuts; /* rows: their first unit of work, and one number more; parts: likewise */
    const float *q, *k, *v;
    float *out, *kept; /* of each query and head its greatest score and 1 / sum, if someone wants them for the way back */
    const float *upstream;
    float *dq, *dk, *dv, *scratch;
    float scale;
} seeing;

/* Blocks of queries, and pieces of keys, are cut as evenly as whole vectors allow. */
INLINE i64 apiece(i64 n, i64 most) {
    const i64 pieces = (n + most - 1) / most;
    return pieces ? (n + pieces - 1) / pieces : 0;
}
INLINE i64 block_of(i64 queries) { return apiece((queries + LANES - 1) / LANES, 4) * LANES; }

/* Rows that are turned have whole vectors, and one more, so that they do not all fall on the same lines of the cache. */
INLINE i64 turned_apart(i64 n) { return (n + LANES - 1) / LANES * LANES + LANES; }

#if defined(__clang__) || LANES < 8
INLINE vec low(vec a, vec b) { vec r; for (int i = 0; i < LANES; i++) r[i] = i % 2 ? b[i / 2] : a[i / 2]; return r; }
INLINE vec high(vec a, vec b) {
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = i % 2 ? b[(LANES + i) / 2] : a[(LANES + i) / 2];
    return r;
}
#elif LANES == 16
INLINE vec low(vec a, vec b) {
    return __builtin_shuffle(a, b, (ivec){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
INLINE vec high(vec a, vec b) {
    return __builtin_shuffle(a, b, (ivec){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}
#else
INLINE vec low(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){0, 8, 1, 9, 2, 10, 3, 11}); }
INLINE vec high(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){4, 12, 5, 13, 6, 14, 7, 15}); }
#endif

/* A square of vectors, rows for columns: shuffled like cards as often as it takes. */
INLINE void transpose(vec *x) {
    vec y[LANES];
    for (int step = 1; step < LANES; step *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = low(x[i], x[i + LANES / 2]);
            y[2 * i + 1] = high(x[i], x[i + LANES / 2]);
        }
        memcpy(x, y, sizeof y);
    }
}

/* n rows of so many columns, `stride` numbers from one to the next, become rows of n, filled up with zeros to whole vectors. */
static void turn(const float *from, i64 stride, i64 n, i64 columns, float factor, float *to, i64 apart) {
    for (i64 c = 0; c < columns; c += LANES)
        for (i64 r = 0; r < n; r += LANES) {
            vec x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = r + i < n ? load(from + (r + i) * stride + c) * factor : all(0.0f);
            transpose(x);
            for (int i = 0; i < LANES; i++) store(to + (c + i) * apart + r, x[i]);
        }
}

/* And back, each of the n rows times a factor of its own; in place of what is there, or added to it. */
static void turn_back(
        const float *from, i64 apart, i64 n, i64 columns, const float *factors, float *to, i64 stride, int adds) {
    for (i64 c = 0; c < columns; c += LANES)
        for (i64 r = 0; r < n; r += LANES) {
            vec x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = load(from + (c + i) * apart + r);
            for (int i = 0; factors && i < LANES; i++) x[i] *= load(factors + r);
            transpose(x);
            for (int i = 0; i < LANES && r + i < n; i++) {
                float *place = to + (r + i) * stride + c;
                store(place, adds ? load(place) + x[i] : x[i]);
            }
        }
}

/* n rows as panels of up to four vectors. */
static void lay(const float *from, i64 stride, i64 n, i64 columns, float *to) {
    for (i64 c = 0; c < columns; c += BLOCK)
        for (i64 r = 0; r < n; r++)
            for (i64 j = c; j < columns && j < c + BLOCK; j += LANES, to += LANES) store(to, load(from + r * stride + j));
}

/* n rows, `stride` apart, times panels: so many columns in place of what is there, or added to it. */
static void meet(i64 n, i64 K, i64 columns, const float *a, i64 stride, const float *panels, float *to, i64 apart, int adds) {
    for (i64 c = 0; c < columns; c += BLOCK)
        for (i64 m = 0, many; m < n; m += many) {
            const float *rows[MANY];
            float *sums[MANY];
            many = together(n - m);
            for (i64 i = 0; i < many; i++) {
                rows[i] = a + (m + i) * stride;
                sums[i] = to + (m + i) * apart + c;
            }
            multiply(many, K, min(4, (columns - c) / LANES), rows, panels + c * K, adds ? (const float *const *)sums : 0,
                     LANES, sums);
        }
}

/* Which lanes are those of queries from this number on. */
INLINE ivec from_on(i64 number) {
    ivec lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    return lanes >= (int32_t)(number < LANES ? number : LANES);
}

INLINE vec larger(vec a, vec b) { return pick(a > b, a, b); }
static void zero(float *to, i64 stride, i64 n, i64 columns) {
    for (i64 i = 0; i < n; i++) memset(to + i * stride, 0, columns * sizeof(float));
}

/* Scores of n keys become weights, not yet divided by their sum; for a vector of queries at a time. Of keys that are `ahead`
   of the first query some lanes may not see: number by number one lane more. Returns by what earlier sums shrink. */
INLINE vec weigh(float *scores, i64 width, i64 n, i64 ahead, int causal, vec *most, vec *sum) {
    const vec before = *most, least = all(-__builtin_inff());
    vec found = before, total = all(0.0f);
    for (i64 i = 0; i < n; i++) {
        const vec x = load(scores + i * width);
        found = larger(causal && ahead + i > 0 ? pick(from_on(ahead + i), x, least) : x, found);
    }
    const vec base = pick(found == least, all(0.0f), found); /* a greater one may come in a later piece */
    for (i64 i = 0; i < n; i++) {
        vec p = power(load(scores + i * width) - base);
        if (causal && ahead + i > 0) p = pick(from_on(ahead + i), p, all(0.0f));
        store(scores + i * width, p);
        total += p;
    }
    const vec shrunk = power(before - base);
    *most = found;
    *sum = *sum * shrunk + total;
    return shrunk;
}

/* A block of queries of a row and a head. */
static void see(const seeing *w, float *scratch, i64 row, i64 head, i64 block) {
    const i64 group = head / (w->heads / w->groups), first = w->queries[row], key = w->keys[row];
    const i64 per = block_of(w->queries[row + 1] - first), q0 = block * per;
    const i64 left = w->queries[row + 1] - first - q0, nq = left < per ? left : per;
    const i64 V = (nq + LANES - 1) / LANES, width = V * LANES, keys = w->keys[row + 1] - key;
    const i64 end = w->causal && q0 + nq < keys ? q0 + nq : keys, piece = apiece(end, KEYS), apart = turned_apart(piece);
    const i64 at = ((first + q0) * w->heads + head);
    float *q = scratch, *scores = q + w->size * BLOCK, *out = scores + KEYS * BLOCK;
    float *piece_out = out + w->width * BLOCK, *v = piece_out + w->width * BLOCK;
    float most[BLOCK], sums[BLOCK];
    if (!end) zero(w->out + at * w->width, w->heads * w->width, nq, w->width);
    turn(w->q + at * w->size, w->heads * w->size, nq, w->size, w->scale * 1.44269504f, q, width);
    for (i64 j = 0; j < width; j += LANES) {
        store(most + j, all(-__builtin_inff()));
        store(sums + j, all(0.0f));
    }
    for (i64 j = 0, n; j < end; j += n) {
        n = end - j < piece ? end - j : piece;
        const i64 place = (key + j) * w->groups + group;
        meet(n, w->size, width, w->k + place * w->size, w->groups * w->size, q, scores, width, 0);
        for (i64 c = 0; c < width; c += LANES) {
            vec m = load(most + c), sum = load(sums + c);
            const vec shrunk = weigh(scores + c, width, n, j - q0 - c, (int)w->causal, &m, &sum);
            store(most + c, m);
            store(sums + c, sum);
            for (i64 i = 0; j && i < w->width; i++) store(out + i * width + c, load(out + i * width + c) * shrunk);
        }
        turn(w->v + place * w->width, w->groups * w->width, n, w->width, 1.0f, v, apart);
        meet(w->width, n, width, v, apart, scores, j ? piece_out : out, width, 0);
        for (i64 i = 0; j && i < w->width * width; i += LANES) /* sums of sums: fewer steps in a row to round at */
            store(out + i, load(out + i) + load(piece_out + i));
    }
    for (i64 j = 0; j < width; j += LANES) store(sums + j, end ? 1.0f / load(sums + j) : all(0.0f));
    if (end) turn_back(out, width, nq, w->width, sums, w->out + at * w->width, w->heads * w->width, 0);
    for (i64 i = 0; w->kept && i < nq; i++) {
        w->kept[(at + i * w->heads) * 2] = end ? most[i] : 0.0f;
        w->kept[(at + i * w->heads) * 2 + 1] = sums[i];
    }
}

/* Weights again from scores, (keys, queries), and in place of what upstream gives to weights the slopes of the scores. */
INLINE void slope(const seeing *w, float *weights, float *slopes, i64 width, i64 n, i64 ahead, const float *kept) {
    for (i64 c = 0; c < width; c += LANES) {
        const vec most = load(kept + c), inverse = load(kept + BLOCK + c), own = load(kept + 2 * BLOCK + c);
        for (i64 i = 0; i < n; i++) {
            float *p = weights + i * width + c, *d = slopes + i * width + c;
            vec x = power(load(p) - most) * inverse;
            if (w->causal && ahead + i > c) x = pick(from_on(ahead + i - c), x, all(0.0f));
            store(p, x);
            store(d, x * (load(d) - own) * w->scale);
        }
    }
}

/* The way back of n keys of a row and group, beside a block of queries of a head; `keys` are turned. */
static void see_back_block(
        const seeing *w, float *scratch, const float *keys, i64 apart, i64 at, i64 nq, i64 place, i64 n, i64 ahead) {
    const i64 V = (nq + LANES - 1) / LANES, width = V * LANES, H = w->heads, G = w->groups, D = w->size, E = w->width;
    float *q = scratch, *dq = q + D * BLOCK, *laid_q = dq + D * BLOCK, *up = laid_q + D * BLOCK, *laid_up = up + E * BLOCK;
    float *weights = laid_up + E * BLOCK, *slopes = weights + KEYS * BLOCK;
    float kept[3 * BLOCK] = {0}; /* of each query its greatest score, 1 / sum, and what upstream and the output make */
    for (i64 i = 0; i < nq; i++) {
        const i64 step = at + i * H;
        vec sum = all(0.0f);
        for (i64 c = 0; c < E; c += LANES) sum += load(w->upstream + step * E + c) * load(w->out + step * E + c);
        kept[i] = w->kept[step * 2];
        kept[BLOCK + i] = w->kept[step * 2 + 1];
        for (int c = 0; c < LANES; c++) kept[2 * BLOCK + i] += sum[c];
    }
    turn(w->q + at * D, H * D, nq, D, w->scale * 1.44269504f, q, width);
    turn(w->upstream + at * E, H * E, nq, E, 1.0f, up, width);
    lay(w->q + at * D, H * D, nq, D, laid_q);
    lay(w->upstream + at * E, H * E, nq, E, laid_up);
    meet(n, D, width, w->k + place * D, G * D, q, weights, width, 0);
    meet(n, E, width, w->v + place * E, G * E, up, slopes, width, 0);
    slope(w, weights, slopes, width, n, ahead, kept);
    meet(n, nq, E, weights, width, laid_up, w->dv + place * E, G * E, 1);
    meet(n, nq, D, slopes, width, laid_q, w->dk + place * D, G * D, 1);
    meet(D, n, width, keys, apart, slopes, dq, width, 0);
    turn_back(dq, width, nq, D, 0, w->dq + at * D, H * D, 1);
}

/* The way back of a row and a group of heads: nobody else adds to its keys. */
static void see_back(const seeing *w, float *scratch, i64 row, i64 group) {
    const i64 times = w->heads / w->groups, first = w->queries[row], key = w->keys[row], D = w->size;
    const i64 queries = w->queries[row + 1] - first, count = w->keys[row + 1] - key;
    const i64 per = block_of(queries), piece = apiece(count, KEYS), apart = turned_apart(piece);
    float *keys = scratch + w->room - D * apart;
    for (i64 head = group * times; head < (group + 1) * times; head++)
        zero(w->dq + (first * w->heads + head) * D, w->heads * D, queries, D);
    zero(w->dk + (key * w->groups + group) * D, w->groups * D, count, D);
    zero(w->dv + (key * w->groups + group) * w->width, w->groups * w->width, count, w->width);
    for (i64 j = 0; j < count; j += piece) {
        const i64 n = count - j < piece ? count - j : piece, place = (key + j) * w->groups + group;
        turn(w->k + place * D, w->groups * D, n, D, 1.0f, keys, apart);
        for (i64 head = group * times; head < (group + 1) * times; head++)
            for (i64 q0 = 0; q0 < queries; q0 += per) {
                const i64 nq = queries - q0 < per ? queries - q0 : per;
                const i64 seen = w->causal && q0 + nq - j < n ? q0 + nq - j : n;
                if (seen > 0)
                    see_back_block(w, scratch, keys, apart, (first + q0) * w->heads + head, nq, place, seen, j - q0);
            }
    }
}

typedef struct { const seeing *job; int backward; } order;

static void some(i64 from, i64 to, void *context) {
    const order *o = context;
    const seeing *w = o->job;
    for (i64 part = from; part < to; part++)
        for (i64 row = 0; row < w->rows; row++) {
            const i64 first = w->units[row], count = w->units[row + 1] - first;
            const i64 begin = w->cuts[part] > first ? w->cuts[part] - first : 0;
            const i64 end = w->cuts[part + 1] - first < count ? w->cuts[part + 1] - first : count;
            for (i64 unit = begin; unit < end; unit++) {
                float *scratch = w->scratch + part * w->room;
                if (o->backward) see_back(w, scratch, row, unit);
                else see(w, scratch, row, unit / (count / w->heads), unit % (count / w->heads));
            }
        }
}

int32_t padless_attend(i64 backward, const seeing *job, i64 parts, parallel_for each) {
    order o = {job, (int)backward};
    return each(0, parts, 1, some, &o);
}

/* Numbers of scratch that a part needs. */
i64 padless_attend_room(i64 size, i64 width) {
    return (2 * KEYS + 3 * (size + width)) * BLOCK + (size > width ? size : width) * turned_apart(KEYS);
}
