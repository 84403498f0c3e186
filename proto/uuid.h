/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_UUID_H
#define PROTO_UUID_H

#include <stdint.h>

/* A random UUID (version 4) in its usual 36 characters. */
void uuid_make(char out[37]);

/* The number-th UUID that belongs to a text: always the same one. */
void uuid_derive(const char *text, uint64_t number, char out[37]);

#endif
