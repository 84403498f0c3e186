/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_ERROR_H
#define PROTO_BASE_ERROR_H

/* How every layer reports what went wrong. A function that can fail returns 0 or a negative code of
 * this list and, where words help, fills a struct error that lives on its caller's stack. proto/ and
 * broker/ never log: the level that decides (retry, dead-letter, stop) does, once. */

#include <stdbool.h>

/* name, text for people, whether trying again may help */
#define ERROR_CODES(X)                                                                             \
    X(INVALID, "invalid", false)                                                                   \
    X(TOO_BIG, "too big", false)                                                                   \
    X(UNSUPPORTED, "unsupported", false)                                                           \
    X(NOT_FOUND, "not found", false)                                                               \
    X(DENIED, "access denied", false)                                                              \
    X(UNAVAILABLE, "unavailable", true)                                                            \
    X(TIMEOUT, "timed out", true)                                                                  \
    X(LOST, "no longer ours", false)                                                               \
    X(SYSTEM, "system error", true)

enum error_code {
    ERROR_FIRST_ = -64,
#define ERROR_ENUM(name, text, transient) ERROR_##name,
    ERROR_CODES(ERROR_ENUM)
#undef ERROR_ENUM
};

struct error {
    int code; /* 0 or an enum error_code */
    char text[240];
};

/* Sets `err` (may be NULL) and returns `code`, so that `return error_set(…)` is the whole path. */
int error_set(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Puts "context: " before the text already there; returns the code. */
int error_wrap(struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));

bool error_is_transient(int code);
const char *error_text(int code);

#endif
