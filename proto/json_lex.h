/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_JSON_LEX_H
#define PROTO_JSON_LEX_H

/* JSON's text, read from left to right: what json_walk.c (no tree) and json_parse.c (cJSON's tree)
 * have in common. Private to proto/json_*.c. What runs for every byte or member is inline here;
 * what is rare (escapes, UTF-8, mistakes) is in json_lex.c. A function that says false has met bad
 * text, and `why` and `at` tell what and where. */

#include "proto/json.h"
#include "proto/utf8.h"

#include <endian.h>
#include <string.h>

struct lex {
    const char *at, *end, *start;
    const char *why; /* set by the first failure; `at` then points to where */
    int depth;
};

bool lex_fail(struct lex *x, const char *why) __attribute__((cold));
int lex_error(const struct lex *x, struct error *err);

static inline struct lex lex_over(const char *text, size_t size)
{
    return (struct lex){.at = text, .end = text + size, .start = text};
}

/* --- strings --- */

/* Bytes that end a plain stretch of a string: controls, quote, backslash, beginnings of UTF-8. */
extern const uint8_t lex_specials[256];

#define EACH(byte) (0x0101010101010101u * (byte))

/* A word with the top bit set in the first special byte of eight. Borrows can mark bytes after a
 * special one by mistake, never bytes before it, so that the lowest mark is always right. */
static inline uint64_t lex_special_mark(uint64_t x)
{
    uint64_t quote = x ^ EACH('"'), slash = x ^ EACH('\\');
    uint64_t hit = ((quote - EACH(1)) & ~quote) | ((slash - EACH(1)) & ~slash) |
                   ((x - EACH(0x20)) & ~x) | x;
    return hit & EACH(0x80);
}

static inline const char *lex_plain_end(const char *at, const char *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        uint64_t mark = lex_special_mark(le64toh(word));
        if (mark)
            return at + (__builtin_ctzll(mark) >> 3);
    }
    while (at < end && !lex_specials[(unsigned char)*at])
        at++;
    return at;
}

/* Moves over what ended a plain stretch: an escape or a character of UTF-8. */
bool lex_special(struct lex *x);

/* x->at is on the opening quote. */
static inline bool lex_string(struct lex *x)
{
    x->at++;
    for (;;) {
        x->at = lex_plain_end(x->at, x->end);
        if (x->at < x->end && *x->at == '"') {
            x->at++;
            return true;
        }
        if (!lex_special(x))
            return false;
    }
}

/* Decodes the string at x->at and moves behind it; returns the end of what was written, NULL when
 * it is no string. The result is never longer than the source without its quotes. */
char *lex_decode(struct lex *x, char *out);

/* --- what stands between values --- */

static inline void lex_space(struct lex *x)
{
    /* Mostly none or one blank: json.dumps writes ", " and ": ". */
    if (x->at < x->end && *x->at == ' ')
        x->at++;
    if (x->at < x->end && (unsigned char)*x->at > ' ')
        return;
    while (x->at < x->end &&
           (*x->at == ' ' || *x->at == '\n' || *x->at == '\t' || *x->at == '\r'))
        x->at++;
}

static inline bool lex_enter(struct lex *x)
{
    if (x->depth == JSON_MAX_DEPTH)
        return lex_fail(x, "nested too deeply");
    x->depth++;
    x->at++;
    lex_space(x);
    return true;
}

/* Whether a container ends here; leaves it then. */
static inline bool lex_leave(struct lex *x, char bracket)
{
    if (x->at == x->end || *x->at != bracket)
        return false;
    x->at++;
    x->depth--;
    return true;
}

/* The comma before another item; with `bracket` instead the container has ended, *ret_end says
 * so. */
static inline bool lex_separator(struct lex *x, char bracket, bool *ret_end)
{
    lex_space(x);
    *ret_end = lex_leave(x, bracket);
    if (*ret_end)
        return true;
    if (x->at == x->end || *x->at != ',')
        return lex_fail(x, bracket == '}' ? "',' or '}' expected" : "',' or ']' expected");
    x->at++;
    lex_space(x);
    return true;
}

/* After a value nothing may follow. */
static inline bool lex_at_end(struct lex *x)
{
    lex_space(x);
    return x->at == x->end || lex_fail(x, "more text after the value");
}

/* Moves over one value, whatever it is. */
bool lex_value(struct lex *x);

#endif
