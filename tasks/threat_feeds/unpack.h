/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_THREAT_FEEDS_UNPACK_H
#define TASKS_THREAT_FEEDS_UNPACK_H

#include "tasks/cworker.h"

/* A body that may be a gzip file, or a zip archive whose first file is wanted, as a stream;
 * anything else passes through as it is. */

struct unpack; /* freed with the delivery */
typedef int unpack_fn(const char *data, size_t size, void *arg);

/* No more than `max` bytes come out, whatever goes in. */
struct unpack *unpack_open(cw_task *t, size_t max, unpack_fn *fn, void *arg);
int unpack_feed(struct unpack *u, const char *data, size_t size);
int unpack_end(struct unpack *u);               /* < 0 too when the archive is cut */
bool unpack_is_archive(const struct unpack *u); /* known at the end */

#endif
