/* SPDX-License-Identifier: Apache-2.0 */
/* MongoDB's client, as Celery would connect and write: from the result_backend URL and
 * mongodb_backend_settings. */
#include "worker/store/mongo_private.h"

#include "proto/base/mem.h"
#include "worker/config/settings.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* libmongoc reads `host:27999x` as port 27999. */
static bool ports_are_numbers(const char *url)
{
    const char *at = strstr(url, "://") + 3, *end = at + strcspn(at, "/?");
    for (const char *c = at; c < end; c++)
        if (*c == '@')
            at = c + 1;
    while (at < end) {
        const char *host_end = at + strcspn(at, ",/?");
        const char *bracket = *at == '[' ? memchr(at, ']', (size_t)(host_end - at)) : NULL;
        const char *colon =
            memchr(bracket ? bracket : at, ':', (size_t)(host_end - (bracket ? bracket : at)));
        size_t n_digits = colon ? strspn(colon + 1, "0123456789") : 1;
        if (n_digits == 0 || (colon && colon + 1 + n_digits != host_end))
            return false;
        at = host_end + 1;
    }
    return true;
}

static mongoc_uri_t *parse_url(const char *url, struct error *err)
{
    bson_error_t why;
    size_t scheme = strcspn(url, ":");
    if (strncmp(url + scheme, "://", 3) != 0 || !ports_are_numbers(url)) {
        error_set(err, ERROR_INVALID, "this is no mongodb://host[:port]/database URL");
        return NULL;
    }
    bool bare = url[scheme + 3] == '\0';
    mongoc_uri_t *uri = mongoc_uri_new_with_error(bare ? "mongodb://localhost" : url, &why);
    if (!uri)
        error_set(err, ERROR_INVALID, "%s", why.message);
    return uri;
}

/* Celery authenticates against admin whatever the path names; libmongoc would against the path. */
static void apply_auth_source(mongoc_uri_t *uri)
{
    const char *mechanism = mongoc_uri_get_auth_mechanism(uri);
    bson_iter_t at;
    const bson_t *credentials = mongoc_uri_get_credentials(uri);
    bool named = credentials && bson_iter_init_find_case(&at, credentials, MONGOC_URI_AUTHSOURCE);
    if (mongoc_uri_get_username(uri) && !named &&
        (!mechanism || !strncmp(mechanism, "SCRAM", strlen("SCRAM"))))
        mongoc_uri_set_auth_source(uri, "admin");
}

/* Majority unless the URL says otherwise. Unacknowledged writes would tell us nothing. */
static void apply_write_concern(struct mongo_store *m)
{
    mongoc_write_concern_t *concern =
        mongoc_write_concern_copy(mongoc_uri_get_write_concern(m->uri));
    int w = mongoc_write_concern_get_w(concern);
    if (w == MONGOC_WRITE_CONCERN_W_DEFAULT)
        mongoc_write_concern_set_wmajority(concern, 0);
    m->raised_concern = w == MONGOC_WRITE_CONCERN_W_UNACKNOWLEDGED;
    if (m->raised_concern)
        mongoc_write_concern_set_w(concern, 1);
    if (mongoc_write_concern_get_wtimeout_int64(concern) <= 0)
        mongoc_write_concern_set_wtimeout_int64(concern, 10000);
    mongoc_uri_set_write_concern(m->uri, concern);
    mongoc_write_concern_destroy(concern);
}

/* Whether a task that comes again has succeeded already, a secondary that lags does not know. */
static void apply_read_preference(mongoc_uri_t *uri)
{
    mongoc_read_prefs_t *primary = mongoc_read_prefs_new(MONGOC_READ_PRIMARY);
    mongoc_uri_set_read_prefs_t(uri, primary);
    mongoc_read_prefs_destroy(primary);
}

static void apply_defaults(mongoc_uri_t *uri)
{
    if (!mongoc_uri_has_option(uri, MONGOC_URI_SOCKETTIMEOUTMS))
        mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SOCKETTIMEOUTMS, 30000);
    if (!mongoc_uri_has_option(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS))
        mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, 5000);
    if (!mongoc_uri_get_appname(uri))
        mongoc_uri_set_appname(uri, "cworker");
}

static void apply_settings(struct mongo_store *m, const cJSON *settings)
{
    const char *in_url = mongoc_uri_get_database(m->uri);
    char **refs[] = {&m->database, &m->tasks_name, &m->groups_name};
    const char *const names[] = {"database", "taskmeta_collection", "groupmeta_collection"};
    /* As with Celery, a collection behind the database's name has no effect. */
    m->database = in_url && *in_url ? mem_ndup(in_url, strcspn(in_url, ".")) : mem_dup("celery");
    m->tasks_name = mem_dup("celery_taskmeta");
    m->groups_name = mem_dup("celery_groupmeta");
    for (const cJSON *s = settings ? settings->child : NULL; s; s = s->next) {
        size_t i = 0;
        while (i < 3 && strcmp(names[i], s->string) != 0)
            i++;
        if (i < 3 && cJSON_IsString(s) && s->valuestring[0]) {
            free(*refs[i]);
            *refs[i] = mem_dup(s->valuestring);
        } else {
            m->has_ignored_settings = true;
        }
    }
}

static void drop_log(mongoc_log_level_t level, const char *domain, const char *text, void *arg)
{
    (void)level, (void)domain, (void)text, (void)arg;
}

static void init_library(void)
{
    mongoc_init();
    mongoc_log_set_handler(drop_log, NULL); /* our notes say it once and in our words */
}

void mongo_store_disconnect(struct mongo_store *m)
{
    mongoc_collection_destroy(m->tasks);
    mongoc_client_destroy(m->client);
    m->tasks = NULL;
    m->client = NULL;
}

void mongo_store_free(void *store)
{
    struct mongo_store *m = store;
    mongo_store_disconnect(m);
    mongoc_uri_destroy(m->uri);
    free(m->database);
    free(m->tasks_name);
    free(m->groups_name);
    free(m);
}

struct mongo_store *mongo_store_new(const struct store_setup *setup, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_library);
    mongoc_uri_t *uri = parse_url(setup->url, err);
    if (!uri)
        return NULL;
    struct mongo_store *m = mem_zalloc(sizeof *m);
    m->uri = uri;
    m->expires = setup->expires;
    apply_auth_source(uri);
    apply_write_concern(m);
    apply_read_preference(uri);
    apply_defaults(uri);
    m->extended = setup->settings->result_extended;
    apply_settings(m, setup->settings->mongodb_backend_settings);
    return m;
}

int mongo_store_connect(struct mongo_store *m, struct error *err)
{
    bson_error_t why;
    if (m->client)
        return 0;
    m->client = mongoc_client_new_from_uri_with_error(m->uri, &why);
    if (!m->client)
        return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    mongoc_client_set_error_api(m->client, MONGOC_ERROR_API_VERSION_2);
    m->tasks = mongoc_client_get_collection(m->client, m->database, m->tasks_name);
    return 0;
}
