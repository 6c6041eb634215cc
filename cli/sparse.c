#include "sparse.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "io/tensor_file.h"
#include "output.h"

void sparse_options(sparse_files *chosen, cli_option table[SPARSE_OPTION_COUNT]) {
    const cli_option options[SPARSE_OPTION_COUNT] = {
        {"tile-mask", "FILE",
         "the tiles that block_sparse computes, bool or u8\n(blocks, blocks), one of --block-size tokens each; also\n"
         "(heads, blocks, blocks), (batch, heads, blocks, blocks)",
         cli_read_text, &chosen->mask_path, 0, 0},
        {"sparse-profile", "FILE", "what each head needs, as `dilated-attention profile` found it", cli_read_text,
         &chosen->profile_path, 0, 0},
    };
    memcpy(table, options, sizeof(options));
}

int sparse_check(const sparse_files *files, const configuration *chosen, const char *command, const char *names,
                 bool takes_notice) {
    const char *option = files->mask_path != NULL      ? "--tile-mask"
                         : files->profile_path != NULL ? "--sparse-profile"
                                                       : configuration_sparse_option(chosen);
    if (option == NULL || takes_notice) {
        return CLI_CONTINUE;
    }
    return cli_usage(command, "%s: has no effect on %s; allowed with --impl block_sparse, or auto and --quality-target",
                     option, names);
}

/* ---- a mask in a file --------------------------------------------------------------------------------------------- */

static int check_mask(const da_tensor_file *file, const char *command, const char *path, int64_t n, int64_t block) {
    int64_t blocks = (n - 1) / block + 1;
    if (file->type != DA_FILE_BOOL && file->type != DA_FILE_U8) {
        return cli_fail(command, "--tile-mask: %s: holds %s; allowed: bool, u8 (true: the tile is computed)", path,
                        da_file_type_name(file->type));
    }
    if (file->rank < 2 || file->rank > 4 || file->shape[file->rank - 2] != blocks ||
        file->shape[file->rank - 1] != blocks) {
        return cli_fail(command,
                        "--tile-mask: %s: must end in the axes (blocks, blocks), (%" PRId64 ", %" PRId64
                        ") for %" PRId64 " tokens in blocks of %" PRId64
                        ", with heads, or batch and heads, before them",
                        path, blocks, blocks, n, block);
    }
    return CLI_CONTINUE;
}

/* The file's bytes in C order; NULL: memory is short. */
static uint8_t *dense_copy(const da_tensor_file *file, const int64_t shape[4]) {
    const uint8_t *data = file->data;
    uint8_t *copy = da_allocate(NULL, (size_t)(shape[0] * shape[1]), (size_t)(shape[2] * shape[3]));
    const int64_t *stride = file->stride + file->rank - 2;
    for (int64_t sequence = 0, to = 0; copy != NULL && sequence < shape[0] * shape[1]; sequence++) {
        int64_t b = sequence / shape[1], h = sequence % shape[1];
        int64_t first = (file->rank == 4 ? b * file->stride[0] : 0) + (file->rank >= 3 ? h * stride[-1] : 0);
        for (int64_t row = 0; row < shape[2]; row++) {
            for (int64_t column = 0; column < shape[3]; column++) {
                copy[to++] = data[first + row * stride[0] + column * stride[1]];
            }
        }
    }
    return copy;
}

static int read_mask(sparse_files *chosen, const char *command, int64_t n, int64_t block) {
    da_tensor_file file = {0};
    const char *path = chosen->mask_path;
    if (da_tensor_file_open(path, &file) != DA_OK) {
        return cli_fail(command, "--tile-mask: %s", da_last_error_message());
    }
    int code = check_mask(&file, command, path, n, block);
    if (code == CLI_CONTINUE) {
        int64_t shape[4] = {1, 1, 1, 1};
        memcpy(shape + 4 - file.rank, file.shape, (size_t)file.rank * sizeof(shape[0]));
        uint8_t *kept = dense_copy(&file, shape);
        if (kept == NULL || da_tile_mask_create(NULL, shape[0], shape[1], n, block, kept, &chosen->mask) != DA_OK) {
            code = cli_fail(command, "--tile-mask: %s: %s", path, da_last_error_message());
        }
        da_release(NULL, kept);
    }
    da_tensor_file_close(&file);
    return code;
}

static int read_profile(sparse_files *chosen, const char *command, da_attention_config *config) {
    if (da_sparse_profile_load(NULL, chosen->profile_path, &chosen->profile) != DA_OK) {
        return cli_fail(command, "--sparse-profile: %s", da_last_error_message());
    }
    config->sparse_pattern = DA_SPARSE_PROFILE;
    config->sparse_profile = chosen->profile;
    return CLI_CONTINUE;
}

int sparse_open(sparse_files *chosen, const configuration *options, const char *command, int64_t n,
                da_attention_config *config) {
    if (chosen->mask_path == NULL && chosen->profile_path == NULL) {
        return CLI_CONTINUE;
    }
    if (options->sparse_pattern != NULL || options->sparsity_ratio.is_set || options->quality_target.is_set ||
        (chosen->mask_path != NULL && chosen->profile_path != NULL)) {
        return cli_usage(command,
                         "%s: says which tiles are computed; not with --sparse-pattern, --sparsity-ratio, "
                         "--quality-target%s",
                         chosen->mask_path != NULL ? "--tile-mask" : "--sparse-profile",
                         chosen->mask_path != NULL ? ", --sparse-profile" : "");
    }
    sparse_close(chosen);
    if (chosen->profile_path != NULL) {
        return read_profile(chosen, command, config);
    }
    int code = read_mask(chosen, command, n, config->block_size);
    if (code == CLI_CONTINUE) {
        config->sparse_pattern = DA_SPARSE_MASK;
        config->tile_mask = chosen->mask;
    }
    return code;
}

void sparse_close(sparse_files *chosen) {
    da_tile_mask_free(chosen->mask);
    da_sparse_profile_free(chosen->profile);
    chosen->mask = NULL;
    chosen->profile = NULL;
}

/* ---- what is computed --------------------------------------------------------------------------------------------- */

da_status sparse_tiles(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                       const da_call_options *options, da_tile_mask **tiles, da_sparse_report *report) {
    *tiles = NULL;
    da_sparse_report_init(report);
    if (strcmp(da_attention_implementation(attention), "block_sparse") != 0) {
        return DA_OK;
    }
    return da_attention_tiles(attention, query, key, options, tiles, report);
}

bool sparse_keeps(const da_tile_mask *tiles, int64_t batch, int64_t head, int64_t i, int64_t j) {
    da_tile_mask_info info;
    da_tile_mask_info_init(&info);
    if (tiles == NULL || da_tile_mask_get_info(tiles, &info) != DA_OK) {
        return true;
    }
    int64_t b = info.batch == 1 ? 0 : batch, h = info.heads == 1 ? 0 : head;
    int64_t row = (b * info.heads + h) * info.blocks + i / info.block_size, column = j / info.block_size;
    int64_t first = info.row_starts[row], end = info.row_starts[row + 1];
    while (first < end) { /* the columns ascend */
        int64_t middle = first + (end - first) / 2;
        if (info.columns[middle] == column) {
            return true;
        }
        if (info.columns[middle] < column) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return false;
}

json_t *sparse_json(const da_sparse_report *report) {
    if (report->tiles_all == 0) {
        return NULL;
    }
    return json_pack("{s:I, s:I, s:f, s:f, s:o*, s:o*, s:I, s:f}", "tiles_kept", (json_int_t)report->tiles_kept,
                     "tiles_all", (json_int_t)report->tiles_all, "pairs_kept", report->pairs_kept, "pairs_all",
                     report->pairs_all, "mass_kept", isnan(report->mass_kept) ? NULL : json_real(report->mass_kept),
                     "mass_error", isnan(report->mass_error) ? NULL : json_real(report->mass_error), "sampled_queries",
                     (json_int_t)report->sampled_queries, "choose_seconds", report->choose_seconds);
}

void sparse_print(const char *before, const da_sparse_report *report) {
    char kept[CLI_GROUPED_TEXT], all[CLI_GROUPED_TEXT];
    if (report->tiles_all == 0) {
        return;
    }
    printf("%s%s of %s tiles (%.2f%%), %.2f%% of the pairs", before, cli_grouped(report->tiles_kept, kept),
           cli_grouped(report->tiles_all, all), 100 * (double)report->tiles_kept / (double)report->tiles_all,
           report->pairs_all > 0 ? 100 * report->pairs_kept / report->pairs_all : 0);
    if (!isnan(report->mass_kept)) {
        printf(", %.2f%% of the attention", 100 * report->mass_kept);
        if (!isnan(report->mass_error)) {
            printf(" (+- %.2f, on %" PRId64 " queries)", 100 * report->mass_error, report->sampled_queries);
        }
    }
    printf("; chosen in %.4f s\n", report->choose_seconds);
}
