#include "attention/block_sparse/rank.h"

static void swap(uint64_t *a, uint64_t *b) {
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Of three numbers the middle one, which makes for even parts, in order or not. */
static uint64_t middle_of(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Hoare's selection. */
uint64_t da_number_of_rank(uint64_t *numbers, int64_t count, int64_t rank) {
    int64_t first = 0, last = count - 1;
    while (first < last) {
        uint64_t pivot = middle_of(numbers[first], numbers[first + (last - first) / 2], numbers[last]);
        int64_t low = first, high = last;
        while (low <= high) {
            while (numbers[low] < pivot) {
                low++;
            }
            while (numbers[high] > pivot) {
                high--;
            }
            if (low <= high) {
                swap(&numbers[low++], &numbers[high--]);
            }
        }
        if (rank <= high) {
            last = high;
        } else if (rank >= low) {
            first = low;
        } else {
            return numbers[rank];
        }
    }
    return numbers[first];
}
