/* Models and optimisers in .safetensors files. One table of fields says how configurations lie in the metadata, for writing
 * and for reading. */
#include "model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/formats.h"
#include "model/adamw.h"

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

#define PREFIX "da."
#define FORMAT "longnet-1" /* value of da.format */

/* Everything that the metadata describes. */
typedef struct description {
    da_longnet_config config;
    da_multihead_config multihead;
    da_attention_config attention;
    da_adamw_config adamw;
    int64_t steps;
} description;

#define VALUE_BYTES 2048 /* a list of DA_MAX_PATTERNS numbers fits */

typedef struct field {
    const char *key;
    bool of_adamw;
    size_t offset; /* in a description */
    void (*write)(const void *at, char *text);
    bool (*read)(const char *text, void *at);
} field;

static void write_integer(const void *at, char *text) {
    snprintf(text, VALUE_BYTES, "%" PRId64, *(const int64_t *)at);
}

static bool read_integer(const char *text, void *at) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    *(int64_t *)at = value;
    return end != text && *end == '\0' && errno == 0;
}

static void write_number(const void *at, char *text) {
    snprintf(text, VALUE_BYTES, "%.17g", *(const double *)at);
}

static bool read_number(const char *text, void *at) {
    char *end;
    *(double *)at = strtod(text, &end);
    return end != text && *end == '\0';
}

static void write_flag(const void *at, char *text) {
    strcpy(text, *(const bool *)at ? "true" : "false");
}

static bool read_flag(const char *text, void *at) {
    *(bool *)at = strcmp(text, "true") == 0;
    return *(bool *)at || strcmp(text, "false") == 0;
}

#define DEFINE_NAMED(type, name)                                                                                       \
    static void write_##name(const void *at, char *text) {                                                             \
        strcpy(text, da_##name##_name(*(const type *)at));                                                             \
    }                                                                                                                  \
    static bool read_##name(const char *text, void *at) {                                                              \
        return da_##name##_from_name(text, at) == DA_OK;                                                               \
    }
DEFINE_NAMED(da_activation, activation)
DEFINE_NAMED(da_dtype, dtype)
DEFINE_NAMED(da_position, position)
DEFINE_NAMED(da_rotary_layout, rotary_layout)
DEFINE_NAMED(da_mixing, mixing)
DEFINE_NAMED(da_offset_rule, offset_rule)
DEFINE_NAMED(da_tail_rule, tail_rule)
DEFINE_NAMED(da_overlap, overlap)

static void write_list(size_t count, const int64_t *values, char *text) {
    size_t length = 0;
    text[0] = '\0';
    for (size_t k = 0; k < count; k++) {
        length += (size_t)snprintf(text + length, VALUE_BYTES - length, "%s%" PRId64, k ? "," : "", values[k]);
    }
}

static bool read_list(const char *text, size_t *count, int64_t *values) {
    for (*count = 0; *count < DA_MAX_PATTERNS;) {
        char *end;
        errno = 0;
        values[(*count)++] = strtoll(text, &end, 10);
        if (end == text || errno != 0 || (*end != ',' && *end != '\0')) {
            return false;
        }
        if (*end == '\0') {
            return true;
        }
        text = end + 1;
    }
    return false;
}

static void write_segments(const void *at, char *text) {
    const da_attention_config *config = at;
    write_list(config->segment_count, config->segment_lengths, text);
}

static bool read_segments(const char *text, void *at) {
    da_attention_config *config = at;
    return read_list(text, &config->segment_count, config->segment_lengths);
}

static void write_rates(const void *at, char *text) {
    const da_attention_config *config = at;
    write_list(config->rate_count, config->dilation_rates, text);
}

static bool read_rates(const char *text, void *at) {
    da_attention_config *config = at;
    return read_list(text, &config->rate_count, config->dilation_rates);
}

#define FIELD(key, of_adamw, member, kind)                                                                             \
    { PREFIX key, of_adamw, offsetof(description, member), write_##kind, read_##kind }

static const field fields[] = {
    FIELD("vocab_size", false, config.vocab_size, integer),
    FIELD("layers", false, config.layers, integer),
    FIELD("ffn_dim", false, config.ffn_dim, integer),
    FIELD("activation", false, config.activation, activation),
    FIELD("tied_output", false, config.tied_output, flag),
    FIELD("norm_eps", false, config.norm_eps, number),
    FIELD("embed_dim", false, multihead.embed_dim, integer),
    FIELD("num_heads", false, multihead.num_heads, integer),
    FIELD("kv_heads", false, multihead.kv_heads, integer),
    FIELD("bias", false, multihead.bias, flag),
    FIELD("layer_norm", false, multihead.layer_norm, flag),
    FIELD("layer_norm_eps", false, multihead.layer_norm_eps, number),
    FIELD("gamma_init", false, multihead.gamma_init, number),
    FIELD("dtype", false, multihead.dtype, dtype),
    FIELD("qk_layer_norm", false, multihead.qk_layer_norm, flag),
    FIELD("position", false, multihead.position, position),
    FIELD("rotary_layout", false, multihead.rotary_layout, rotary_layout),
    FIELD("rope_base", false, multihead.rope_base, number),
    FIELD("xpos_scale_base", false, multihead.xpos_scale_base, number),
    FIELD("segment_lengths", false, attention, segments),
    FIELD("dilation_rates", false, attention, rates),
    FIELD("dropout", false, attention.dropout, number),
    FIELD("scale_is_set", false, attention.scale_is_set, flag),
    FIELD("scale", false, attention.scale, number),
    FIELD("causal", false, attention.causal, flag),
    FIELD("window", false, attention.window, integer),
    FIELD("mixing", false, attention.mixing, mixing),
    FIELD("offset_rule", false, attention.offset_rule, offset_rule),
    FIELD("tail_rule", false, attention.tail_rule, tail_rule),
    FIELD("overlap", false, attention.overlap, overlap),
    FIELD("adamw.beta1", true, adamw.beta1, number),
    FIELD("adamw.beta2", true, adamw.beta2, number),
    FIELD("adamw.eps", true, adamw.eps, number),
    FIELD("adamw.weight_decay", true, adamw.weight_decay, number),
    FIELD("adamw.clip", true, adamw.clip, number),
    FIELD("adamw.steps", true, steps, integer),
};

#define FIELD_COUNT (sizeof fields / sizeof *fields)

typedef struct describing {
    const char *path;
    bool has_format, found[FIELD_COUNT];
    description *out;
} describing;

static da_status bad_value(const char *path, const char *key, const char *value) {
    char quoted[DA_QUOTE_BYTES];
    return da_report(DA_ERROR_FORMAT, "%s: metadata %s is \"%s\", which no such file has", path, key,
                     da_quote(quoted, value, strlen(value)));
}

static da_status read_field(const char *key, const char *value, void *user) {
    describing *d = user;
    if (strncmp(key, PREFIX, strlen(PREFIX)) != 0) {
        return DA_OK;
    }
    if (strcmp(key, PREFIX "format") == 0) {
        d->has_format = strcmp(value, FORMAT) == 0;
        return d->has_format ? DA_OK : bad_value(d->path, key, value);
    }
    for (size_t k = 0; k < FIELD_COUNT; k++) {
        if (strcmp(key, fields[k].key) == 0) {
            d->found[k] = true;
            return fields[k].read(value, (char *)d->out + fields[k].offset) ? DA_OK : bad_value(d->path, key, value);
        }
    }
    char quoted[DA_QUOTE_BYTES];
    return da_report(DA_ERROR_FORMAT, "%s: metadata \"%s\" is unknown to this version", d->path,
                     da_quote(quoted, key, strlen(key)));
}

/* Reads what the metadata describes; of_adamw: the optimiser is wanted, too. */
static da_status describe(const char *path, const da_mapping *mapping, bool of_adamw, description *out) {
    describing d = {.path = path, .out = out};
    da_longnet_config_init(&out->config);
    da_multihead_config_init(&out->multihead);
    da_attention_config_init(&out->attention);
    da_adamw_config_init(&out->adamw);
    da_status status = da_safetensors_metadata(path, mapping->base, mapping->bytes, read_field, &d);
    if (status == DA_OK && !d.has_format) {
        status = da_report(DA_ERROR_FORMAT, "%s: no checkpoint: its metadata has no " PREFIX "format", path);
    }
    for (size_t k = 0; k < FIELD_COUNT && status == DA_OK; k++) {
        if (!d.found[k] && (of_adamw || !fields[k].of_adamw)) {
            status = da_report(DA_ERROR_FORMAT, "%s: metadata %s is missing%s", path, fields[k].key,
                               fields[k].of_adamw ? ": the file has no optimiser's state" : "");
        }
    }
    return status;
}

static description description_of(const da_longnet *model, const da_adamw *adamw) {
    description d = {.config = model->config, .multihead = model->multihead, .attention = model->attention};
    if (adamw) {
        d.adamw = adamw->config;
        d.steps = adamw->steps;
    }
    return d;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

enum { PARAMETERS, FIRST_MOMENTS, SECOND_MOMENTS, KINDS };

static const char *const kind_prefixes[KINDS] = {"", "adamw.first.", "adamw.second."};

static const char *file_type(da_dtype dtype, da_file_type *type) {
    *type = dtype == DA_F64 ? DA_FILE_F64 : DA_FILE_F32;
    return da_file_type_name(*type);
}

typedef struct reading {
    const char *path;
    const da_mapping *mapping;
    da_longnet *model;
    da_adamw *adamw; /* whose moments are read; NULL: the parameters are */
    bool *found;     /* KINDS times the parameters */
} reading;

static void *address_of(da_longnet *model, const da_adamw *adamw, int kind, size_t index) {
    da_parameter parameter;
    if (kind == PARAMETERS) {
        (void)da_longnet_parameter_at(model, index, &parameter); /* the number is in range */
        return parameter.data;
    }
    return da_adamw_moment(adamw, kind == FIRST_MOMENTS ? adamw->first : adamw->second, index);
}

/* Which tensor a name is; false: none. */
static bool recognise(const da_longnet *model, const char *name, int *kind, size_t *index) {
    *kind = PARAMETERS;
    for (int k = FIRST_MOMENTS; k < KINDS; k++) {
        if (strncmp(name, kind_prefixes[k], strlen(kind_prefixes[k])) == 0) {
            *kind = k;
            name += strlen(kind_prefixes[k]);
        }
    }
    for (*index = 0; *index < model->table.count; ++*index) {
        if (strcmp(name, model->table.entries[*index].name) == 0) {
            return true;
        }
    }
    return false;
}

static da_status check_layout(const reading *r, const char *name, const da_model_entry *entry,
                              const da_file_layout *layout) {
    da_file_type type;
    const char *type_name = file_type(r->model->real, &type);
    if (layout->type != type) {
        return da_report(DA_ERROR_FORMAT, "%s: %s is %s; allowed: %s, as the metadata says", r->path, name,
                         da_file_type_name(layout->type), type_name);
    }
    bool fits = layout->rank == entry->rank;
    for (int axis = 0; fits && axis < entry->rank; axis++) {
        fits = layout->shape[axis] == entry->shape[axis];
    }
    if (!fits) {
        return da_report(DA_ERROR_FORMAT,
                         "%s: the shape of %s has %d dimensions, (%" PRId64 ", %" PRId64
                         ", ...); allowed: %d, (%" PRId64 ", %" PRId64 ")",
                         r->path, name, layout->rank, layout->rank > 0 ? layout->shape[0] : 0,
                         layout->rank > 1 ? layout->shape[1] : 1, entry->rank, entry->shape[0], entry->shape[1]);
    }
    return DA_OK;
}

static da_status read_tensor(const char *name, const da_file_layout *layout, void *user) {
    reading *r = user;
    int kind;
    size_t index;
    char quoted[DA_QUOTE_BYTES];
    if (!recognise(r->model, name, &kind, &index)) {
        return da_report(DA_ERROR_FORMAT, "%s: tensor \"%s\" belongs to nothing that the metadata describes", r->path,
                         da_quote(quoted, name, strlen(name)));
    }
    da_status status = check_layout(r, name, &r->model->table.entries[index], layout);
    if (status == DA_OK && (kind == PARAMETERS) == (r->adamw == NULL)) {
        memcpy(address_of(r->model, r->adamw, kind, index), (const char *)r->mapping->base + layout->offset,
               layout->bytes);
    }
    r->found[(size_t)kind * r->model->table.count + index] = true;
    return status;
}

static da_status check_complete(const reading *r) {
    size_t count = r->model->table.count, from = r->adamw ? count : 0, to = r->adamw ? KINDS * count : count;
    for (size_t k = from; k < to; k++) {
        if (!r->found[k]) {
            return da_report(DA_ERROR_FORMAT, "%s: no tensor \"%s%s\"; allowed: a file with all of them", r->path,
                             kind_prefixes[k / count], r->model->table.entries[k % count].name);
        }
    }
    return DA_OK;
}

static da_status read_tensors(const char *path, const da_mapping *mapping, da_longnet *model, da_adamw *adamw) {
    size_t count = KINDS * model->table.count;
    reading r = {path, mapping, model, adamw, da_allocate(model->allocator, count, sizeof(bool))};
    if (!r.found) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(r.found, 0, count * sizeof(bool));
    da_status status = da_safetensors_layouts(path, mapping->base, mapping->bytes, read_tensor, &r);
    if (status == DA_OK) {
        status = check_complete(&r);
    }
    da_release(model->allocator, r.found);
    return status;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static da_status check_path(const char *path) {
    if (!path || !path[0]) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "path is %s; allowed: the path of a file", path ? "empty" : "NULL");
    }
    return DA_OK;
}

static da_status open_file(const char *path, bool of_adamw, da_mapping *mapping, description *out) {
    da_status status = check_path(path);
    if (status == DA_OK) {
        status = da_mapping_open(path, mapping);
    }
    if (status != DA_OK) {
        return status;
    }
    status = describe(path, mapping, of_adamw, out);
    if (status != DA_OK) {
        da_mapping_close(mapping);
    }
    return status;
}

da_status da_longnet_load(const da_context *context, const char *name, const char *path, da_longnet **out) {
    description d;
    da_mapping mapping;
    if (!out) {
        return da_model_report_null("out", "a place for the model");
    }
    *out = NULL;
    da_longnet *model;
    da_status status = open_file(path, false, &mapping, &d);
    if (status != DA_OK) {
        return status;
    }
    status = da_longnet_create(context, name, &d.config, &d.multihead, &d.attention, &model);
    if (status == DA_OK) {
        status = read_tensors(path, &mapping, model, NULL);
        *out = status == DA_OK ? model : NULL;
    }
    if (status != DA_OK) {
        da_longnet_free(model);
    }
    da_mapping_close(&mapping);
    return status;
}

da_status da_adamw_load(da_longnet *model, const char *path, da_adamw **out) {
    description d;
    da_mapping mapping;
    if (!out || !model) {
        return da_model_report_null(out ? "model" : "out", out ? "the model of the file" : "a place for the optimiser");
    }
    *out = NULL;
    da_adamw *adamw;
    da_status status = open_file(path, true, &mapping, &d);
    if (status != DA_OK) {
        return status;
    }
    if (d.steps < 0) {
        status =
            da_report(DA_ERROR_FORMAT, "%s: metadata da.adamw.steps is %" PRId64 "; allowed: 0 or more", path, d.steps);
        adamw = NULL;
    } else {
        status = da_adamw_create(model, &d.adamw, &adamw);
    }
    if (status == DA_OK) {
        adamw->steps = d.steps;
        status = read_tensors(path, &mapping, model, adamw);
        *out = status == DA_OK ? adamw : NULL;
    }
    if (status != DA_OK) {
        da_adamw_free(adamw);
    }
    da_mapping_close(&mapping);
    return status;
}

typedef struct note_search {
    const char *key;
    char *buffer;
    size_t size;
    bool found, fits;
} note_search;

static da_status find_note(const char *key, const char *value, void *user) {
    note_search *s = user;
    if (strcmp(key, s->key) == 0) {
        s->found = true;
        s->fits = strlen(value) < s->size;
        snprintf(s->buffer, s->size, "%s", value);
    }
    return DA_OK;
}

da_status da_longnet_note(const char *path, const char *key, char *buffer, size_t size) {
    da_mapping mapping;
    if (!key || !buffer || size == 0) {
        return da_model_report_null(key ? "buffer" : "key", "a text");
    }
    note_search search = {.key = key, .buffer = buffer, .size = size};
    da_status status = check_path(path);
    if (status == DA_OK) {
        status = da_mapping_open(path, &mapping);
    }
    if (status != DA_OK) {
        return status;
    }
    status = da_safetensors_metadata(path, mapping.base, mapping.bytes, find_note, &search);
    da_mapping_close(&mapping);
    if (status == DA_OK && !search.found) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "%s: no note \"%.64s\" in the metadata", path, key);
    } else if (status == DA_OK && !search.fits) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "size is %zu, too small for note \"%.64s\"", size, key);
    }
    return status;
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

typedef struct comparing {
    const char *path;
    const description *ours;
} comparing;

static da_status compare_field(const char *key, const char *theirs, void *user) {
    const comparing *c = user;
    char ours[VALUE_BYTES], quoted[DA_QUOTE_BYTES];
    for (size_t k = 0; k < FIELD_COUNT; k++) {
        if (strcmp(key, fields[k].key) == 0 && fields[k].offset != offsetof(description, steps)) {
            fields[k].write((const char *)c->ours + fields[k].offset, ours);
            if (strcmp(ours, theirs) != 0) {
                return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: %s is %s; allowed: %s, as in the file", c->path,
                                 key + strlen(PREFIX), ours, da_quote(quoted, theirs, strlen(theirs)));
            }
        }
    }
    return DA_OK;
}

da_status da_checkpoint_check_same(const char *path, const da_longnet *model, const da_adamw *adamw) {
    description theirs, ours = description_of(model, adamw);
    comparing c = {path, &ours};
    da_mapping mapping;
    da_status status = open_file(path, true, &mapping, &theirs);
    if (status == DA_OK) {
        status = da_safetensors_metadata(path, mapping.base, mapping.bytes, compare_field, &c);
        da_mapping_close(&mapping);
    }
    return status;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

#define NAME_BYTES 96
#define MAX_NOTES 256

typedef struct saving {
    const char *path;
    da_longnet *model; /* only read */
    const da_adamw *adamw;
    const da_note *notes;
    size_t note_count, tensor_count;
    /* Memory of the header's parts. */
    char (*names)[NAME_BYTES];
    const char **name_pointers;
    da_file_layout *layouts;
    char (*values)[VALUE_BYTES];
    da_file_note *file_notes;
} saving;

static da_status check_notes(const da_note *notes, size_t count) {
    if (count > MAX_NOTES || (count > 0 && !notes)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "notes are %s, %zu of them; allowed: 0 to %d",
                         notes ? "given" : "NULL", count, MAX_NOTES);
    }
    for (size_t k = 0; k < count; k++) {
        if (!notes[k].key || !notes[k].value || strncmp(notes[k].key, PREFIX, strlen(PREFIX)) == 0) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "notes[%zu].key is %.64s; allowed: a key that does not begin with " PREFIX ", and a value",
                             k, notes[k].key ? notes[k].key : "NULL");
        }
    }
    return DA_OK;
}

static bool make_parts(saving *s) {
    const da_allocator *allocator = s->model->allocator;
    s->tensor_count = (s->adamw ? KINDS : 1) * s->model->table.count;
    s->names = da_allocate(allocator, s->tensor_count, sizeof *s->names);
    s->name_pointers = s->names ? da_allocate(allocator, s->tensor_count, sizeof *s->name_pointers) : NULL;
    s->layouts = s->name_pointers ? da_allocate(allocator, s->tensor_count, sizeof *s->layouts) : NULL;
    s->values = s->layouts ? da_allocate(allocator, FIELD_COUNT, sizeof *s->values) : NULL;
    s->file_notes = s->values ? da_allocate(allocator, 1 + FIELD_COUNT + s->note_count, sizeof *s->file_notes) : NULL;
    return s->file_notes != NULL;
}

static void free_parts(saving *s) {
    const da_allocator *allocator = s->model->allocator;
    da_release(allocator, s->names);
    da_release(allocator, s->name_pointers);
    da_release(allocator, s->layouts);
    da_release(allocator, s->values);
    da_release(allocator, s->file_notes);
}

static size_t fill_notes(const saving *s) {
    description d = description_of(s->model, s->adamw);
    size_t count = 0;
    s->file_notes[count++] = (da_file_note){PREFIX "format", FORMAT};
    for (size_t k = 0; k < FIELD_COUNT; k++) {
        if (s->adamw || !fields[k].of_adamw) {
            fields[k].write((const char *)&d + fields[k].offset, s->values[k]);
            s->file_notes[count++] = (da_file_note){fields[k].key, s->values[k]};
        }
    }
    for (size_t k = 0; k < s->note_count; k++) {
        s->file_notes[count++] = (da_file_note){s->notes[k].key, s->notes[k].value};
    }
    return count;
}

static da_status make_header(saving *s, da_file_header *header, uint64_t *bytes) {
    da_file_type type;
    *bytes = 0;
    (void)file_type(s->model->real, &type);
    for (size_t k = 0; k < s->tensor_count; k++) {
        const da_model_entry *entry = &s->model->table.entries[k % s->model->table.count];
        snprintf(s->names[k], NAME_BYTES, "%s%s", kind_prefixes[k / s->model->table.count], entry->name);
        s->name_pointers[k] = s->names[k];
        (void)da_file_layout_set(&s->layouts[k], type, entry->rank, entry->shape, false); /* it is in memory: it fits */
        *bytes += s->layouts[k].bytes;
    }
    return da_safetensors_header(s->path, s->name_pointers, s->layouts, s->tensor_count, s->file_notes, fill_notes(s),
                                 header);
}

static da_status write_file(const saving *s, const da_file_header *header, uint64_t bytes) {
    da_atomic_file file;
    size_t count = s->model->table.count;
    da_status status = da_atomic_file_create(s->path, header->length + bytes, &file);
    if (status != DA_OK) {
        return status;
    }
    char *at = file.mapping.base;
    memcpy(at, header->bytes, header->length);
    at += header->length;
    for (size_t k = 0; k < s->tensor_count; k++) {
        memcpy(at, address_of(s->model, s->adamw, (int)(k / count), k % count), s->layouts[k].bytes);
        at += s->layouts[k].bytes;
    }
    return da_atomic_file_commit(&file);
}

da_status da_longnet_save(const char *path, const da_longnet *model, const da_adamw *adamw, const da_note *notes,
                          size_t note_count) {
    da_status status = check_path(path);
    if (status == DA_OK && !model) {
        status = da_model_report_null("model", "what da_longnet_create made");
    }
    if (status == DA_OK && adamw && adamw->model != model) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "adamw is another model's; allowed: this model's");
    }
    if (status == DA_OK) {
        status = check_notes(notes, note_count);
    }
    if (status != DA_OK) {
        return status;
    }
    saving s = {.path = path, .model = (da_longnet *)model, .adamw = adamw, .notes = notes, .note_count = note_count};
    da_file_header header = {0};
    uint64_t bytes;
    status = make_parts(&s) ? make_header(&s, &header, &bytes) : DA_ERROR_OUT_OF_MEMORY;
    if (status == DA_OK) {
        status = write_file(&s, &header, bytes);
    }
    da_release(NULL, header.bytes);
    free_parts(&s);
    return status;
}
