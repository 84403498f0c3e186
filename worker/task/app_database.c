/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/app_database.h"

#include <mongoc/mongoc.h>
#include <string.h>

static const char USUAL_DATABASE[] = "cspm_orchestration";

static bool is_mongodb(const char *url)
{
    return url && (strncmp(url, "mongodb://", 10) == 0 || strncmp(url, "mongodb+srv://", 14) == 0);
}

struct _mongoc_uri_t *app_database_uri(const struct settings *s, struct error *err)
{
    bool own = s && s->app_database_url && *s->app_database_url;
    const char *url = own ? s->app_database_url : s ? s->result_backend : NULL;
    bson_error_t error = {0};
    if (!own && !is_mongodb(url)) {
        error_set(err, ERROR_NOT_FOUND,
                  "no database for tasks: set app_database_url to a mongodb:// URL");
        return NULL;
    }
    mongoc_uri_t *uri = mongoc_uri_new_with_error(url, &error);
    if (!uri) {
        error_set(err, ERROR_INVALID, "app_database_url: %s", error.message);
        return NULL;
    }
    const char *name = mongoc_uri_get_database(uri);
    if (!own || !name || !*name) {
        /* Whoever is known to the server by the result database stays known by that. */
        if (name && *name && !mongoc_uri_get_option_as_utf8(uri, MONGOC_URI_AUTHSOURCE, NULL))
            mongoc_uri_set_auth_source(uri, name);
        mongoc_uri_set_database(uri, USUAL_DATABASE);
    }
    return uri;
}
