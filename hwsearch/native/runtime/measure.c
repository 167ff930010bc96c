/* measure.c: calls one kernel several times, for hwsearch to time which form of a weight matrix is fastest here. */
#include "hw_kernels.h"

__attribute__((visibility("default"))) void measure(int pairs, const float *x, float *y, const int32_t *stream,
                                                    int vectors, int stride, const float *bias, int repeats)
{
    hw_epilogue then = {bias, NULL, HW_RELU};
    for (; repeats; repeats--) {
        if (pairs)
            hw_pairs(x, y, stream, vectors, stride, then);
        else
            hw_groups(x, y, stream, vectors, stride, then);
    }
}
