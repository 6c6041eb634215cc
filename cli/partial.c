#include "partial.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/mapped_file.h"

#define FIRST_LINE "dilated-attention-partial 1\n"
#define STATE_ENDING ".state"

/* ---- the text ---------------------------------------------------------------------------------------------------- */

static void write_list(FILE *text, const char *name, const int64_t *values, size_t count) {
    fprintf(text, "%s", name);
    for (size_t k = 0; k < count; k++) {
        fprintf(text, "%c%" PRId64, k == 0 ? ' ' : ',', values[k]);
    }
    fprintf(text, "\n");
}

/* All of a configuration that a result depends on. A number is written so that no bit of it is lost. */
static void write_configuration(FILE *text, const da_attention_config *c) {
    write_list(text, "segments", c->segment_lengths, c->segment_count);
    write_list(text, "rates", c->dilation_rates, c->rate_count);
    fprintf(text, "configuration causal=%d window=%" PRId64 " mixing=%s offset-rule=%s tail-rule=%s overlap=%s ",
            c->causal, c->window, da_mixing_name(c->mixing), da_offset_rule_name(c->offset_rule),
            da_tail_rule_name(c->tail_rule), da_overlap_name(c->overlap));
    fprintf(text, c->scale_is_set ? "scale=%a\n" : "scale=default\n", c->scale);
    fprintf(text, "tuning unit=%" PRId64 " block-keys=%d\n", c->tuning.unit, c->tuning.block_keys);
}

/* A file is known by what the system says of it: another one, or one that was written to since, differs. */
static void write_file(FILE *text, const char *name, const char *path, size_t offset) {
    char file[PATH_MAX];
    struct stat status;
    if (!file_of_tensor(path, file) || stat(file, &status) != 0) {
        fprintf(text, "%s missing\n", name);
        return;
    }
    fprintf(text, "%s file=%llu:%llu bytes=%lld changed=%lld.%09ld offset=%zu\n", name,
            (unsigned long long)status.st_dev, (unsigned long long)status.st_ino, (long long)status.st_size,
            (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec, offset);
}

static void write_subject(FILE *text, const partial_subject *subject, int64_t block) {
    const da_problem *p = subject->problem;
    fprintf(text, FIRST_LINE "library %s\ninstruction-set %s\nblock %" PRId64 "\n", da_version(),
            da_isa_name(da_context_isa(subject->context)), block);
    fprintf(text, "shape batch=%" PRId64 " n=%" PRId64 " heads=%" PRId64 " kv-heads=%" PRId64 " head-dim=%" PRId64 "\n",
            p->batch, p->n, p->heads, p->kv_heads, p->head_dim);
    fprintf(text, "dtype %s\nlayout %s\nlse %s\n", da_dtype_name(p->dtype),
            subject->order == ORDER_BNHD ? "bnhd" : "bhnd", subject->has_lse ? "yes" : "no");
    write_configuration(text, subject->config);
    write_list(text, "lengths", subject->lengths->values, subject->lengths->count);
    for (size_t k = 0; k < CLI_COUNT(subject->inputs); k++) {
        const loaded_tensor *input = subject->inputs[k];
        size_t offset = (size_t)((const char *)input->file.data - (const char *)input->file.mapping.base);
        write_file(text, input->option + 2, input->path, offset);
    }
    write_file(text, "key-mask", subject->key_mask != NULL ? subject->key_mask : "", 0);
}

static char *text_of_subject(const partial_subject *subject, int64_t block) {
    char *made = NULL;
    size_t bytes = 0;
    FILE *text = open_memstream(&made, &bytes);
    if (text != NULL) {
        write_subject(text, subject, block);
        if (fclose(text) != 0) {
            free(made);
            made = NULL;
        }
    }
    return made;
}

static int begin(partial *state, const char *command, const results *written, const partial_subject *subject,
                 int64_t block) {
    const char *temporary = written->writers[0].file.temporary;
    size_t bytes = strlen(temporary) + sizeof(STATE_ENDING);
    *state = (partial){.path = malloc(bytes), .text = text_of_subject(subject, block), .block = block};
    if (state->path == NULL || state->text == NULL) {
        return cli_fail(command, "--out: no memory for the state of a partial result");
    }
    snprintf(state->path, bytes, "%s" STATE_ENDING, temporary);
    return CLI_CONTINUE;
}

static int write_state(const partial *state, const char *command) {
    char last[64];
    da_atomic_file file;
    size_t text = strlen(state->text);
    int length = snprintf(last, sizeof(last), "finished %" PRId64 "\n", state->finished);
    da_status status = da_atomic_file_create(state->path, text + (size_t)length, &file);
    if (status == DA_OK) {
        memcpy(file.mapping.base, state->text, text);
        memcpy((char *)file.mapping.base + text, last, (size_t)length);
        status = da_atomic_file_commit(&file);
    }
    return status == DA_OK ? CLI_CONTINUE : cli_fail(command, "--out: %s", da_last_error_message());
}

int partial_begin(partial *state, const char *command, const results *written, const partial_subject *subject,
                  int64_t block) {
    int code = begin(state, command, written, subject, block);
    return code == CLI_CONTINUE ? write_state(state, command) : code;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* The file as a string; NULL after a message. */
static char *read_state(const char *path, const char *command) {
    da_mapping file;
    if (da_mapping_open(path, &file) != DA_OK) {
        cli_fail(command, "--resume: %s", da_last_error_message());
        return NULL;
    }
    char *text = malloc(file.bytes + 1);
    if (text != NULL) {
        memcpy(text, file.base, file.bytes);
        text[file.bytes] = '\0';
    } else {
        cli_fail(command, "--resume: %s: no memory to read it", path);
    }
    da_mapping_close(&file);
    return text;
}

/* Says which line is the first that differs. */
static int refuse_other_run(const partial *state, const char *command, const char *found) {
    const char *wanted = state->text;
    for (;;) {
        size_t wanted_length = strcspn(wanted, "\n"), found_length = strcspn(found, "\n");
        if (wanted_length != found_length || strncmp(wanted, found, wanted_length) != 0 || *wanted == '\0' ||
            *found == '\0') {
            return cli_fail(command,
                            "--resume: %s: is of another run: it has \"%.*s\", this run \"%.*s\"; allowed: all that "
                            "bears on the result as it was",
                            state->path, (int)(found_length < 300 ? found_length : 300), found,
                            (int)(wanted_length < 300 ? wanted_length : 300), wanted);
        }
        wanted += wanted_length + 1;
        found += found_length + 1;
    }
}

static int read_finished(partial *state, const char *command, const char *line, int64_t n) {
    int end = 0;
    if (sscanf(line, "finished %" SCNd64 "%n", &state->finished, &end) != 1 || strcmp(line + end, "\n") != 0 ||
        state->finished < 0 || state->finished > n || (state->finished % state->block != 0 && state->finished != n)) {
        return cli_fail(command, "--resume: %s: damaged: its last line is not \"finished\" and tokens of whole blocks",
                        state->path);
    }
    return CLI_CONTINUE;
}

/* The block of a run that is to be resumed; 0: damaged. */
static int64_t block_in(const char *found) {
    int64_t block = 0;
    const char *line = strstr(found, "\nblock ");
    return line != NULL && sscanf(line, "\nblock %" SCNd64 "\n", &block) == 1 && block > 0 ? block : 0;
}

int partial_resume(partial *state, const char *command, const results *written, const partial_subject *subject) {
    int code = begin(state, command, written, subject, 1);
    char *found = code == CLI_CONTINUE ? read_state(state->path, command) : NULL;
    if (found == NULL) {
        return code == CLI_CONTINUE ? CLI_FAILED : code;
    }
    int64_t block = block_in(found);
    if (block == 0) {
        code = cli_fail(command, "--resume: %s: damaged: it has no block", state->path);
    } else {
        partial_free(state);
        code = begin(state, command, written, subject, block);
    }
    if (code == CLI_CONTINUE) {
        size_t length = strlen(state->text);
        code = strncmp(found, state->text, length) != 0
                   ? refuse_other_run(state, command, found)
                   : read_finished(state, command, found + length, subject->problem->n);
    }
    free(found);
    return code;
}

/* ---- while the run goes on --------------------------------------------------------------------------------------- */

int partial_save(partial *state, const char *command, const results *written, int64_t finished) {
    for (size_t k = 0; k < written->count; k++) {
        if (da_atomic_file_sync(&written->writers[k].file) != DA_OK) {
            return cli_fail(command, "%s: %s", written->options[k], da_last_error_message());
        }
    }
    state->finished = finished;
    return write_state(state, command);
}

void partial_remove(partial *state) {
    if (state->path != NULL) {
        unlink(state->path);
    }
}

void partial_free(partial *state) {
    free(state->path);
    free(state->text);
    *state = (partial){0};
}
