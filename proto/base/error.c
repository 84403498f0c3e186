/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct row {
    const char *text;
    bool transient;
} rows[] = {
#define ERROR_ROW(name, text, transient) {text, transient},
    ERROR_CODES(ERROR_ROW)
#undef ERROR_ROW
};

static const struct row *row_of(int code)
{
    int index = code - ERROR_FIRST_ - 1;
    return index >= 0 && index < (int)(sizeof rows / sizeof *rows) ? &rows[index] : NULL;
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return code;
}

int error_wrap(struct error *err, const char *fmt, ...)
{
    char inner[sizeof err->text];
    memcpy(inner, err->text, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    int room = (int)sizeof err->text - used - 3;
    if (used >= 0 && room > 0)
        snprintf(err->text + used, (size_t)room + 3, ": %.*s", room, inner);
    return err->code;
}

bool error_is_transient(int code)
{
    const struct row *row = row_of(code);
    return row && row->transient;
}

const char *error_text(int code)
{
    const struct row *row = row_of(code);
    return row ? row->text : code == 0 ? "success" : "unknown error";
}
