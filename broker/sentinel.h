/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_SENTINEL_H
#define BROKER_SENTINEL_H

/* Asks Redis' sentinels, one after another, where the master is. */

#include "broker/redis.h"

struct sentinel_search;

/* host NULL: none knows, `why` says what the last one said. Called once, never from sentinel_ask;
 * the search is gone then. */
typedef void sentinel_fn(const char *host, int port, const char *why, void *arg);

/* Borrows url (sentinels and master_name) until the answer. */
struct sentinel_search *sentinel_ask(struct event_base *base, const struct redis_url *url,
                                     sentinel_fn *fn, void *arg);
void sentinel_cancel(struct sentinel_search *s); /* fn is not called */

#endif
