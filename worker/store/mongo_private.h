/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_MONGO_PRIVATE_H
#define WORKER_STORE_MONGO_PRIVATE_H

/* What the parts of the MongoDB store share: mongo_client.c makes the client from URL and settings,
 * mongo_bulk.c writes documents, mongo.c is the store. */

#include "worker/store/thread.h"

#include <mongoc/mongoc.h>

struct mongo_store {
    mongoc_uri_t *uri;
    char *database, *tasks_name, *groups_name;
    double expires;
    bool extended;
    bool raised_concern;       /* the URL asked for w=0: to be noted                          */
    bool has_ignored_settings; /* mongodb_backend_settings has more than we read: to be noted */
    mongoc_client_t *client;   /* made on first use: looking up an SRV name blocks            */
    mongoc_collection_t *tasks;
    bool prepared;       /* its indexes are made  */
    bool noted_children; /* see refuse() in mongo_bulk.c */
    bool tidied;
};

/* One record on its way into a bulk. */
struct mongo_job {
    struct store_entry *entry;
    bson_t *document; /* libbson aligns its own beyond what mem_alloc gives */
    enum { JOB_WAITING, JOB_EXISTS, JOB_DONE } state;
};

/* Does not connect. NULL: the URL is wrong. */
struct mongo_store *mongo_store_new(const struct store_setup *setup, struct error *err);
int mongo_store_connect(struct mongo_store *m, struct error *err);
/* After a failure: a client that has failed to reach a server does not look again for 5 s, a new
 * one does at once. */
void mongo_store_disconnect(struct mongo_store *m);
void mongo_store_free(void *store);

/* Writes documents of different ids. Each job's entry is settled (code 0 or refused), or a
 * transient code is returned and all may be written again. */
int mongo_write(struct mongo_store *m, struct store_thread *t, struct mongo_job *all, size_t n,
                struct error *err);

/* Is this error about the server, even when it names a document? Then it may pass. */
bool mongo_is_about_server(int64_t code);

#endif
