/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/url.h"
#include "tasks/threat_feeds/feed.h"
#include "tasks/threat_feeds/stix.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* TAXII 2.1: the objects of one collection, of every readable one of an API root, or of all API
 * roots that a server names, page by page. The cursor of a collection is the server's own
 * X-TAXII-Date-Added-Last of the last page; a `next` that the server has forgotten (400) begins the
 * collection once more. Of several collections, one that refuses us does not stop the others: its
 * cursor stays. */

enum { PAGES_MAX = 10000, LIMIT_MAX = 100000, PLACES_MAX = 500 };
enum { NAME_MAX_SIZE = 128, CURSOR_MAX = 100 };

/* Names that a server lists: its API roots, or the collections of one. */
struct places {
    const char *names[PLACES_MAX];
    int n;
};

struct taxii {
    struct feed *f;
    const char *accept, *authorization;
    char next[4096];
    bool more, gave; /* of this page: more follow; it held an object */
    bson_t *cursors;
    struct places roots, collections;
    int read, refused; /* collections */
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

/* Not now and not later: another place of the same server may still answer. */
static bool is_refusal(const struct taxii *x, const struct cw_reply *reply)
{
    return reply->status >= 400 && reply->status < 500 && reply->status != 408 &&
           reply->status != 429 && cw_stopping(x->f->t) == CW_GO;
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
    const char *next = strcmp(name, "next") == 0 ? cJSON_GetStringValue(value) : NULL;
    if (strcmp(name, "more") == 0)
        x->more = cJSON_IsTrue(value);
    if (next && strlen(next) >= sizeof x->next)
        return cw_problem(t, false, "ValueError", "the server's `next` is longer than %zu bytes",
                          sizeof x->next - 1);
    if (next)
        snprintf(x->next, sizeof x->next, "%s", next);
    return 0;
}

static const char *page_url(struct taxii *x, const char *base, const char *added_after)
{
    cw_task *t = x->f->t;
    const char *after =
        added_after ? cw_printf(t, "&added_after=%s", url_escape(t, added_after)) : "";
    const char *next = *x->next ? cw_printf(t, "&next=%s", url_escape(t, x->next)) : "";
    int64_t limit = doc_int(x->f->document, "limit", 0);
    return cw_printf(t, "%s?limit=%d&match%%5Btype%%5D=indicator%s%s", base,
                     limit > 0 && limit <= LIMIT_MAX ? (int)limit : 1000, after, next);
}

/* Names of members of the state: a dot would nest them. */
static const char *cursor_name(struct taxii *x, const char *collection)
{
    char *name = cw_printf(x->f->t, "%s", collection);
    for (char *at = name; *at; at++)
        *at = *at == '.' || *at == '$' ? '_' : *at;
    return name;
}

/* The cursor that a page gives. What is no date would be refused with each request to come. */
static const char *date_added(const struct cw_reply *reply)
{
    const char *text = cw_header(reply, "x-taxii-date-added-last");
    return date_read(text) != DATE_NONE && strlen(text) < CURSOR_MAX ? text : NULL;
}

/* One page after the other. *ret_last: the cursor that the last one gives. A server may leave out
 * `next`: then its date goes on from page to page. */
static int read_pages(struct taxii *x, const char *url, const char *since, const char **ret_last,
                      struct cw_reply *ret_reply)
{
    static const char *const members[] = {"more", "next", NULL};
    struct json_stream_options options = {.member = "objects",
                                          .on_element = add_object,
                                          .on_member = on_member,
                                          .members = members,
                                          .arg = x};
    x->next[0] = '\0';
    for (int page = 1;; page++) {
        const char *at = page_url(x, url, since);
        x->more = x->gave = false;
        x->next[0] = '\0';
        if (get(x, at, &options, ret_reply) < 0)
            return ret_reply->status == 400 && page > 1 ? -2 : -1;
        const char *added = date_added(ret_reply);
        *ret_last = added ? added : *ret_last;
        if (!x->more)
            return 0;
        bool goes_on = *x->next || (added && (!since || strcmp(added, since) != 0));
        if (!goes_on || !x->gave || page == PAGES_MAX)
            return cw_problem(x->f->t, false, "ValueError", "the server pages without an end");
        if (!*x->next)
            since = added;
    }
}

static int read_collection(struct taxii *x, const char *url, const char *name,
                           struct cw_reply *ret_reply)
{
    struct feed *f = x->f;
    const char *member = cursor_name(x, name);
    const char *since = doc_text(f->document, cw_printf(f->t, "state.cursors.%s", member));
    const char *last = since;
    int code = read_pages(x, url, since, &last, ret_reply);
    if (code == -2) { /* it has forgotten where we were */
        last = since;
        code = read_pages(x, url, since, &last, ret_reply);
    }
    if (code < 0)
        return -1;
    doc_put(x->cursors, member, last, CURSOR_MAX);
    x->read++;
    return 0;
}

/* --- places --- */

static void add_place(struct taxii *x, struct places *p, const char *name)
{
    if (p->n < PLACES_MAX)
        p->names[p->n++] = cw_printf(x->f->t, "%s", name);
    else
        cw_log(x->f->t, CW_WARNING, "feed %s: more than %d places, %s is left out", x->f->name,
               PLACES_MAX, name);
}

static int add_collection(cw_task *t, const cJSON *collection, void *arg)
{
    struct taxii *x = arg;
    const char *id = tree_text(collection, "id");
    (void)t;
    if (id && check_name(id) && strlen(id) < NAME_MAX_SIZE &&
        !cJSON_IsFalse(tree_at(collection, "can_read")))
        add_place(x, &x->collections, id);
    return 0;
}

static int refused(struct taxii *x, const char *url)
{
    const char *why = cw_problem_text(x->f->t, NULL);
    cw_log(x->f->t, CW_WARNING, "feed %s: %s: %s", x->f->name, url, why ? why : "refused");
    x->refused++;
    return 0;
}

/* `prefix` keeps the cursors of several roots apart. */
static int read_root(struct taxii *x, const char *root, const char *prefix,
                     struct cw_reply *ret_reply)
{
    struct json_stream_options options = {
        .member = "collections", .on_element = add_collection, .arg = x};
    cw_task *t = x->f->t;
    x->collections.n = 0;
    if (get(x, cw_printf(t, "%scollections/", root), &options, ret_reply) < 0)
        return -1;
    for (int i = 0; i < x->collections.n; i++) {
        const char *id = x->collections.names[i];
        const char *url = cw_printf(t, "%scollections/%s/objects/", root, id);
        if (read_collection(x, url, cw_printf(t, "%s%s", prefix, id), ret_reply) == 0)
            continue;
        if (!is_refusal(x, ret_reply))
            return -1;
        refused(x, url);
    }
    return 0;
}

/* An API root is a URL of its own, or a path of the server's. The key travels to the feed's own
 * origin only, so roots elsewhere are feeds of their own. */
static int add_root(cw_task *t, const cJSON *root, void *arg)
{
    struct taxii *x = arg;
    const char *text = cJSON_GetStringValue(root);
    char *url = text ? url_resolve(t, x->f->url, text) : NULL;
    size_t size = url ? strcspn(url, "?#") : 0;
    if (!url || !check_url(url) || !feed_is_same_origin(x->f, url)) {
        cw_log(t, CW_WARNING, "feed %s: API root %.200s is not on the feed's own server",
               x->f->name, text ? text : "(no text)");
        x->refused++;
        return 0;
    }
    add_place(x, &x->roots,
              cw_printf(t, "%.*s%s", (int)size, url, url[size - 1] == '/' ? "" : "/"));
    return 0;
}

static int read_roots(struct taxii *x)
{
    struct cw_reply reply;
    for (int i = 0; i < x->roots.n; i++) {
        const char *root = x->roots.names[i], *path = strchr(strstr(root, "://") + 3, '/');
        if (read_root(x, root, path + 1, &reply) == 0)
            continue;
        if (!is_refusal(x, &reply))
            return -1;
        refused(x, root);
    }
    return 0;
}

/* A server names its API roots; what does not is taken for an API root. */
static int read_server(struct taxii *x, const char *url)
{
    struct json_stream_options options = {.member = "api_roots", .on_element = add_root, .arg = x};
    struct cw_reply reply;
    const char *path = strchr(strstr(url, "://") + 3, '/');
    const char *discovery = strcmp(path, "/") == 0 ? cw_printf(x->f->t, "%staxii2/", url) : url;
    bool there = get(x, discovery, &options, &reply) == 0;
    if (!there && reply.status != 404)
        return -1;
    int code = x->roots.n || x->refused ? read_roots(x) : read_root(x, url, "", &reply);
    if (code == 0 && x->refused && !x->read)
        return cw_problem(x->f->t, false, "PermissionError",
                          "no collection of the server may be read");
    return code;
}

/* `…/collections/ID/`, `…/collections/ID/objects/`, an API root, or a server. */
static int read_url(struct taxii *x)
{
    cw_task *t = x->f->t;
    struct cw_reply reply;
    size_t size = strcspn(x->f->url, "?#");
    const char *url =
        cw_printf(t, "%.*s%s", (int)size, x->f->url, x->f->url[size - 1] == '/' ? "" : "/");
    const char *collection = strstr(url, "/collections/");
    const char *id = collection ? collection + strlen("/collections/") : NULL;
    if (!id)
        return read_server(x, url);
    if (!*id)
        return read_root(x, cw_printf(t, "%.*s/", (int)(collection - url), url), "", &reply);
    size_t id_size = strcspn(id, "/");
    const char *base = cw_printf(t, "%.*sobjects/", (int)(id + id_size + 1 - url), url);
    return read_collection(x, base, cw_printf(t, "%.*s", (int)id_size, id), &reply);
}

/* Those of collections that were not read now. */
static void keep_cursors(struct taxii *x)
{
    bson_iter_t at, old;
    if (!doc_find(x->f->document, "state.cursors", &at) || !bson_iter_recurse(&at, &old))
        return;
    while (bson_iter_next(&old))
        if (!bson_has_field(x->cursors, bson_iter_key(&old)))
            bson_append_iter(x->cursors, NULL, -1, &old);
}

int feed_read_taxii(struct feed *f)
{
    struct taxii *x = cw_alloc(f->t, sizeof *x);
    x->f = f;
    x->cursors = mongo_bson(f->t);
    x->accept = "Accept: application/taxii+json;version=2.1";
    x->authorization = basic(f);
    if (read_url(x) < 0)
        return -1;
    keep_cursors(x);
    BSON_APPEND_DOCUMENT(f->state, "cursors", x->cursors);
    return FEED_READ;
}
