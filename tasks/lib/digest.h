/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_DIGEST_H
#define TASKS_LIB_DIGEST_H

#include "tasks/cworker.h"

/* Keys made from what they stand for, so that a second delivery makes the same ones: SHA-256 over
 * the parts, each ended by a line feed (one inside a part is escaped, so that ("a", "bc") and
 * ("ab", "c") differ). NULL ends the list. */

#define DIGEST_SIZE 65 /* 64 hexadecimal digits */
#define DIGEST_BYTES 32

void digest_bytes(const char *const *parts, unsigned char ret[DIGEST_BYTES]);
void digest_hex(const char *const *parts, char ret[DIGEST_SIZE]);
/* An id for cw_send: a UUID of version 8 from the same digest. */
void digest_id(const char *const *parts, char ret[CW_ID_SIZE]);

#endif
