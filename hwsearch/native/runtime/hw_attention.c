/* hw_attention.c: scores, softmax and context of each head; vectors go over queries, so nothing is transposed. */
#include "hw_simd.h"

#define HW_KEYS 4 /* keys, or features of the context, at a time */

/* out[r] += sum over i of a[r + i * step] * x[i * stride + ...]: R rows of results, V vectors of queries. */
HW_TEMPLATE void hw_small_product(const float *a, size_t row, size_t step, const float *x, int stride, int count,
                                  hw_vec acc[HW_KEYS][2], const int R, const int V)
{
    HW_UNROLL
    for (int r = 0; r < R; r++)
        HW_UNROLL
        for (int v = 0; v < V; v++)
            acc[r][v] = hw_set(0.0f);
    for (int i = 0; i < count; i++) {
        hw_vec in[2];
        HW_UNROLL
        for (int v = 0; v < V; v++)
            in[v] = hw_load(x + (size_t)i * stride + v * HW_VL);
        HW_UNROLL
        for (int r = 0; r < R; r++) {
            hw_vec w = hw_set(a[(size_t)r * row + (size_t)i * step]);
            HW_UNROLL
            for (int v = 0; v < V; v++)
                acc[r][v] = hw_fma(w, in[v], acc[r][v]);
        }
    }
}

/* y (rows x stride) = A x * scale (+ mask per row); A[r][i] = a[r * row + i * step]. */
HW_TEMPLATE void hw_product(const float *a, size_t row, size_t step, const float *x, int stride, int count, float *y,
                            int rows, float scale, const float *mask, const int V)
{
    hw_vec acc[HW_KEYS][2], by = hw_set(scale);
    int r = 0;
    for (; r + HW_KEYS <= rows; r += HW_KEYS) {
        hw_small_product(a + (size_t)r * row, row, step, x, stride, count, acc, HW_KEYS, V);
        HW_UNROLL
        for (int k = 0; k < HW_KEYS; k++)
            HW_UNROLL
            for (int v = 0; v < V; v++)
                hw_store(y + (size_t)(r + k) * stride + v * HW_VL,
                         hw_fma(acc[k][v], by, hw_set(mask ? mask[r + k] : 0.0f)));
    }
    for (; r < rows; r++) {
        hw_small_product(a + (size_t)r * row, row, step, x, stride, count, acc, 1, V);
        HW_UNROLL
        for (int v = 0; v < V; v++)
            hw_store(y + (size_t)r * stride + v * HW_VL, hw_fma(acc[0][v], by, hw_set(mask ? mask[r] : 0.0f)));
    }
}

static void hw_softmax(float *scores, int keys, int stride, int at)
{
    hw_vec most = hw_load(scores + at), total = hw_set(0.0f);
    for (int k = 1; k < keys; k++)
        most = hw_max(most, hw_load(scores + (size_t)k * stride + at));
    for (int k = 0; k < keys; k++) {
        hw_vec value = hw_exp(hw_sub(hw_load(scores + (size_t)k * stride + at), most));
        hw_store(scores + (size_t)k * stride + at, value);
        total = hw_add(total, value);
    }
    hw_vec share = hw_div(hw_set(1.0f), total);
    for (int k = 0; k < keys; k++) {
        float *place = scores + (size_t)k * stride + at;
        hw_store(place, hw_mul(hw_load(place), share));
    }
}

void hw_attention(const float *q, const float *k, const float *v, float *y, int heads, int size, int queries, int keys,
                  float scale, const float *mask, float *scratch)
{
    /* Two vectors at a time: rows of queries are padded to whole vectors, a single query to one. */
    int stride = HW_PAD(queries), over = HW_PAD(keys);
    if (queries == 1) { /* rows of one value: work on copies that are one vector wide */
        float *wide = scratch, *scores = scratch + (size_t)size * HW_VL;
        for (int h = 0; h < heads; h++) {
            for (int c = 0; c < size; c++)
                hw_store(wide + (size_t)c * HW_VL, hw_set(q[(size_t)h * size + c]));
            hw_product(k + (size_t)h * size * over, 1, (size_t)over, wide, HW_VL, size, scores, keys, scale, mask, 1);
            hw_softmax(scores, keys, HW_VL, 0);
            hw_product(v + (size_t)h * size * over, (size_t)over, 1, scores, HW_VL, keys, wide, size, 1.0f, NULL, 1);
            for (int c = 0; c < size; c++)
                y[(size_t)h * size + c] = wide[(size_t)c * HW_VL];
        }
        return;
    }
    for (int h = 0; h < heads; h++) {
        size_t base = (size_t)h * size * stride, from = (size_t)h * size * over;
        for (int at = 0; at < stride;) {
            int two = at + 2 * HW_VL <= stride;
            if (two)
                hw_product(k + from, 1, (size_t)over, q + base + at, stride, size, scratch + at, keys, scale, mask, 2);
            else
                hw_product(k + from, 1, (size_t)over, q + base + at, stride, size, scratch + at, keys, scale, mask, 1);
            for (int i = 0; i < (two ? 2 : 1); i++)
                hw_softmax(scratch, keys, stride, at + i * HW_VL);
            if (two)
                hw_product(v + from, (size_t)over, 1, scratch + at, stride, keys, y + base + at, size, 1.0f, NULL, 2);
            else
                hw_product(v + from, (size_t)over, 1, scratch + at, stride, keys, y + base + at, size, 1.0f, NULL, 1);
            at += (two ? 2 : 1) * HW_VL;
        }
    }
}
