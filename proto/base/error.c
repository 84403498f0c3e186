/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const texts[] = {
#define ERROR_TEXT(name, text) text,
    ERROR_CODES(ERROR_TEXT)
#undef ERROR_TEXT
};

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

const char *error_text(int code)
{
    int index = code - ERROR_FIRST_ - 1;
    bool known = index >= 0 && index < (int)(sizeof texts / sizeof *texts);
    return known ? texts[index] : code == 0 ? "success" : "unknown error";
}
