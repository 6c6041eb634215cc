/* Matrix products on AMX tiles: 16 rows of 64 bytes each, eight of them, in f32 or in pairs of bf16.
 *
 * One TDPBF16PS adds A B to C: C is 16 x 16 in f32, A 16 rows of 16 pairs, and B 16 rows, one for each pair, of 16
 * columns' pairs. */

/* The compilers' instructions do not all say what memory they use. */
#define MEMORY_IS_CURRENT() __asm__ volatile("" ::: "memory")

/* Each thread has its own configuration; the same for all tiles here: what is smaller is filled with zeros in memory. */
static void begin_tiles(void) {
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&configuration);
}

static void end_tiles(void) {
    _tile_release();
}

/* 16 x 16 numbers of four bytes. */
static inline void transpose_16(__m512i row[16]) {
    __m512i pair[16], quad[16];
    for (int i = 0; i < 16; i += 2) {
        pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        quad[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
        quad[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
        quad[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
        quad[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i low = _mm512_shuffle_i32x4(quad[i], quad[i + 4], 0x88);
        __m512i high = _mm512_shuffle_i32x4(quad[i], quad[i + 4], 0xdd);
        __m512i low2 = _mm512_shuffle_i32x4(quad[i + 8], quad[i + 12], 0x88);
        __m512i high2 = _mm512_shuffle_i32x4(quad[i + 8], quad[i + 12], 0xdd);
        row[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        row[i + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        row[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}
