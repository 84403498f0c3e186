/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/json_stream.h"
#include "tasks/threat_feeds/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* AbuseIPDB's blacklist and OTX's pulses: JSON objects with one long list, read as a stream. A
 * pulse has a long list of its own, and is read as a stream in its turn: a tree of it would need
 * forty times its size where it is hostile. OTX's cursor moves only when the last page was read; a
 * pass that was killed, that failed in passing or that its time was too short for goes on with the
 * page after the last that was stored (the dates before it are kept with it). New pulses come first
 * and push others to later pages: none is passed by, and the next pass asks for the new ones. */

enum { PULSE_MAX = 32 << 20, ROW_MAX = 1 << 20, PAGES_MAX = 10000, LIMIT_MAX = 1000, TAGS_MAX = 32 };

static int on_body(cw_task *t, const char *data, size_t size, void *stream)
{
    (void)t;
    return json_stream_feed(stream, data, size);
}

/* Errors come as objects too, at times with status 200. */
static int end_stream(struct feed *f, struct json_stream *stream, bool found, const char *list)
{
    if (json_stream_end(stream) < 0)
        return -1;
    return found ? FEED_READ
                 : cw_problem(f->t, false, "ValueError", "the answer has no list `%s`", list);
}

/* --- AbuseIPDB --- */

static int add_abuse(cw_task *t, const cJSON *row, void *arg)
{
    struct feed *f = arg;
    struct sighting s = SIGHTING_NONE;
    const char *address = tree_text(row, "ipAddress");
    const cJSON *score = tree_at(row, "abuseConfidenceScore");
    (void)t;
    if (!address) {
        f->bad++;
        return 0;
    }
    s.kind = "ip";
    s.confidence = cJSON_IsNumber(score) ? score->valueint : -1;
    s.last_seen = date_read(tree_text(row, "lastReportedAt"));
    return sink_add(f, address, strlen(address), &s);
}

int feed_read_abuseipdb(struct feed *f)
{
    int64_t minimum = doc_int(f->document, "confidence_minimum", 100);
    int64_t limit = doc_int(f->document, "limit", 10000);
    bool found;
    struct json_stream_options options = {
        .member = "data", .ret_found = &found, .on_element = add_abuse, .arg = f};
    if (!f->key)
        return cw_problem(f->t, false, "ValueError", "AbuseIPDB needs a key: name it in `secret`");
    if (minimum < 25 || minimum > 100 || limit < 1)
        return cw_problem(f->t, false, "ValueError", "confidence_minimum must be 25 to 100");
    const char *headers[] = {cw_printf(f->t, "Key: %s", f->key), "Accept: application/json", NULL};
    struct json_stream *stream = json_stream_open(f->t, &options);
    struct feed_request request = {
        .url = cw_printf(f->t, "%s%cconfidenceMinimum=%d&limit=%lld", f->url,
                         strchr(f->url, '?') ? '&' : '?', (int)minimum, (long long)limit),
        .headers = headers,
        .on_body = on_body,
        .arg = stream,
    };
    struct cw_reply reply;
    int code = feed_get(f, &request, &reply);
    return code == FEED_READ ? end_stream(f, stream, found, "data") : code;
}

/* --- OTX --- */

struct otx {
    struct feed *f;
    char modified[40];        /* the newest of this pass */
    char next[INDICATOR_MAX]; /* "" at the end */
    bool has_next;            /* the page tells whether another one follows */
    long status;              /* of the last answer */
    cJSON *tags;              /* of the pulse at work */
    size_t large;
};

static int add_indicator(cw_task *t, const cJSON *row, void *arg)
{
    struct otx *o = arg;
    struct sighting s = SIGHTING_NONE;
    const char *value = tree_text(row, "indicator");
    const cJSON *active = tree_at(row, "is_active");
    (void)t;
    s.kind = tree_text(row, "type");
    s.first_seen = date_read(tree_text(row, "created"));
    s.expires = date_read(tree_text(row, "expiration"));
    s.tags = o->tags;
    s.withdrawn = cJSON_IsFalse(active) || (cJSON_IsNumber(active) && active->valueint == 0);
    if (!value || !s.kind) {
        o->f->bad++;
        return 0;
    }
    return sink_add(o->f, value, strlen(value), &s);
}

static int add_tag(cw_task *t, const cJSON *tag, void *arg)
{
    struct otx *o = arg;
    (void)t;
    if (cJSON_IsString(tag) && cJSON_GetArraySize(o->tags) < TAGS_MAX)
        cJSON_AddItemToArray(o->tags, cJSON_CreateString(tag->valuestring));
    return 0;
}

/* One that lies ahead would leave out whatever comes until then. */
static int on_modified(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct otx *o = arg;
    const char *text = cJSON_GetStringValue(value);
    int64_t date = date_read(text);
    (void)t, (void)name;
    if (date != DATE_NONE && date <= o->f->now + 86400000 && strlen(text) < sizeof o->modified &&
        strcmp(text, o->modified) > 0)
        snprintf(o->modified, sizeof o->modified, "%s", text);
    return 0;
}

/* Twice: its tags may stand behind its indicators. */
static int add_pulse(cw_task *t, const char *text, size_t size, void *arg)
{
    static const char *const members[] = {"modified", NULL};
    struct otx *o = arg;
    struct json_stream_options about = {.member = "tags",
                                        .max_element = ROW_MAX,
                                        .ret_large = &o->large,
                                        .on_element = add_tag,
                                        .on_member = on_modified,
                                        .members = members,
                                        .arg = o};
    struct json_stream_options rows = {.member = "indicators",
                                       .max_element = ROW_MAX,
                                       .ret_large = &o->large,
                                       .on_element = add_indicator,
                                       .arg = o};
    if (*text != '{') {
        o->f->bad++;
        return 0;
    }
    o->tags = cJSON_CreateArray();
    int code = json_stream_text(t, text, size, &about);
    o->large = 0;
    code = code < 0 ? -1 : json_stream_text(t, text, size, &rows);
    o->f->bad += (int64_t)o->large;
    cJSON_Delete(o->tags);
    return code;
}

static int on_next(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct otx *o = arg;
    const char *next = cJSON_GetStringValue(value);
    (void)name;
    if (next && strlen(next) >= sizeof o->next)
        return cw_problem(t, false, "ValueError", "the next page's URL is too long");
    snprintf(o->next, sizeof o->next, "%s", next ? next : "");
    o->has_next = next || cJSON_IsNull(value);
    return 0;
}

static int read_page(struct otx *o, const char *url)
{
    static const char *const members[] = {"next", NULL};
    struct feed *f = o->f;
    const char *headers[] = {cw_printf(f->t, "X-OTX-API-KEY: %s", f->key), NULL};
    bool found;
    struct json_stream_options options = {.member = "results",
                                          .max_element = PULSE_MAX,
                                          .ret_found = &found,
                                          .on_text = add_pulse,
                                          .on_member = on_next,
                                          .members = members,
                                          .arg = o};
    struct json_stream *stream = json_stream_open(f->t, &options);
    struct feed_request request = {
        .url = url, .headers = headers, .on_body = on_body, .arg = stream};
    struct cw_reply reply;
    o->next[0] = '\0';
    o->has_next = false;
    int code = feed_get(f, &request, &reply);
    o->status = reply.status;
    if (code < 0 || end_stream(f, stream, found, "results") < 0)
        return -1;
    return o->has_next ? 0 : cw_problem(f->t, false, "ValueError", "the page has no `next`");
}

static const char *page_url(const struct feed *f, int64_t limit, int64_t page)
{
    const char *since = doc_text(f->document, "state.cursor");
    const char *from = since ? cw_printf(f->t, "&modified_since=%s", url_escape(f->t, since)) : "";
    return cw_printf(f->t, "%s%climit=%lld&page=%lld%s", f->url, strchr(f->url, '?') ? '&' : '?',
                     (long long)limit, (long long)page, from);
}

static const char *first_page(const struct feed *f)
{
    int64_t limit = doc_int(f->document, "limit", 50);
    return page_url(f, limit > 0 && limit <= LIMIT_MAX ? limit : 50, 1);
}

/* 0: it is not there. */
static int64_t query_number(const char *url, const char *name)
{
    size_t size = strlen(name);
    for (const char *at = strchr(url, '?'); at; at = strchr(at + 1, '&'))
        if (strncmp(at + 1, name, size) == 0 && at[1 + size] == '=')
            return strtoll(at + size + 2, NULL, 10);
    return 0;
}

/* Large pages take OTX so long that the gateway before it gives up (504): half as many pulses,
 * from the same place. NULL: it is not that, or they cannot be fewer. */
static const char *smaller_page(struct otx *o, const char *url)
{
    int64_t limit = query_number(url, "limit"), page = query_number(url, "page");
    if (o->status != 504 || limit < 2 || limit > LIMIT_MAX || page < 1 || page > 1000000)
        return NULL;
    int64_t half = limit / 2;
    cw_log(o->f->t, CW_INFO, "feed %s: HTTP 504 for a page of %lld pulses: %lld from now on",
           o->f->name, (long long)limit, (long long)half);
    return page_url(o->f, half, (page - 1) * limit / half + 1);
}

static const char *where_to_begin(const struct feed *f)
{
    const char *url = doc_text(f->document, "resume.url");
    return url && feed_is_same_origin(f, url) ? url : first_page(f);
}

/* Pages that lead in a circle come to a page that was marked: the first, second, fourth … one. */
static bool is_circle(const char **mark, int page, const char *url)
{
    bool met = *mark && strcmp(*mark, url) == 0;
    if ((page & (page - 1)) == 0)
        *mark = url;
    return met;
}

int feed_read_otx(struct feed *f)
{
    struct otx *o = cw_alloc(f->t, sizeof *o);
    const char *since = doc_text(f->document, "resume.newest");
    since = since ? since : doc_text(f->document, "state.cursor");
    if (!f->key)
        return cw_problem(f->t, false, "ValueError", "OTX needs a key: name it in `secret`");
    o->f = f;
    if (since)
        snprintf(o->modified, sizeof o->modified, "%s", since);
    const char *url = where_to_begin(f), *mark = NULL;
    for (int page = 1; url; page++) {
        if (is_circle(&mark, page, url))
            return cw_problem(f->t, false, "ValueError", "the pages lead in a circle");
        f->resume_at = url;
        f->resume_newest = cw_printf(f->t, "%s", o->modified);
        if (page > 1 && feed_keep_place(f) < 0)
            return -1;
        while (read_page(o, url) < 0)
            if (!(url = smaller_page(o, url)))
                return -1;
        if (*o->next && !feed_is_same_origin(f, o->next))
            return cw_problem(f->t, false, "ValueError", "the next page is not the feed's own");
        if (page == PAGES_MAX)
            return cw_problem(f->t, false, "ValueError", "more than %d pages", PAGES_MAX);
        if (sink_flush(f) < 0)
            return -1;
        url = *o->next ? cw_printf(f->t, "%s", o->next) : NULL;
    }
    doc_put(f->state, "cursor", o->modified, sizeof o->modified);
    return FEED_READ;
}
