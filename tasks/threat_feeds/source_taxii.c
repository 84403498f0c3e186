/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/json_stream.h"
#include "tasks/threat_feeds/feed.h"
#include "tasks/threat_feeds/stix.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* TAXII 2.1: the objects of one collection, or of every readable one of an API root, page by page. The
 * cursor of a collection is the server's own X-TAXII-Date-Added-Last of the last page; a `next` that
 * the server has forgotten (400) only costs the pass. */

enum { PAGES_MAX = 10000, COLLECTIONS_MAX = 50, NAME_MAX_SIZE = 128 };

struct taxii {
    struct feed *f;
    const char *accept, *authorization;
    char next[512];
    bool more, gave; /* of this page: more follow; it held an object */
    char collections[COLLECTIONS_MAX][NAME_MAX_SIZE];
    int n_collections;
};

/* --- requests --- */

static const char *basic(struct feed *f)
{
    const char *user = doc_text(f->document, "username");
    if (!f->key)
        return NULL;
    if (!user)
        return cw_printf(f->t, "Authorization: Bearer %s", f->key);
    char *text = cw_printf(f->t, "%s:%s", user, f->key);
    size_t size = strlen(text);
    unsigned char *coded = cw_alloc(f->t, size * 4 / 3 + 8);
    EVP_EncodeBlock(coded, (const unsigned char *)text, (int)size);
    return cw_printf(f->t, "Authorization: Basic %s", coded);
}

static int on_body(cw_task *t, const char *data, size_t size, void *stream)
{
    (void)t;
    return json_stream_feed(stream, data, size);
}

static int get(struct taxii *x, const char *url, const struct json_stream_options *options,
               struct cw_reply *ret_reply)
{
    struct json_stream *stream = json_stream_open(x->f->t, options);
    const char *headers[] = {x->accept, x->authorization, NULL};
    struct feed_request request = {
        .url = url, .headers = headers, .on_body = on_body, .arg = stream};
    int code = feed_get(x->f, &request, ret_reply);
    return code < 0 || json_stream_end(stream) < 0 ? -1 : 0;
}

/* --- objects --- */

struct giving {
    struct feed *f;
    struct sighting sighting;
    int code;
};

static void on_value(const char *kind, const char *value, size_t size, void *arg)
{
    struct giving *g = arg;
    g->sighting.kind = kind;
    if (g->code >= 0)
        g->code = sink_add(g->f, value, size, &g->sighting);
}

static int add_object(cw_task *t, const cJSON *object, void *arg)
{
    struct taxii *x = arg;
    struct giving g = {x->f, SIGHTING_NONE, 0};
    const char *type = tree_text(object, "type"), *pattern = tree_text(object, "pattern");
    const char *language = tree_text(object, "pattern_type");
    const cJSON *confidence = tree_at(object, "confidence");
    (void)t;
    x->gave = true;
    if (!type || strcmp(type, "indicator") != 0)
        return 0;
    if (!pattern) {
        x->f->bad++;
        return 0;
    }
    g.sighting.confidence = cJSON_IsNumber(confidence) ? confidence->valueint : -1;
    g.sighting.first_seen = date_read(tree_text(object, "valid_from"));
    g.sighting.last_seen = date_read(tree_text(object, "modified"));
    g.sighting.expires = date_read(tree_text(object, "valid_until"));
    g.sighting.tags = tree_at(object, "labels");
    g.sighting.withdrawn = cJSON_IsTrue(tree_at(object, "revoked"));
    bool readable = (!language || strcmp(language, "stix") == 0) &&
                    stix_pattern_read(pattern, on_value, &g) > 0;
    x->f->other += !readable;
    return g.code;
}

static int on_member(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct taxii *x = arg;
    (void)t;
    if (strcmp(name, "more") == 0)
        x->more = cJSON_IsTrue(value);
    if (strcmp(name, "next") == 0 && cJSON_IsString(value))
        snprintf(x->next, sizeof x->next, "%s", value->valuestring);
    return 0;
}

static const char *page_url(struct taxii *x, const char *base, const char *added_after)
{
    cw_task *t = x->f->t;
    const char *after =
        added_after ? cw_printf(t, "&added_after=%s", url_escape(t, added_after)) : "";
    const char *next = *x->next ? cw_printf(t, "&next=%s", url_escape(t, x->next)) : "";
    return cw_printf(t, "%s?limit=%d&match%%5Btype%%5D=indicator%s%s", base,
                     (int)doc_int(x->f->document, "limit", 1000), after, next);
}

/* Names of members of the state: a dot would nest them. */
static const char *cursor_name(struct taxii *x, const char *collection)
{
    char *name = cw_printf(x->f->t, "%s", collection);
    for (char *at = name; *at; at++)
        *at = *at == '.' || *at == '$' ? '_' : *at;
    return name;
}

static int read_collection(struct taxii *x, const char *url, const char *name, bson_t *cursors)
{
    struct feed *f = x->f;
    const char *member = cursor_name(x, name);
    const char *since = doc_text(f->document, cw_printf(f->t, "state.cursors.%s", member));
    const char *last = since;
    struct json_stream_options options = {
        .member = "objects", .on_element = add_object, .on_member = on_member, .arg = x};
    x->next[0] = '\0';
    for (int page = 1;; page++) {
        struct cw_reply reply;
        const char *at = page_url(x, url, since);
        x->more = x->gave = false;
        x->next[0] = '\0';
        if (get(x, at, &options, &reply) < 0)
            return -1;
        const char *added = cw_header(&reply, "x-taxii-date-added-last");
        last = added ? added : last;
        if (!x->more)
            break;
        if (!*x->next || !x->gave || page == PAGES_MAX)
            return cw_problem(f->t, false, "ValueError", "the server pages without an end");
    }
    doc_put(cursors, member, last, 100);
    return 0;
}

/* --- collections --- */

static int add_collection(cw_task *t, const cJSON *collection, void *arg)
{
    struct taxii *x = arg;
    const char *id = tree_text(collection, "id");
    (void)t;
    if (id && check_name(id) && strlen(id) < NAME_MAX_SIZE && x->n_collections < COLLECTIONS_MAX &&
        !cJSON_IsFalse(tree_at(collection, "can_read")))
        snprintf(x->collections[x->n_collections++], NAME_MAX_SIZE, "%s", id);
    return 0;
}

static int read_root(struct taxii *x, const char *root, bson_t *cursors)
{
    struct json_stream_options options = {
        .member = "collections", .on_element = add_collection, .arg = x};
    struct cw_reply reply;
    cw_task *t = x->f->t;
    if (get(x, cw_printf(t, "%scollections/", root), &options, &reply) < 0)
        return -1;
    for (int i = 0; i < x->n_collections; i++) {
        const char *url = cw_printf(t, "%scollections/%s/objects/", root, x->collections[i]);
        if (read_collection(x, url, x->collections[i], cursors) < 0)
            return -1;
    }
    return 0;
}

/* `…/collections/ID/`, `…/collections/ID/objects/`, or an API root. */
static int read_url(struct taxii *x, bson_t *cursors)
{
    cw_task *t = x->f->t;
    size_t size = strcspn(x->f->url, "?#");
    const char *url =
        cw_printf(t, "%.*s%s", (int)size, x->f->url, x->f->url[size - 1] == '/' ? "" : "/");
    const char *collection = strstr(url, "/collections/");
    const char *id = collection ? collection + strlen("/collections/") : NULL;
    if (!id || !*id)
        return read_root(x, id ? cw_printf(t, "%.*s/", (int)(collection - url), url) : url,
                         cursors);
    size_t id_size = strcspn(id, "/");
    const char *base = cw_printf(t, "%.*sobjects/", (int)(id + id_size + 1 - url), url);
    return read_collection(x, base, cw_printf(t, "%.*s", (int)id_size, id), cursors);
}

int feed_read_taxii(struct feed *f)
{
    struct taxii *x = cw_alloc(f->t, sizeof *x);
    bson_t cursors = BSON_INITIALIZER;
    x->f = f;
    x->accept = "Accept: application/taxii+json;version=2.1";
    x->authorization = basic(f);
    int code = read_url(x, &cursors);
    if (code == 0)
        BSON_APPEND_DOCUMENT(f->state, "cursors", &cursors);
    bson_destroy(&cursors);
    return code < 0 ? -1 : FEED_READ;
}
