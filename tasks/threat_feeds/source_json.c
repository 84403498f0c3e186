/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/json_stream.h"
#include "tasks/threat_feeds/feed.h"

#include <stdio.h>
#include <string.h>

/* AbuseIPDB's blacklist and OTX's pulses: JSON objects with one long list, read as a stream. OTX's
 * cursor moves only when the last page was read, so a pass that was killed starts where the last
 * whole one ended. */

enum { ELEMENT_MAX = 32 << 20, PAGES_MAX = 10000 };

static int on_body(cw_task *t, const char *data, size_t size, void *stream)
{
    (void)t;
    return json_stream_feed(stream, data, size);
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
    struct json_stream_options options = {
        .member = "data", .on_element = add_abuse, .arg = f};
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
    return code == FEED_READ && json_stream_end(stream) < 0 ? -1 : code;
}

/* --- OTX --- */

struct otx {
    struct feed *f;
    char modified[40];        /* the newest of this pass */
    char next[INDICATOR_MAX]; /* "" at the end */
};

static int add_indicator(struct otx *o, const cJSON *pulse, const cJSON *row)
{
    struct sighting s = SIGHTING_NONE;
    const char *value = tree_text(row, "indicator");
    const cJSON *active = tree_at(row, "is_active");
    s.kind = tree_text(row, "type");
    s.first_seen = date_read(tree_text(row, "created"));
    s.expires = date_read(tree_text(row, "expiration"));
    s.tags = tree_at(pulse, "tags");
    s.withdrawn = cJSON_IsFalse(active) || (cJSON_IsNumber(active) && active->valueint == 0);
    if (!value || !s.kind) {
        o->f->bad++;
        return 0;
    }
    return sink_add(o->f, value, strlen(value), &s);
}

static int add_pulse(cw_task *t, const cJSON *pulse, void *arg)
{
    struct otx *o = arg;
    const cJSON *row;
    const char *modified = tree_text(pulse, "modified");
    (void)t;
    if (modified && strlen(modified) < sizeof o->modified && date_read(modified) != DATE_NONE &&
        strcmp(modified, o->modified) > 0)
        snprintf(o->modified, sizeof o->modified, "%s", modified);
    cJSON_ArrayForEach(row, tree_at(pulse, "indicators"))
    {
        if (add_indicator(o, pulse, row) < 0)
            return -1;
    }
    return 0;
}

static int on_member(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct otx *o = arg;
    (void)t;
    if (strcmp(name, "next") == 0 && cJSON_IsString(value))
        snprintf(o->next, sizeof o->next, "%s", value->valuestring);
    return 0;
}

static int read_page(struct otx *o, const char *url)
{
    struct feed *f = o->f;
    const char *headers[] = {cw_printf(f->t, "X-OTX-API-KEY: %s", f->key), NULL};
    struct json_stream_options options = {.member = "results",
                                          .max_element = ELEMENT_MAX,
                                          .on_element = add_pulse,
                                          .on_member = on_member,
                                          .arg = o};
    struct json_stream *stream = json_stream_open(f->t, &options);
    struct feed_request request = {
        .url = url, .headers = headers, .on_body = on_body, .arg = stream};
    struct cw_reply reply;
    o->next[0] = '\0';
    int code = feed_get(f, &request, &reply);
    return code < 0 || json_stream_end(stream) < 0 ? -1 : 0;
}

static const char *first_page(const struct feed *f, const char *since)
{
    int64_t limit = doc_int(f->document, "limit", 50);
    const char *from = since ? cw_printf(f->t, "&modified_since=%s", url_escape(f->t, since)) : "";
    return cw_printf(f->t, "%s%climit=%d&page=1%s", f->url, strchr(f->url, '?') ? '&' : '?',
                     limit > 0 && limit <= 1000 ? (int)limit : 50, from);
}

int feed_read_otx(struct feed *f)
{
    struct otx *o = cw_alloc(f->t, sizeof *o);
    const char *since = doc_text(f->document, "state.cursor");
    if (!f->key)
        return cw_problem(f->t, false, "ValueError", "OTX needs a key: name it in `secret`");
    o->f = f;
    if (since)
        snprintf(o->modified, sizeof o->modified, "%s", since);
    const char *url = first_page(f, since);
    for (int page = 1; url; page++) {
        if (read_page(o, url) < 0)
            return -1;
        if (*o->next && (!feed_is_same_origin(f, o->next) || strcmp(o->next, url) == 0))
            return cw_problem(f->t, false, "ValueError", "the next page is not the feed's own");
        if (page == PAGES_MAX)
            return cw_problem(f->t, false, "ValueError", "more than %d pages", PAGES_MAX);
        url = *o->next ? cw_printf(f->t, "%s", o->next) : NULL;
    }
    doc_put(f->state, "cursor", o->modified, sizeof o->modified);
    return FEED_READ;
}
