/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_URL_H
#define BROKER_URL_H

/* Redis URLs as Celery writes them:
 *   redis://[[user]:password@]host[:port][/db]      rediss://…?ssl_cert_reqs=…&ssl_ca_certs=…
 *   redis+socket:///path?virtual_host=db            (also unix://)
 *   sentinel://[[user]:password@]host[:port][/db];sentinel://host[:port];…
 *     user, password and db are the master's; with ssl_… parameters it is spoken to by TLS
 * User and password are percent-decoded. Without ssl_cert_reqs a rediss:// broker is verified,
 * unlike in Kombu: `ssl_cert_reqs=none` says otherwise. */

#include "proto/json.h"

enum redis_verify { REDIS_VERIFY_REQUIRED, REDIS_VERIFY_OPTIONAL, REDIS_VERIFY_NONE };

struct redis_url {
    char *host, *socket_path; /* one of the two */
    int port, db;
    char *user, *password;    /* NULL when not given */
    bool tls, check_hostname;
    enum redis_verify verify;
    char *ca_file, *cert_file, *key_file;
    /* sentinel:// only: host and port are found by asking these for the master of this name. */
    struct redis_url *sentinels;
    int n_sentinels;
    char *master;
};

int redis_url_parse(const char *text, struct redis_url *ret_url, struct error *err);
/* Transport options master_name and sentinel_kwargs (username, password, ssl, ssl_…; NULL: none).
 * Does nothing but for a sentinel:// URL, which needs a name. */
int redis_url_set_master(struct redis_url *url, const char *name, const cJSON *kwargs,
                         struct error *err);
struct redis_url redis_url_copy(const struct redis_url *url);
void redis_url_done(struct redis_url *url);

/* Any URL with its password replaced by ** (redis://user:**@host), for logs. Caller frees. */
char *url_mask(const char *text);

#endif
