/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_THREAT_FEEDS_STIX_H
#define TASKS_THREAT_FEEDS_STIX_H

#include <stdbool.h>
#include <stddef.h>

/* The values that a STIX 2.1 pattern names on its own: equalities joined by OR. One that is joined
 * by AND, negated, timed or compared otherwise says nothing about a single value, and gives
 * none. */

typedef void stix_value_fn(const char *kind, const char *value, size_t size, void *arg);

/* Calls fn for each value; the number of them, 0 when the pattern has none to give. */
int stix_pattern_read(const char *pattern, stix_value_fn *fn, void *arg);

#endif
