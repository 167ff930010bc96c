/* hw_layout.c: between layouts, embeddings, columns. */
#include "hw_simd.h"

#if HW_VL == 16
const char hw_vectors_of_16 = 16;
#elif HW_VL == 8
const char hw_vectors_of_8 = 8;
#else
const char hw_vectors_of_4 = 4;
#endif

void hw_from_rows(const float *x, float *y, int n, int channels)
{
    int stride = HW_PAD(n);
    for (int from = 0; from < n; from += HW_VL) { /* a few positions at a time: their rows stay in the cache */
        int to = from + HW_VL < n ? from + HW_VL : n;
        for (int c = 0; c < channels; c++)
            for (int i = from; i < to; i++)
                y[(size_t)c * stride + i] = x[(size_t)i * channels + c];
    }
    for (int c = 0; c < channels; c++)
        for (int i = n; i < stride; i++)
            y[(size_t)c * stride + i] = 0.0f;
}

void hw_to_rows(const float *x, float *y, int n, int channels)
{
    int stride = HW_PAD(n);
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < n; i++)
            y[(size_t)i * channels + c] = x[(size_t)c * stride + i];
}

void hw_pad_rows(const float *x, float *y, int channels, int n)
{
    int stride = HW_PAD(n);
    for (int c = 0; c < channels; c++) {
        memcpy(y + (size_t)c * stride, x + (size_t)c * n, sizeof(float) * (size_t)n);
        memset(y + (size_t)c * stride + n, 0, sizeof(float) * (size_t)(stride - n));
    }
}

void hw_strip_rows(const float *x, float *y, int channels, int n)
{
    int stride = HW_PAD(n);
    for (int c = 0; c < channels; c++)
        memcpy(y + (size_t)c * n, x + (size_t)c * stride, sizeof(float) * (size_t)n);
}

void hw_embed(const int64_t *ids, const float *table, float *y, int n, int channels, int entries)
{
    int stride = HW_PAD(n);
    for (int from = 0; from < stride; from += HW_VL) {
        int to = from + HW_VL < stride ? from + HW_VL : stride;
        for (int c = 0; c < channels; c++)
            for (int i = from; i < to; i++) {
                /* An index outside of the table gives a row of zeros, never a read outside of it. */
                int known = i < n && ids[i] >= 0 && ids[i] < entries;
                y[(size_t)c * stride + i] = known ? table[(size_t)ids[i] * (size_t)channels + c] : 0.0f;
            }
    }
}

void hw_mask(const int64_t *seen, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = seen[i] ? 0.0f : -1e30f;
}

void hw_columns(const float *x, float *y, int rows, int first, int n, int in_stride, int at, int out_stride)
{
    for (int row = 0; row < rows; row++)
        memcpy(y + (size_t)row * out_stride + at, x + (size_t)row * in_stride + first, sizeof(float) * (size_t)n);
}
