/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_UTF8_H
#define PROTO_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads one sequence of two bytes or more as json.h's trees hold it: C0 80 (a NUL) and surrogates
 * pass. Its size; 0 when it is no UTF-8. */
size_t utf8_read(const char *text, const char *end, uint32_t *ret_point);

/* The same for what Python's decoder takes, and nothing else. */
size_t utf8_strict(const char *text, const char *end);

/* Is all of it such text? Plain ASCII is told quickly. */
bool utf8_is_valid(const char *text, size_t size);

#endif
