/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_DATE_H
#define TASKS_LIB_DATE_H

#include <stdint.h>

#define DATE_NONE INT64_MIN

/* Milliseconds UTC of an ISO 8601 time (`2026-11-21T10:00:00.5+01:00`, with a blank for the T,
 * without a zone: UTC; a date alone) or of whole seconds since 1970; DATE_NONE when it is neither.
 */
int64_t date_read(const char *text);

#endif
