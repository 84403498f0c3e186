/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_BASE64_H
#define PROTO_BASE64_H

#include "proto/base/buf.h"
#include "proto/base/slice.h"

/* Standard alphabet, padded, nothing else in it. Both append to out, which must not hold `in`.
 * Decoding answers 0, INVALID or TOO_BIG; then out is as it was. */
int base64_decode(struct slice in, struct buf *out);
void base64_encode(struct slice in, struct buf *out);

#endif
