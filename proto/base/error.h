/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE_ERROR_H
#define PROTO_BASE_ERROR_H

/* How every layer reports what went wrong. A function that can fail returns 0 or a negative code of
 * this list and, where words help, fills a struct error that lives on its caller's stack. proto/
 * and broker/ never log: the level that decides (retry, dead-letter, stop) does, once. */

/* name, text for people */
#define ERROR_CODES(X)                                                                             \
    X(INVALID, "invalid")                                                                          \
    X(TOO_BIG, "too big")                                                                          \
    X(UNSUPPORTED, "unsupported")                                                                  \
    X(NOT_FOUND, "not found")                                                                      \
    X(DENIED, "access denied")                                                                     \
    X(UNAVAILABLE, "unavailable")                                                                  \
    X(TIMEOUT, "timed out")                                                                        \
    X(LOST, "no longer ours")                                                                      \
    X(SYSTEM, "system error")

enum error_code {
    ERROR_FIRST_ = -64,
#define ERROR_ENUM(name, text) ERROR_##name,
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

const char *error_text(int code);

#endif
