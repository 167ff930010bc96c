/* hw_pointwise.c: products of a constant matrix with channels x positions; zeros are not there. */
#include "hw_simd.h"

/* ---- pairs of rows with inputs of their own --------------------------------------------------------------------
 *
 * stream: tiles to take together, blocks, then for every block of inputs
 *     runs, first, last; for every run
 *         n, count; for every one of count pairs
 *             row0, row1 (row1 = -1: a single row); n times: offset0, offset1, weight0, weight1
 *
 * Pairs of a run have the same number of inputs, so that the inner loop's end is predicted; a block of inputs stays in
 * the first-level cache while all rows use it. offset: floats from x, row: number of the output. */

HW_INLINE float hw_bits(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define HW_EACH(v) HW_UNROLL for (int v = 0; v < V; v++)

/* Stores a row of accumulators through the epilogue; the branch on the activation stands outside of the loop. */
#define HW_FINISH_AS(kind) \
    case kind: HW_EACH(v) hw_store(y + v * HW_VL, hw_activate(acc[v], kind)); break;

HW_TEMPLATE void hw_finish(hw_vec *acc, float *y, const float *residual, int act, const int V)
{
    if (residual)
        HW_EACH(v) acc[v] = hw_add(acc[v], hw_load(residual + v * HW_VL));
    switch (act) {
        HW_FINISH_AS(HW_RELU)
        HW_FINISH_AS(HW_HSWISH)
    case HW_NONE: HW_EACH(v) hw_store(y + v * HW_VL, acc[v]); break;
    default: /* long ones in a loop, over memory: an index into acc would keep all of acc out of the registers */
        HW_EACH(v) hw_store(y + v * HW_VL, acc[v]);
        hw_unary(y, y, (size_t)V * HW_VL, act);
    }
}

HW_INLINE hw_epilogue hw_epilogue_at(hw_epilogue then, ptrdiff_t offset)
{
    if (then.residual)
        then.residual += offset;
    return then;
}

/* One pair of rows on one tile. A row that is left over is paired with itself and written twice. */
HW_TEMPLATE void hw_pair(const float *x, float *y0, float *y1, const int32_t *s, const int32_t *end, float bias0,
                         float bias1, int first, int last, const float *residual0, const float *residual1, int act,
                         const int V)
{
    hw_vec a[HW_TILE], b[HW_TILE];
    if (first) {
        HW_EACH(v) a[v] = hw_set(bias0);
        HW_EACH(v) b[v] = hw_set(bias1);
    } else {
        HW_EACH(v) a[v] = hw_load(y0 + v * HW_VL);
        HW_EACH(v) b[v] = hw_load(y1 + v * HW_VL);
    }
    for (; s != end; s += 4) {
        const float *x0 = x + s[0], *x1 = x + s[1];
        hw_vec w0 = hw_set(hw_bits(s[2])), w1 = hw_set(hw_bits(s[3]));
        HW_EACH(v) a[v] = hw_fma(w0, hw_load(x0 + v * HW_VL), a[v]);
        HW_EACH(v) b[v] = hw_fma(w1, hw_load(x1 + v * HW_VL), b[v]);
    }
    if (last) {
        hw_finish(a, y0, residual0, act, V);
        hw_finish(b, y1, residual1, act, V);
    } else {
        HW_EACH(v) hw_store(y0 + v * HW_VL, a[v]);
        HW_EACH(v) hw_store(y1 + v * HW_VL, b[v]);
    }
}

HW_TEMPLATE const int32_t *hw_pairs_block(const float *x, float *y, const int32_t *s, int stride, hw_epilogue then,
                                          int tiles, const int V)
{
    int runs = s[0], first = s[1], last = s[2];
    s += 3;
    for (; runs; runs--) {
        int n = s[0], count = s[1];
        s += 2;
        for (; count; count--) {
            size_t at0 = (size_t)s[0] * stride, at1 = (size_t)s[1] * stride;
            float bias0 = then.bias[s[0]], bias1 = then.bias[s[1]];
            const int32_t *begin = s + 2, *end = begin + 4 * (ptrdiff_t)n;
            for (int at = 0; at < tiles * V * HW_VL; at += V * HW_VL)
                hw_pair(x + at, y + at0 + at, y + at1 + at, begin, end, bias0, bias1, first, last,
                        then.residual ? then.residual + at0 + at : NULL,
                        then.residual ? then.residual + at1 + at : NULL, then.act, V);
            s = end;
        }
    }
    return s;
}

#define HW_PAIRS_TILE(V)                                                                                      \
    static void hw_pairs_##V(const float *x, float *y, const int32_t *s, int stride, hw_epilogue then, int tiles) \
    {                                                                                                         \
        int blocks = *s++;                                                                                    \
        for (; blocks; blocks--)                                                                              \
            s = hw_pairs_block(x, y, s, stride, then, tiles, V);                                              \
    }
HW_PAIRS_TILE(1)
HW_PAIRS_TILE(2)
HW_PAIRS_TILE(3)
HW_PAIRS_TILE(4)
HW_PAIRS_TILE(5)
HW_PAIRS_TILE(6)
HW_PAIRS_TILE(7)

typedef void hw_tile(const float *x, float *y, const int32_t *stream, int stride, hw_epilogue then, int tiles);

/* Calls a kernel for tiles of nearly equal width, at most `most` vectors; up to `together` tiles of the same width at
 * once: long rows of few channels are then read and written in long pieces. */
static void hw_tiled(hw_tile *const *kernels, int most, int together, const float *x, float *y, const int32_t *stream,
                     int vectors, int stride, hw_epilogue then)
{
    int count = (vectors + most - 1) / most, wide = vectors % count, width = vectors / count;
    /* `wide` tiles of width + 1, then the others. */
    ptrdiff_t at = 0;
    for (int done = 0; done < count;) {
        int here = done < wide ? width + 1 : width, tiles = (done < wide ? wide : count) - done;
        tiles = tiles < together ? tiles : together;
        kernels[here](x + at, y + at, stream, stride, hw_epilogue_at(then, at), tiles);
        at += (ptrdiff_t)tiles * here * HW_VL;
        done += tiles;
    }
}

void hw_pairs(const float *x, float *y, const int32_t *stream, int vectors, int stride, hw_epilogue then)
{
    static hw_tile *const tiles[HW_TILE + 1] = {NULL,       hw_pairs_1, hw_pairs_2, hw_pairs_3,
                                                hw_pairs_4, hw_pairs_5, hw_pairs_6, hw_pairs_7};
    hw_tiled(tiles, HW_TILE, stream[0], x, y, stream + 1, vectors, stride, then);
}

/* ---- groups of rows that share their inputs -----------------------------------------------------------------
 *
 * stream: tiles to take together, groups; for every group
 *     row, rows (1 to HW_GROUP), n; n times: offset, HW_GROUP weights (those of missing rows are 0) */

#if HW_VL == 16
#define HW_GROUP_TILE 6
#else
#define HW_GROUP_TILE 3
#endif

HW_TEMPLATE void hw_group(const float *x, float *y, const int32_t *s, const int32_t *end, int row, int rows, int stride,
                          hw_epilogue then, const int V)
{
    hw_vec acc[HW_GROUP][HW_GROUP_TILE];
    HW_UNROLL
    for (int r = 0; r < HW_GROUP; r++) {
        hw_vec bias = hw_set(then.bias[row + (r < rows ? r : 0)]);
        HW_EACH(v) acc[r][v] = bias;
    }
    for (; s != end; s += 1 + HW_GROUP) {
        const float *from = x + s[0];
        hw_vec in[HW_GROUP_TILE];
        HW_EACH(v) in[v] = hw_load(from + v * HW_VL);
        HW_UNROLL
        for (int r = 0; r < HW_GROUP; r++) {
            hw_vec w = hw_set(hw_bits(s[1 + r]));
            HW_EACH(v) acc[r][v] = hw_fma(w, in[v], acc[r][v]);
        }
    }
    HW_UNROLL
    for (int r = 0; r < HW_GROUP; r++) {
        size_t at = (size_t)(row + r) * stride;
        if (r < rows)
            hw_finish(acc[r], y + at, then.residual ? then.residual + at : NULL, then.act, V);
    }
}

HW_TEMPLATE void hw_groups_tiles(const float *x, float *y, const int32_t *s, int stride, hw_epilogue then, int tiles,
                                 const int V)
{
    int groups = *s++;
    for (; groups; groups--) {
        const int32_t *begin = s + 3, *end = begin + (1 + HW_GROUP) * (ptrdiff_t)s[2];
        for (int tile = 0; tile < tiles; tile++)
            hw_group(x + tile * V * HW_VL, y + tile * V * HW_VL, begin, end, s[0], s[1], stride,
                     hw_epilogue_at(then, tile * V * HW_VL), V);
        s = end;
    }
}

#define HW_GROUPS_TILE(V)                                                                                      \
    static void hw_groups_##V(const float *x, float *y, const int32_t *s, int stride, hw_epilogue then, int tiles) \
    {                                                                                                          \
        hw_groups_tiles(x, y, s, stride, then, tiles, V);                                                      \
    }
HW_GROUPS_TILE(1)
HW_GROUPS_TILE(2)
HW_GROUPS_TILE(3)
#if HW_GROUP_TILE == 6
HW_GROUPS_TILE(4)
HW_GROUPS_TILE(5)
HW_GROUPS_TILE(6)
#endif

void hw_groups(const float *x, float *y, const int32_t *stream, int vectors, int stride, hw_epilogue then)
{
    static hw_tile *const tiles[HW_GROUP_TILE + 1] = {
        NULL, hw_groups_1, hw_groups_2, hw_groups_3,
#if HW_GROUP_TILE == 6
        hw_groups_4, hw_groups_5, hw_groups_6,
#endif
    };
    hw_tiled(tiles, HW_GROUP_TILE, stream[0], x, y, stream + 1, vectors, stride, then);
}

/* ---- one position ---------------------------------------------------------------------------------------------- */

/* y = activation(y + residual), y holding sums with bias. */
static void hw_finish_vector(float *y, int rows, const float *residual, int act)
{
    if (!residual && act == HW_NONE)
        return;
    for (int i = 0; i < rows; i += HW_VL) {
        int left = rows - i < HW_VL ? rows - i : HW_VL;
        float lanes[HW_VL] = {0}, more[HW_VL] = {0};
        memcpy(lanes, y + i, sizeof(float) * (size_t)left);
        if (residual)
            memcpy(more, residual + i, sizeof(float) * (size_t)left);
        hw_store(lanes, hw_activate(hw_add(hw_load(lanes), hw_load(more)), act));
        memcpy(y + i, lanes, sizeof(float) * (size_t)left);
    }
}

/* stream: for every row n, (n + 1) / 2 words of two columns of 16 bits each, n weights: 6 bytes for a non-zero, since
 * large classifiers are read from memory as fast as it gives them. */
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize"))) /* GCC would shuffle columns and weights into vectors: 1.6 times the time */
#endif
void hw_sparse_vector(const float *x, float *y, const int32_t *s, int rows, hw_epilogue then)
{
    for (int row = 0; row < rows; row++) {
        int n = *s++;
        const int32_t *w = s + (n + 1) / 2;
        float a = then.bias[row], b = 0.0f, c = 0.0f, d = 0.0f;
        for (; n >= 4; n -= 4, s += 2, w += 4) {
            uint32_t two = (uint32_t)s[0], more = (uint32_t)s[1];
            a += hw_bits(w[0]) * x[two & 0xffff];
            b += hw_bits(w[1]) * x[two >> 16];
            c += hw_bits(w[2]) * x[more & 0xffff];
            d += hw_bits(w[3]) * x[more >> 16];
        }
        for (; n >= 2; n -= 2, s++, w += 2) {
            uint32_t two = (uint32_t)s[0];
            a += hw_bits(w[0]) * x[two & 0xffff];
            b += hw_bits(w[1]) * x[two >> 16];
        }
        if (n) {
            c += hw_bits(*w++) * x[(uint32_t)*s & 0xffff];
        }
        s = w;
        y[row] = (a + b) + (c + d);
    }
    hw_finish_vector(y, rows, then.residual, then.act);
}

void hw_dense_vector(const float *x, float *y, const float *weight, int rows, int columns, hw_epilogue then)
{
    int whole = columns / HW_VL * HW_VL, row = 0;
    for (; row + 4 <= rows; row += 4) {
        const float *w0 = weight + (size_t)row * columns, *w1 = w0 + columns, *w2 = w1 + columns, *w3 = w2 + columns;
        hw_vec a = hw_set(0.0f), b = a, c = a, d = a;
        for (int i = 0; i < whole; i += HW_VL) {
            hw_vec in = hw_load(x + i);
            a = hw_fma(hw_load(w0 + i), in, a);
            b = hw_fma(hw_load(w1 + i), in, b);
            c = hw_fma(hw_load(w2 + i), in, c);
            d = hw_fma(hw_load(w3 + i), in, d);
        }
        float sums[4] = {hw_sum(a), hw_sum(b), hw_sum(c), hw_sum(d)};
        for (int i = whole; i < columns; i++) {
            sums[0] += w0[i] * x[i];
            sums[1] += w1[i] * x[i];
            sums[2] += w2[i] * x[i];
            sums[3] += w3[i] * x[i];
        }
        for (int r = 0; r < 4; r++)
            y[row + r] = sums[r] + then.bias[row + r];
    }
    for (; row < rows; row++) {
        const float *w = weight + (size_t)row * columns;
        hw_vec a = hw_set(0.0f);
        for (int i = 0; i < whole; i += HW_VL)
            a = hw_fma(hw_load(w + i), hw_load(x + i), a);
        float sum = hw_sum(a);
        for (int i = whole; i < columns; i++)
            sum += w[i] * x[i];
        y[row] = sum + then.bias[row];
    }
    hw_finish_vector(y, rows, then.residual, then.act);
}
