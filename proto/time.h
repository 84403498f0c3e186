/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_TIME_H
#define PROTO_TIME_H

/* Instants as text. In memory an instant is an int64_t of microseconds since the epoch, UTC. */

#include <stddef.h>
#include <stdint.h>

#define TIME_NONE INT64_MIN /* no instant */

/* ISO 8601 as Celery's parser accepts it (offset, Z, basic form, date only; naive means UTC).
 * 0 or INVALID. */
int time_parse(const char *text, size_t size, int64_t *ret_time);

/* Python's datetime.isoformat() in UTC with +00:00; microseconds vanish when zero. Returns out. */
char *time_print(int64_t time, char out[40]);

#endif
