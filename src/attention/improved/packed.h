/* Columns of whole sequences, packed once for all the units of a call. Otherwise a unit gathers the columns of a block and
 * packs them for its own rows; but where tiles are scattered over the pattern, few of its rows see a column. With packed
 * columns each block of rows meets the panels of its own tiles, as many at a time as a block holds, wherever they lie.
 *
 * That wants tiles of whole panels: patterns that keep every token, and as many tokens in a tile as in some panels. */
#ifndef DA_ATTENTION_PACKED_H
#define DA_ATTENTION_PACKED_H

#include "attention/improved/unit.h"

/* Where a panel's columns lie as keys and as values. */
typedef struct da_packed_panel {
    const void *keys, *values;
} da_packed_panel;

/* Columns are keys, whose rows are packed in panels, with their values, in blocks of DA_BLOCK_KEYS. */
struct da_packed_columns {
    const da_unit_cut *cut;
    int64_t n, blocks;    /* of a sequence */
    int64_t sequences;    /* that there is room for at a time; 0: columns are not packed */
    int64_t first, count; /* those at hand, numbered batch element by batch element, head by head */
    int64_t heads;        /* of the columns' tensors */
    const da_scope *scope;
    size_t column_bytes;     /* at most */
    char *keys, *values;     /* [sequences][blocks][DA_BLOCK_KEYS][column_bytes] */
    da_packed_panel *panels; /* [sequences][blocks][panels of a block] */
    bool *values_finite;     /* [sequences][blocks] */
};

/* Can columns be packed for units that are cut so? tile_block: tokens in a block of tiles; 0: no tiles are chosen. */
bool da_columns_can_be_packed(const da_unit_cut *cut, const da_attention_config *config, int64_t tile_block);

/* Makes room for as many of batch * heads sequences as take PACKED_BYTES, and for `least` of them at least. */
void da_packed_plan(da_packed_columns *packed, const da_unit_cut *cut, int64_t n, int64_t batch, int64_t heads,
                    int64_t least);

/* Lays memory out; returns the bytes it takes. */
size_t da_packed_lay_out(da_packed_columns *packed, char *memory);

/* Parts of the packing of the sequences at hand, in any order. scratch: what is staged and where columns are goes there. */
int64_t da_packed_parts(const da_packed_columns *packed);
void da_packed_fill(const da_packed_columns *packed, int64_t part, const da_key_block *scratch);

/* Panel `panel` of a sequence at hand, and whether all values of the block that it lies in are finite. */
const da_packed_panel *da_packed_panel_at(const da_packed_columns *packed, int64_t sequence, int64_t panel,
                                          bool *values_finite);

#endif
