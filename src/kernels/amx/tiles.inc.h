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
