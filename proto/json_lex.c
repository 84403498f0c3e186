/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json_lex.h"

/* The rare half of reading a string: escapes, characters beyond ASCII, and the words for what is
 * wrong. */

bool lex_fail(struct lex *x, const char *why)
{
    if (!x->why)
        x->why = why;
    return false;
}

int lex_error(const struct lex *x, struct error *err)
{
    return error_set(err, ERROR_INVALID, "%s at byte %zu", x->why, (size_t)(x->at - x->start));
}

const uint8_t lex_specials[256] = {
    [0 ... 0x1F] = 1, ['"'] = 1, ['\\'] = 1, [0x80 ... 0xFF] = 1};

static size_t utf8_write(uint32_t point, char *out)
{
    if (point && point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xC0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    size_t size = point < 0x10000 ? 3 : 4;
    for (size_t i = size; --i;) {
        out[i] = (char)(0x80 | (point & 0x3F));
        point >>= 6;
    }
    out[0] = (char)((size == 3 ? 0xE0 : 0xF0) | point);
    return size;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The code unit of \uXXXX at `at`, -1 when there is none. */
static int32_t unit_read(const char *at, const char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return -1;
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* Reads the escape at x->at, a surrogate pair as one. */
static bool escape_read(struct lex *x, uint32_t *ret_point)
{
    static const char names[] = "\"\\/bfnrt", points[] = "\"\\/\b\f\n\r\t";
    const char *name = x->end - x->at < 2 || !x->at[1] ? NULL : strchr(names, x->at[1]);
    if (name) {
        *ret_point = (unsigned char)points[name - names];
        x->at += 2;
        return true;
    }
    int32_t unit = unit_read(x->at, x->end);
    if (unit < 0)
        return lex_fail(x, "bad escape in a string");
    x->at += 6;
    *ret_point = (uint32_t)unit;
    if (unit >= 0xD800 && unit < 0xDC00) {
        int32_t low = unit_read(x->at, x->end);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *ret_point = 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
            x->at += 6;
        }
    }
    return true;
}

bool lex_special(struct lex *x)
{
    uint32_t point;
    if (x->at == x->end)
        return lex_fail(x, "unterminated string");
    if (*x->at == '\\')
        return escape_read(x, &point);
    if ((unsigned char)*x->at < 0x20)
        return lex_fail(x, "control character in a string");
    size_t size = utf8_strict(x->at, x->end);
    if (!size)
        return lex_fail(x, "bad UTF-8");
    x->at += size;
    return true;
}

char *lex_decode(struct lex *x, char *out)
{
    x->at++;
    for (;;) {
        const char *stop = lex_plain_end(x->at, x->end);
        size_t plain = (size_t)(stop - x->at);
        memcpy(out, x->at, plain);
        out += plain;
        x->at = stop;
        if (stop < x->end && *stop == '"') {
            x->at++;
            return out;
        }
        uint32_t point;
        bool escape = stop < x->end && *stop == '\\';
        if (!(escape ? escape_read(x, &point) : lex_special(x)))
            return NULL;
        if (escape) {
            out += utf8_write(point, out);
        } else {
            memcpy(out, stop, (size_t)(x->at - stop));
            out += x->at - stop;
        }
    }
}
