/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json_lex.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A tree as json.dumps prints it. */

/* Digits without the point, and the exponent of the first one, of the shortest text that reads
 * back. */
static int shortest(double value, char digits[20])
{
    char text[40];
    /* Every text of 15 digits survives a double; the denormal ones alone hold fewer. */
    for (int precision = value < 0x1p-1022 ? 1 : 15; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    size_t count = 0;
    const char *at = text;
    for (; *at && *at != 'e'; at++) {
        if (*at >= '0' && *at <= '9')
            digits[count++] = *at;
    }
    while (count > 1 && digits[count - 1] == '0')
        count--;
    digits[count] = '\0';
    return (int)strtol(at + 1, NULL, 10);
}

/* As Python's repr() does it: exponents only below 1e-4 and from 1e16 on. */
static void print_float(double value, struct buf *out)
{
    char digits[20];
    if (signbit(value))
        buf_char(out, '-');
    int exponent = shortest(fabs(value), digits), count = (int)strlen(digits);
    if (exponent < -4 || exponent >= 16) {
        buf_printf(out, "%c%s%se%c%02d", digits[0], count > 1 ? "." : "", digits + 1,
                   exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        buf_printf(out, "0.%.*s%s", -exponent - 1, "000", digits);
    } else if (count <= exponent + 1) {
        buf_printf(out, "%s%.*s.0", digits, exponent + 1 - count, "0000000000000000");
    } else {
        buf_printf(out, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
    }
}

static void print_number(const cJSON *number, struct buf *out)
{
    double value = number->valuedouble;
    if (number->valuestring)
        buf_str(out, number->valuestring);
    else if (isnan(value))
        buf_str(out, "NaN");
    else if (isinf(value))
        buf_str(out, value < 0 ? "-Infinity" : "Infinity");
    else if (fabs(value) <= 0x1p53 && value == trunc(value) && !(value == 0 && signbit(value)))
        buf_printf(out, "%lld", (long long)value);
    else
        print_float(value, out);
}

static void print_point(uint32_t point, struct buf *out)
{
    static const char short_form[0x20] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char text[16];
    int size;
    if (point == '"' || point == '\\')
        size = snprintf(text, sizeof text, "\\%c", (int)point);
    else if (point < 0x20 && short_form[point])
        size = snprintf(text, sizeof text, "\\%c", short_form[point]);
    else if (point < 0x10000)
        size = snprintf(text, sizeof text, "\\u%04x", point);
    else
        size = snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
                        0xDC00 + ((point - 0x10000) & 0x3FF));
    buf_add(out, text, (size_t)size);
}

void json_print_string(const char *text, size_t size, struct buf *out)
{
    const char *at = text, *end = text + size;
    buf_char(out, '"');
    while (at < end) {
        const char *stop = lex_plain_end(at, end);
        const char *delete = memchr(at, 0x7F, (size_t)(stop - at));
        stop = delete ? delete : stop;
        buf_add(out, at, (size_t)(stop - at));
        at = stop;
        if (at == end)
            break;
        uint32_t point = (unsigned char)*at;
        size_t used = point < 0x80 ? 1 : utf8_read(at, end, &point);
        print_point(used ? point : 0xFFFD, out);
        at += used ? used : 1;
    }
    buf_char(out, '"');
}

static void print_text(const char *text, struct buf *out)
{
    json_print_string(text ? text : "", text ? strlen(text) : 0, out);
}

static void print_container(const cJSON *value, struct buf *out)
{
    bool object = cJSON_IsObject(value);
    buf_char(out, object ? '{' : '[');
    for (const cJSON *item = value->child; item; item = item->next) {
        if (object) {
            print_text(item->string, out);
            buf_add(out, ": ", 2);
        }
        json_print(item, out);
        if (item->next)
            buf_add(out, ", ", 2);
    }
    buf_char(out, object ? '}' : ']');
}

void json_print(const cJSON *value, struct buf *out)
{
    switch (value ? value->type & 0xFF : cJSON_NULL) {
    case cJSON_Object:
    case cJSON_Array:
        print_container(value, out);
        break;
    case cJSON_String:
        print_text(value->valuestring, out);
        break;
    case cJSON_Number:
        print_number(value, out);
        break;
    case cJSON_True:
        buf_str(out, "true");
        break;
    case cJSON_False:
        buf_str(out, "false");
        break;
    case cJSON_Raw:
        buf_str(out, value->valuestring ? value->valuestring : "null");
        break;
    default:
        buf_str(out, "null");
    }
}

char *json_text(const cJSON *value)
{
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    json_print(value, &out);
    return buf_take(&out);
}
