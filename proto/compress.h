/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_COMPRESS_H
#define PROTO_COMPRESS_H

/* Bodies as Kombu compresses them. Names are those that task_compression takes and those that it
 * writes into a message's `compression` header. */

#include "proto/base/buf.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

/* Appends to out, at most max bytes. INVALID: broken data; TOO_BIG; UNSUPPORTED: an unknown name,
 * or a library that this build is without. */
int compression_decode(const char *name, struct slice in, size_t max, struct buf *out,
                       struct error *err);
/* ret_header: what the header says. */
int compression_encode(const char *name, struct slice in, struct buf *out, const char **ret_header,
                       struct error *err);

#endif
