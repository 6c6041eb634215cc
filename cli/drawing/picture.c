#include "drawing/picture.h"

#include <cairo-svg.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/text.h"

static bool path_ends_in(const char *path, const char *ending) {
    size_t length = strlen(path), tail = strlen(ending);
    return length > tail && strcmp(path + length - tail, ending) == 0;
}

bool picture_path_is_known(const char *path) {
    return path_ends_in(path, ".png") || path_ends_in(path, ".svg");
}

static cairo_status_t write_bytes(void *file, const unsigned char *data, unsigned int length) {
    return fwrite(data, 1, length, file) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static picture_size measure(picture_painter *paint, void *user) {
    cairo_surface_t *surface = cairo_recording_surface_create(CAIRO_CONTENT_COLOR_ALPHA, NULL);
    cairo_t *cairo = cairo_create(surface);
    picture_size size = paint(cairo, user);
    cairo_destroy(cairo);
    cairo_surface_destroy(surface);
    return (picture_size){ceil(size.width), ceil(size.height)};
}

static cairo_status_t draw(FILE *file, bool svg, picture_size size, picture_painter *paint, void *user) {
    cairo_surface_t *surface = svg ? cairo_svg_surface_create_for_stream(write_bytes, file, size.width, size.height)
                                   : cairo_image_surface_create(CAIRO_FORMAT_RGB24, PICTURE_SCALE * (int)size.width,
                                                                PICTURE_SCALE * (int)size.height);
    if (!svg) {
        cairo_surface_set_device_scale(surface, PICTURE_SCALE, PICTURE_SCALE);
    }
    cairo_t *cairo = cairo_create(surface);
    cairo_set_source_rgb(cairo, 1.0, 1.0, 1.0);
    cairo_paint(cairo);
    paint(cairo, user);
    cairo_status_t status = cairo_status(cairo);
    cairo_destroy(cairo);
    if (status == CAIRO_STATUS_SUCCESS && !svg) {
        status = cairo_surface_write_to_png_stream(surface, write_bytes, file);
    }
    cairo_surface_finish(surface);
    if (status == CAIRO_STATUS_SUCCESS) {
        status = cairo_surface_status(surface);
    }
    cairo_surface_destroy(surface);
    return status;
}

static da_status failure(const char *path, cairo_status_t status, int error) {
    if (status == CAIRO_STATUS_NO_MEMORY) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for the picture", path);
    }
    bool drawing = status != CAIRO_STATUS_SUCCESS && status != CAIRO_STATUS_WRITE_ERROR;
    return da_report(DA_ERROR_IO, "%s: %s", path, drawing ? cairo_status_to_string(status) : strerror(error));
}

static da_status write_beside(const char *path, const char *temporary, picture_painter *paint, void *user,
                              picture_size size) {
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (file == NULL) {
        int error = errno;
        if (descriptor >= 0) {
            close(descriptor);
            unlink(temporary);
        }
        return failure(path, CAIRO_STATUS_SUCCESS, error);
    }
    errno = 0;
    cairo_status_t status = draw(file, path_ends_in(path, ".svg"), size, paint, user);
    bool written = status == CAIRO_STATUS_SUCCESS && fflush(file) == 0 && !ferror(file);
    int error = written || errno != 0 ? errno : EIO;
    if (fclose(file) != 0 && written) {
        written = false;
        error = errno;
    }
    if (written && rename(temporary, path) != 0) {
        written = false;
        error = errno;
    }
    if (!written) {
        unlink(temporary);
        return failure(path, status, error);
    }
    return DA_OK;
}

da_status picture_write(const char *path, picture_painter *paint, void *user, picture_size *size) {
    if (!picture_path_is_known(path)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: a picture's name ends in .png or .svg", path);
    }
    *size = measure(paint, user);
    da_text temporary = {0};
    da_text_append(&temporary, "%s.%ld.tmp", path, (long)getpid());
    if (temporary.failed) {
        da_text_free(&temporary);
        return da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for the picture", path);
    }
    da_status status = write_beside(path, temporary.data, paint, user, *size);
    da_text_free(&temporary);
    return status;
}
