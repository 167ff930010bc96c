/* hw_spatial.c: depthwise convolution, patches for other convolutions, pooling. */
#include "hw_simd.h"

/* Output rows at a time: a row of input is loaded once for all of them. */
#define HW_ROWS_MANY 7
#define HW_ROWS_SOME 4

/* Copies a channel into a frame whose rows above and below are zero. Stride 2: even columns into the first plane, odd
 * ones into the second. What a vector copies too much is overwritten by the zeros at the right. */
HW_INLINE void hw_frame(const float *x, float *frame, hw_map map, int width, size_t plane)
{
    hw_vec zero = hw_set(0.0f);
    int p = map.padding, n = map.width;
    float *to = frame + (size_t)p * width;
    if (map.stride == 1) {
        for (int r = 0; r < map.height; r++, to += width, x += n) {
            for (int c = 0; c < n; c += HW_VL)
                hw_store(to + p + c, hw_load(x + c));
            hw_store(to + p + n, zero);
        }
        return;
    }
    /* Column c of the input stands at (c + p) / 2 of plane (c + p) % 2. */
    float *even = to + (size_t)(p & 1) * plane + p / 2, *odd = to + (size_t)(~p & 1) * plane + (p + 1) / 2;
    for (int r = 0; r < map.height; r++, even += width, odd += width, x += n) {
        for (int c = 0; 2 * c < n; c += HW_VL) {
            hw_vec a = hw_load(x + 2 * c), b = hw_load(x + 2 * c + HW_VL);
            hw_store(even + c, hw_even(a, b));
            hw_store(odd + c, hw_odd(a, b));
        }
        hw_store(even + (n + 1) / 2, zero);
        hw_store(odd + n / 2, zero);
    }
}

/* R output rows x one vector of columns. weight: kernel * kernel vectors. */
HW_TEMPLATE void hw_depthwise_tile(const float *frame, float *y, const float *weight, float bias, int width,
                                   size_t plane, int out_width, const int kernel, const int stride, const int R)
{
    hw_vec acc[8];
    HW_UNROLL
    for (int r = 0; r < R; r++)
        acc[r] = hw_set(bias);
    HW_UNROLL
    for (int i = 0; i < (R - 1) * stride + kernel; i++) {
        HW_UNROLL
        for (int j = 0; j < kernel; j++) {
            hw_vec in = hw_load(frame + (size_t)i * width + (stride == 1 ? (size_t)j : (size_t)(j & 1) * plane + j / 2));
            HW_UNROLL
            for (int r = 0; r < R; r++)
                if (i - r * stride >= 0 && i - r * stride < kernel)
                    acc[r] = hw_fma(hw_load(weight + ((i - r * stride) * kernel + j) * HW_VL), in, acc[r]);
        }
    }
    HW_UNROLL
    for (int r = 0; r < R; r++)
        hw_store(y + (size_t)r * out_width, acc[r]);
}

HW_TEMPLATE void hw_depthwise_channel(const float *frame, float *y, const float *weight, float bias, hw_map map,
                                      int width, size_t plane, const int kernel, const int stride)
{
    /* The last vector of a row overlaps the one before; where a row is shorter than a vector, what is too much is
     * overwritten by the next row, and behind the last row there is room (see hw_depthwise). */
    int columns = map.out_width, most = map.out_height % HW_ROWS_MANY ? HW_ROWS_SOME : HW_ROWS_MANY;
    for (int r = 0; r < map.out_height;) {
        int rows = map.out_height - r >= most ? most : 1;
        for (int at = 0; at < columns; at += HW_VL) {
            int c = at + HW_VL > columns && columns >= HW_VL ? columns - HW_VL : at;
            const float *from = frame + (size_t)r * stride * width + c;
            float *to = y + (size_t)r * columns + c;
            if (rows == HW_ROWS_MANY)
                hw_depthwise_tile(from, to, weight, bias, width, plane, columns, kernel, stride, HW_ROWS_MANY);
            else if (rows == HW_ROWS_SOME)
                hw_depthwise_tile(from, to, weight, bias, width, plane, columns, kernel, stride, HW_ROWS_SOME);
            else
                hw_depthwise_tile(from, to, weight, bias, width, plane, columns, kernel, stride, 1);
        }
        r += rows;
    }
}

static void hw_depthwise_any(const float *frame, float *y, const float *weight, float bias, hw_map map, int width,
                             size_t plane)
{
    int k = map.kernel;
    for (int r = 0; r < map.out_height; r++)
        for (int c = 0; c < map.out_width; c++) {
            float sum = bias;
            for (int i = 0; i < k; i++)
                for (int j = 0; j < k; j++) {
                    const float *row = frame + (size_t)(r * map.stride + i) * width;
                    float in = map.stride == 1 ? row[c + j] : row[(size_t)(j & 1) * plane + c + j / 2];
                    sum += in * weight[(i * k + j) * HW_VL];
                }
            y[(size_t)r * map.out_width + c] = sum;
        }
}

#define HW_DEPTHWISE(K, S)                                                                                 \
    static void hw_depthwise_##K##_##S(const float *frame, float *y, const float *weight, float bias,      \
                                       hw_map map, int width, size_t plane)                                \
    {                                                                                                      \
        hw_depthwise_channel(frame, y, weight, bias, map, width, plane, K, S);                             \
    }
HW_DEPTHWISE(3, 1)
HW_DEPTHWISE(3, 2)
HW_DEPTHWISE(5, 1)
HW_DEPTHWISE(5, 2)
HW_DEPTHWISE(7, 1)
HW_DEPTHWISE(7, 2)

typedef void hw_channel(const float *, float *, const float *, float, hw_map, int, size_t);

void hw_depthwise(const float *x, float *y, const float *weight, hw_map map, float *means, float *scratch,
                  hw_epilogue then)
{
    int k = map.kernel, n = map.out_height * map.out_width;
    int in_stride = HW_PAD(map.height * map.width), out_stride = HW_PAD(n);
    int rows = (map.out_height - 1) * map.stride + k;
    if (rows < map.height + map.padding)
        rows = map.height + map.padding; /* the last rows of the image may go unused */
    int needed = map.stride == 1 ? map.width + 2 * map.padding : (map.width + 2 * map.padding + 1) / 2;
    int width = needed + HW_VL + k;
    size_t plane = (size_t)rows * width;
    float *taps = scratch, *frame = scratch + (size_t)k * k * HW_VL;
    hw_channel *kernel = hw_depthwise_any;
    if (k == 3)
        kernel = map.stride == 1 ? hw_depthwise_3_1 : hw_depthwise_3_2;
    else if (k == 5)
        kernel = map.stride == 1 ? hw_depthwise_5_1 : hw_depthwise_5_2;
    else if (k == 7)
        kernel = map.stride == 1 ? hw_depthwise_7_1 : hw_depthwise_7_2;
    memset(frame, 0, sizeof(float) * (size_t)map.stride * plane); /* the border stays zero from channel to channel */
    for (int c = 0; c < map.channels; c++) {
        float *to = y + (size_t)c * out_stride;
        for (int t = 0; t < k * k; t++)
            hw_store(taps + t * HW_VL, hw_set(weight[(size_t)c * k * k + t]));
        hw_frame(x + (size_t)c * in_stride, frame, map, width, plane);
        kernel(frame, to, taps, then.bias[c], map, width, plane);
        for (int i = n; i < out_stride; i++)
            to[i] = 0.0f;
        if (then.residual)
            hw_binary(to, then.residual + (size_t)c * out_stride, to, '+', (size_t)out_stride, HW_NONE);
        if (then.act != HW_NONE)
            hw_unary(to, to, (size_t)out_stride, then.act);
        if (means)
            hw_means(to, means + c, 1, n, out_stride);
    }
}

void hw_patches(const float *x, int in_stride, float *y, int out_stride, hw_map map, int dilation, int first, int count)
{
    int k = map.kernel, n = count * map.out_width;
    for (int c = 0; c < map.channels; c++)
        for (int i = 0; i < k; i++)
            for (int j = 0; j < k; j++) {
                float *to = y + (((size_t)c * k + i) * k + j) * out_stride;
                int shift = j * dilation - map.padding;
                /* Columns whose input column c * stride + shift lies within the image. */
                int begin = shift >= 0 ? 0 : (-shift + map.stride - 1) / map.stride;
                int end = map.width - shift <= 0 ? 0 : (map.width - shift + map.stride - 1) / map.stride;
                begin = begin < map.out_width ? begin : map.out_width;
                end = end < map.out_width ? end : map.out_width;
                end = end < begin ? begin : end;
                for (int r = first; r < first + count; r++, to += map.out_width) {
                    int row = r * map.stride + i * dilation - map.padding;
                    if (row < 0 || row >= map.height) {
                        memset(to, 0, sizeof(float) * (size_t)map.out_width);
                        continue;
                    }
                    const float *from = x + (size_t)c * in_stride + (size_t)row * map.width;
                    for (int o = 0; o < begin; o++)
                        to[o] = 0.0f;
                    if (map.stride == 1)
                        memcpy(to + begin, from + begin + shift, sizeof(float) * (size_t)(end - begin));
                    else if (map.stride == 2)
                        for (int o = begin; o < end; o++)
                            to[o] = from[2 * o + shift];
                    else
                        for (int o = begin; o < end; o++)
                            to[o] = from[map.stride * o + shift];
                    for (int o = end; o < map.out_width; o++)
                        to[o] = 0.0f;
                }
                for (int o = n; o < out_stride; o++)
                    *to++ = 0.0f;
            }
}

void hw_pool(const float *x, float *y, hw_map map, int max, int padded)
{
    int n = map.out_height * map.out_width, in_stride = HW_PAD(map.height * map.width), out_stride = HW_PAD(n);
    for (int c = 0; c < map.channels; c++) {
        const float *from = x + (size_t)c * in_stride;
        float *to = y + (size_t)c * out_stride;
        for (int r = 0; r < map.out_height; r++)
            for (int o = 0; o < map.out_width; o++) {
                float best = -3.402823466e38f, sum = 0.0f;
                int count = 0;
                for (int i = 0; i < map.kernel; i++)
                    for (int j = 0; j < map.kernel; j++) {
                        int row = r * map.stride + i - map.padding, column = o * map.stride + j - map.padding;
                        if (row < 0 || row >= map.height || column < 0 || column >= map.width)
                            continue;
                        float value = from[(size_t)row * map.width + column];
                        best = value > best ? value : best;
                        sum += value;
                        count++;
                    }
                *to++ = max ? best : sum / (float)(padded ? map.kernel * map.kernel : count);
            }
        for (int i = n; i < out_stride; i++)
            *to++ = 0.0f;
    }
}
