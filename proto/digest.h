/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_DIGEST_H
#define PROTO_DIGEST_H

#include "proto/base/slice.h"

/* Digests in hexadecimal, as Redis' scripts have them. */
void digest_sha1(struct slice text, char out[41]);
void digest_sha256(struct slice text, char out[65]);

#endif
