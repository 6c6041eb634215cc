/* .npy: a magic, a version, the length of a header, the header (a Python dict literal), the elements. The header is
 * read by a parser of exactly the literals that NumPy writes there; nothing is evaluated. */
#include "io/formats.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"

static const char magic[] = "\x93NUMPY";
enum { MAGIC_BYTES = 6, VERSION_BYTES = 2 };

/* Without the character for the byte order. NumPy has no bf16: the void type of two bytes stands for it. */
static const char *const descriptors[DA_FILE_TYPE_COUNT] = {
    [DA_FILE_F32] = "f4", [DA_FILE_F64] = "f8", [DA_FILE_BF16] = "V2", [DA_FILE_F16] = "f2", [DA_FILE_BOOL] = "b1",
    [DA_FILE_I8] = "i1",  [DA_FILE_U8] = "u1",  [DA_FILE_I16] = "i2",  [DA_FILE_U16] = "u2", [DA_FILE_I32] = "i4",
    [DA_FILE_U32] = "u4", [DA_FILE_I64] = "i8", [DA_FILE_U64] = "u8",
};

bool da_npy_is(const unsigned char *bytes, size_t size) {
    return size > 0 && memcmp(bytes, magic, size < MAGIC_BYTES ? size : MAGIC_BYTES) == 0;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The header's literal
 */

typedef struct parser {
    const char *path;
    const char *start, *at, *end;
    bool long_suffix; /* Python 2 wrote (3L, 4L) into versions 1 and 2 */
} parser;

typedef struct fields {
    bool has_descriptor, has_order, has_shape;
    da_file_type type;
    bool fortran_order;
    int rank;
    int64_t shape[DA_FILE_MAX_RANK];
} fields;

static void skip_spaces(parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) {
        ++p->at;
    }
}

static da_status unexpected(const parser *p, const char *wanted) {
    if (p->at == p->end) {
        return da_report(DA_ERROR_FORMAT, "%s: the .npy header ends where %s should be", p->path, wanted);
    }
    return da_report(DA_ERROR_FORMAT, "%s: byte 0x%02x at %zu of the .npy header, where %s should be", p->path,
                     (unsigned)(unsigned char)*p->at, (size_t)(p->at - p->start), wanted);
}

/* Takes the character if it is next. */
static bool accept(parser *p, char c) {
    skip_spaces(p);
    if (p->at < p->end && *p->at == c) {
        ++p->at;
        return true;
    }
    return false;
}

static bool accept_word(parser *p, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(p->end - p->at) >= length && memcmp(p->at, word, length) == 0) {
        p->at += length;
        return true;
    }
    return false;
}

/* A string in either kind of quotes, without escapes. */
static da_status read_string(parser *p, const char *wanted, const char **text, size_t *length) {
    skip_spaces(p);
    if (p->at == p->end || (*p->at != '\'' && *p->at != '"')) {
        return unexpected(p, wanted);
    }
    char quote = *p->at++;
    *text = p->at;
    while (p->at < p->end && *p->at != quote && *p->at != '\\' && *p->at != '\n') {
        ++p->at;
    }
    if (p->at == p->end || *p->at != quote) {
        return unexpected(p, "the end of a string without escapes");
    }
    *length = (size_t)(p->at++ - *text);
    return DA_OK;
}

static da_status read_dimension(parser *p, int64_t *out) {
    static const char wanted[] = "a dimension, a whole number from 0 up,";
    skip_spaces(p);
    if (p->at == p->end || *p->at < '0' || *p->at > '9') {
        return unexpected(p, wanted);
    }
    const char *first = p->at;
    int64_t value = 0;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; ++p->at) {
        int digit = *p->at - '0';
        if (value > (INT64_MAX - digit) / 10) {
            return da_report(DA_ERROR_FORMAT, "%s: shape: a dimension of the .npy header is above %" PRId64, p->path,
                             INT64_MAX);
        }
        value = 10 * value + digit;
    }
    if (*first == '0' && p->at - first > 1) { /* no literal of Python */
        p->at = first;
        return unexpected(p, "a dimension without leading zeros");
    }
    if (p->long_suffix && p->at < p->end && *p->at == 'L') {
        ++p->at;
    }
    *out = value;
    return DA_OK;
}

static da_status read_shape(parser *p, fields *f) {
    if (!accept(p, '(')) {
        return unexpected(p, "the shape, a tuple,");
    }
    bool comma = true; /* one may follow: at the start, and after each comma, a dimension or the end */
    f->rank = 0;
    while (!accept(p, ')')) {
        if (!comma) {
            return unexpected(p, "a comma or the end of the shape");
        }
        int64_t dimension = 0;
        da_status status = read_dimension(p, &dimension);
        if (status != DA_OK) {
            return status;
        }
        if (f->rank == DA_FILE_MAX_RANK) {
            return da_report(DA_ERROR_FORMAT, "%s: shape: more than %d dimensions; allowed: 0..%d", p->path,
                             DA_FILE_MAX_RANK, DA_FILE_MAX_RANK);
        }
        f->shape[f->rank++] = dimension;
        comma = accept(p, ',');
    }
    if (f->rank == 1 && !comma) {
        return da_report(DA_ERROR_FORMAT, "%s: shape: (%" PRId64 ") is a number; a tuple is needed: (%" PRId64 ",)",
                         p->path, f->shape[0], f->shape[0]);
    }
    return DA_OK;
}

static da_status read_order(parser *p, fields *f) {
    skip_spaces(p);
    if (accept_word(p, "True")) {
        f->fortran_order = true;
        return DA_OK;
    }
    return accept_word(p, "False") ? DA_OK : unexpected(p, "fortran_order, True or False,");
}

static da_status read_descriptor(parser *p, fields *f) {
    const char *text;
    size_t length;
    da_status status = read_string(p, "descr, a string (types of several fields are not read),", &text, &length);
    if (status != DA_OK) {
        return status;
    }
    char quoted[DA_QUOTE_BYTES];
    if (length == 3 && strchr("<>|", text[0]) != NULL && text[0] != '\0') {
        for (int type = 0; type < DA_FILE_TYPE_COUNT; ++type) {
            if (memcmp(text + 1, descriptors[type], 2) != 0) {
                continue;
            }
            /* The order of bytes means nothing to a byte, nor to the void type. */
            bool plain = da_file_type_size((da_file_type)type) == 1 || type == DA_FILE_BF16;
            if (text[0] == '>' && !plain) {
                return da_report(DA_ERROR_FORMAT, "%s: descr: '%s' is big-endian; only little-endian is read", p->path,
                                 da_quote(quoted, text, length));
            }
            if (text[0] == '<' || plain) {
                f->type = (da_file_type)type;
                return DA_OK;
            }
        }
    }
    return da_report(DA_ERROR_FORMAT,
                     "%s: descr: '%s' is not read; allowed: <f4 <f8 <f2 <V2 (bf16) |b1 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8",
                     p->path, da_quote(quoted, text, length));
}

static da_status read_entry(parser *p, fields *f) {
    static const struct {
        const char *name;
        da_status (*read)(parser *, fields *);
        size_t seen;
    } keys[] = {
        {"descr", read_descriptor, offsetof(fields, has_descriptor)},
        {"fortran_order", read_order, offsetof(fields, has_order)},
        {"shape", read_shape, offsetof(fields, has_shape)},
    };
    const char *text;
    size_t length;
    da_status status = read_string(p, "a key or the end of the dict", &text, &length);
    if (status != DA_OK) {
        return status;
    }
    char quoted[DA_QUOTE_BYTES];
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; ++i) {
        if (length != strlen(keys[i].name) || memcmp(text, keys[i].name, length) != 0) {
            continue;
        }
        bool *seen = (bool *)((char *)f + keys[i].seen);
        if (*seen) {
            return da_report(DA_ERROR_FORMAT, "%s: key '%s' twice in the .npy header", p->path, keys[i].name);
        }
        *seen = true;
        return accept(p, ':') ? keys[i].read(p, f) : unexpected(p, "':'");
    }
    return da_report(DA_ERROR_FORMAT, "%s: key '%s' in the .npy header; allowed: descr, fortran_order, shape", p->path,
                     da_quote(quoted, text, length));
}

static da_status read_dict(parser *p, fields *f) {
    if (!accept(p, '{')) {
        return unexpected(p, "'{'");
    }
    bool comma = true;
    while (!accept(p, '}')) {
        if (!comma) {
            return unexpected(p, "a comma or the end of the dict");
        }
        da_status status = read_entry(p, f);
        if (status != DA_OK) {
            return status;
        }
        comma = accept(p, ',');
    }
    skip_spaces(p);
    if (p->at != p->end) {
        return unexpected(p, "the end of the header");
    }
    if (!f->has_descriptor || !f->has_order || !f->has_shape) {
        const char *missing = !f->has_descriptor ? "descr" : !f->has_order ? "fortran_order" : "shape";
        return da_report(DA_ERROR_FORMAT, "%s: the .npy header has no key '%s'", p->path, missing);
    }
    return DA_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The file
 */

/* Finds the header's text; out->offset becomes where it ends. */
static da_status find_header(const char *path, const unsigned char *bytes, size_t size, parser *p) {
    if (size < MAGIC_BYTES + VERSION_BYTES) {
        return da_report(DA_ERROR_FORMAT, "%s: truncated: %zu bytes, fewer than the start of a .npy file", path, size);
    }
    unsigned major = bytes[6], minor = bytes[7];
    if (major < 1 || major > 3 || minor != 0) {
        return da_report(DA_ERROR_FORMAT, "%s: .npy version %u.%u; allowed: 1.0, 2.0, 3.0", path, major, minor);
    }
    size_t start = MAGIC_BYTES + VERSION_BYTES + (major == 1 ? 2 : 4);
    if (size < start) {
        return da_report(DA_ERROR_FORMAT, "%s: truncated: %zu bytes, fewer than the start of a .npy file", path, size);
    }
    uint32_t length = bytes[8] | (uint32_t)bytes[9] << 8;
    if (major > 1) {
        length |= (uint32_t)bytes[10] << 16 | (uint32_t)bytes[11] << 24;
    }
    if (length > size - start) {
        return da_report(DA_ERROR_FORMAT, "%s: truncated: a .npy header of %" PRIu32 " bytes, but %zu follow", path,
                         length, size - start);
    }
    const char *text = (const char *)bytes + start;
    *p = (parser){.path = path, .start = text, .at = text, .end = text + length, .long_suffix = major < 3};
    return DA_OK;
}

da_status da_npy_read(const char *path, const unsigned char *bytes, size_t size, da_file_layout *out) {
    parser p;
    fields f = {0};
    da_status status = find_header(path, bytes, size, &p);
    if (status == DA_OK) {
        status = read_dict(&p, &f);
    }
    if (status != DA_OK) {
        return status;
    }
    if (!da_file_layout_set(out, f.type, f.rank, f.shape, f.fortran_order)) {
        return da_report(DA_ERROR_FORMAT, "%s: shape: the size of the tensor overflows 63 bits", path);
    }
    out->offset = (uint64_t)(p.end - (const char *)bytes);
    uint64_t present = size - out->offset;
    if (present != out->bytes) {
        return da_report(DA_ERROR_FORMAT,
                         "%s: %s: shape and descr need %" PRIu64 " bytes of data, the file has %" PRIu64, path,
                         present < out->bytes ? "truncated" : "too long", out->bytes, present);
    }
    return DA_OK;
}

da_status da_npy_header(const da_file_layout *layout, da_file_header *out) {
    enum { PREFIX = MAGIC_BYTES + VERSION_BYTES + 2, DICT_BYTES = 64 + 22 * DA_FILE_MAX_RANK };
    char shape[22 * DA_FILE_MAX_RANK + 1] = "", dict[DICT_BYTES + 1];
    size_t used = 0;
    for (int axis = 0; axis < layout->rank; ++axis) {
        const char *after = layout->rank == 1 ? "," : axis + 1 < layout->rank ? ", " : "";
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%" PRId64 "%s", layout->shape[axis], after);
    }
    char order = da_file_type_size(layout->type) == 1 ? '|' : '<';
    size_t length = (size_t)snprintf(dict, sizeof dict, "{'descr': '%c%s', 'fortran_order': False, 'shape': (%s), }",
                                     order, descriptors[layout->type], shape);
    size_t total = (PREFIX + length + 1 + DA_FILE_ALIGNMENT - 1) / DA_FILE_ALIGNMENT * DA_FILE_ALIGNMENT;
    char *bytes = da_allocate(NULL, total, 1);
    if (bytes == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(bytes, ' ', total);
    memcpy(bytes, magic, MAGIC_BYTES);
    bytes[6] = 1;
    bytes[7] = 0;
    bytes[8] = (char)((total - PREFIX) & 0xFF);
    bytes[9] = (char)((total - PREFIX) >> 8);
    memcpy(bytes + PREFIX, dict, length);
    bytes[total - 1] = '\n';
    *out = (da_file_header){.bytes = bytes, .length = total};
    return DA_OK;
}
