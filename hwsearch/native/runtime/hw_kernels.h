/* hw_kernels.h: the operators that a generated network calls.
 *
 * Layout: every value is a matrix of channels x positions, position fastest: pixels of an image, tokens of a text. A row
 * holds HW_PAD(n) floats; what stands behind the n-th is finite and means nothing. Rows of one position are not padded.
 */
#ifndef HW_KERNELS_H
#define HW_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HW_TILE 7  /* vectors of positions that hw_pairs holds in registers, for two outputs */
#define HW_GROUP 4 /* outputs that hw_groups computes from the same inputs */

/* Activations; the numbers are those of ACTIVATIONS in hwsearch/native/nodes.py. */
enum {
    HW_NONE, HW_RELU, HW_RELU6, HW_HSWISH, HW_HSIGMOID, HW_SIGMOID, HW_TANH, HW_SILU, HW_GELU, HW_GELU_TANH
};

/* What happens to a sum before it is stored: activation(sum + bias[row] + residual). residual may be NULL. */
typedef struct {
    const float *bias;
    const float *residual;
    int act;
} hw_epilogue;

/* y = W x, W in pairs of rows: each row has inputs of its own. vectors per row, stride floats per row. */
void hw_pairs(const float *x, float *y, const int32_t *stream, int vectors, int stride, hw_epilogue then);

/* y = W x, W in groups of HW_GROUP rows that share their inputs; dense W is the case where all inputs are there. */
void hw_groups(const float *x, float *y, const int32_t *stream, int vectors, int stride, hw_epilogue then);

/* y = W x for one position: each row its non-zeros (stream), or dense rows. */
void hw_sparse_vector(const float *x, float *y, const int32_t *stream, int rows, hw_epilogue then);
void hw_dense_vector(const float *x, float *y, const float *weight, int rows, int columns, hw_epilogue then);

/* Depthwise convolution, kernel k x k. means, unless NULL, receives the mean of every output channel. Writes up to a
 * vector behind y. scratch: a vector per tap, and the channel in a frame of zeros. */
typedef struct {
    int channels, height, width, kernel, stride, padding, out_height, out_width;
} hw_map;
void hw_depthwise(const float *x, float *y, const float *weight, hw_map map, float *means, float *scratch,
                  hw_epilogue then);

/* Patches for a convolution as a matrix product: (channels * k * k) x pixels. in_stride: floats per channel of x
 * (height * width for a plain image). Of `count` rows of output pixels from `first` on; out_stride: floats per row of y. */
void hw_patches(const float *x, int in_stride, float *y, int out_stride, hw_map map, int dilation, int first, int count);

/* Exists if the kernels were compiled for vectors of so many floats: the weights are ordered for one of them. */
extern const char hw_vectors_of_16, hw_vectors_of_8, hw_vectors_of_4;

/* Pooling. max: 1 for the largest, 0 for the mean; padded: whether padding counts in a mean. */
void hw_pool(const float *x, float *y, hw_map map, int max, int padded);
void hw_means(const float *x, float *y, int channels, int n, int stride);

/* Element by element over count floats; a and b may be y. operation: '+', '-', '*', '/'. */
void hw_binary(const float *a, const float *b, float *y, int operation, size_t count, int act);
/* The same with one value of b per row (per_row) or one row of b for all. */
void hw_binary_rows(const float *a, const float *b, float *y, int operation, int rows, int stride, int per_row, int act);
void hw_unary(const float *a, float *y, size_t count, int act);
/* y = a * scale[row] + shift[row]. */
void hw_affine(const float *a, float *y, const float *scale, const float *shift, int rows, int stride, int act);

/* Over channels, for every position. */
void hw_layernorm(const float *x, float *y, const float *weight, const float *bias, float eps, int channels, int n);

/* Attention of each head; q, k, v: (heads * size) x tokens. mask: one value per key that is added to the scores, or
 * NULL. scratch: keys rows like those of the queries; for one query, keys + size vectors. */
void hw_attention(const float *q, const float *k, const float *v, float *y, int heads, int size, int queries, int keys,
                  float scale, const float *mask, float *scratch);

/* Between layouts. Plain is row by row without padding. */
void hw_from_rows(const float *x, float *y, int n, int channels);             /* (n, channels) -> channels x n */
void hw_to_rows(const float *x, float *y, int n, int channels);               /* back */
void hw_pad_rows(const float *x, float *y, int channels, int n);              /* (channels, n) -> channels x n */
void hw_strip_rows(const float *x, float *y, int channels, int n);            /* back */
void hw_embed(const int64_t *ids, const float *table, float *y, int n, int channels, int entries);
void hw_mask(const int64_t *seen, float *y, int n); /* 0 where a key may be seen, else -1e30 */
void hw_columns(const float *x, float *y, int rows, int first, int n, int in_stride, int at, int out_stride);

#endif
