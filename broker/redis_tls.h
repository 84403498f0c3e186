/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_REDIS_TLS_H
#define BROKER_REDIS_TLS_H

/* The TLS side of a connection, made anew for each attempt so that renewed certificates are
 * read. */

#include "broker/url.h"

#include <openssl/types.h>
#include <stddef.h>

SSL *redis_tls_new(const struct redis_url *url, struct error *err);
/* What OpenSSL and the certificate check have to say of a failed attempt. */
void redis_tls_explain(SSL *ssl, unsigned long code, char *out, size_t size);

#endif
