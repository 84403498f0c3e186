/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/http.h"
#include "tasks/lib/url.h"
#include "tasks/threat_feeds/feed.h"

#include <string.h>
#include <strings.h>

/* Requests to a feed. Its URL stands in a document, so it is not trusted: the address guard of
 * cw_http stays up unless the operator (not the document) lists the host, all requests of a pass
 * share one budget of decoded bytes, the key travels to the feed's own origin only, and a body that
 * trickles is given up. */

enum { HOPS_MAX = 5, SLOW_BYTES = 512, SLACK = 1 << 20 };
static const double request_timeout = 600, long_wait = 600;
static const int64_t slow_ms = 10000, day_ms = 86400000;

struct body {
    struct feed *feed;
    const struct feed_request *request;
    int64_t since; /* ms, when `size` began to count; 0: nothing came yet */
    size_t size;
};

/* The operator lists hosts inside of our walls that feeds may be read from; a document cannot. */
static bool is_listed(cw_task *t, const char *url)
{
    const char *list = cw_setting(t, "threat_feeds_private_hosts");
    const char *host = url_host(t, url);
    size_t size = strlen(host);
    for (const char *at = list; at && *at; at += strspn(at, ", ")) {
        size_t length = strcspn(at, ", ");
        if (length == size && strncasecmp(at, host, size) == 0)
            return true;
        at += length;
    }
    return false;
}

static int used_up(struct feed *f)
{
    return cw_problem(f->t, false, "ValueError", "the feed is larger than %zu bytes (max_bytes)",
                      f->max_bytes);
}

static int on_body(cw_task *t, const char *data, size_t size, void *arg)
{
    struct body *b = arg;
    int64_t now = doc_now();
    if (size > b->feed->bytes_left) {
        b->feed->bytes_left = 0;
        return used_up(b->feed);
    }
    b->feed->bytes_left -= size;
    b->size += size;
    if (!b->since || now - b->since > slow_ms || now < b->since) {
        if (b->since && now > b->since && b->size < SLOW_BYTES)
            return cw_problem(t, true, "TimeoutError", "%s sends less than %d bytes in %d seconds",
                              url_host(t, b->request->url), SLOW_BYTES, (int)(slow_ms / 1000));
        b->since = now;
        b->size = 0;
    }
    return b->request->on_body(t, data, size, b->request->arg);
}

/* Once a day the whole is asked for: what a list tells all the time would else be taken for what
 * nobody has told of for long. */
static bool is_fresh(const struct feed *f)
{
    int64_t read_at = doc_date(f->document, "state.read_at", 0);
    return read_at <= f->now && f->now - read_at < day_ms;
}

static size_t add_validators(struct feed *f, const char *url, const char **headers)
{
    size_t n = 0;
    const char *of = doc_text(f->document, "state.url");
    const char *tag = doc_text(f->document, "state.etag");
    const char *date = doc_text(f->document, "state.last_modified");
    if (!of || strcmp(of, url) != 0 || !is_fresh(f))
        return 0;
    if (tag)
        headers[n++] = cw_printf(f->t, "If-None-Match: %s", tag);
    if (date)
        headers[n++] = cw_printf(f->t, "If-Modified-Since: %s", date);
    return n;
}

static int refused(struct feed *f, const struct cw_reply *reply)
{
    if (reply->status == 429 || reply->status == 503)
        f->asked_wait = reply->retry_after;
    if (f->asked_wait > long_wait)
        f->deferred = f->asked_wait;
    return -1;
}

static bool is_redirect(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* A host inside our walls may not send us to others there: each step is looked at like the first
 * one. cw_http follows by itself where nothing private can be reached. */
static int get(struct feed *f, struct cw_http http, struct cw_reply *ret_reply)
{
    for (int hop = 0;; hop++) {
        http.allow_private = http.no_redirects = is_listed(f->t, http.url);
        if (http_patient(f->t, &http, ret_reply) < 0)
            return refused(f, ret_reply);
        const char *location =
            is_redirect(ret_reply->status) ? cw_header(ret_reply, "location") : NULL;
        if (!location)
            return 0;
        const char *url = url_resolve(f->t, http.url, location);
        if (!url || !check_url(url) || hop == HOPS_MAX)
            return cw_problem(f->t, false, "ConnectionError", "%s: %s", url_host(f->t, http.url),
                              hop == HOPS_MAX ? "too many redirects" : "a redirect to no URL");
        http.headers = feed_is_same_origin(f, url) ? http.headers : NULL;
        http.url = url;
    }
}

/* A part (206), a promise (202) and nothing (204) are no lists, nor is "as before" to whom it was
 * not said what was before. */
int feed_get(struct feed *f, const struct feed_request *request, struct cw_reply *ret_reply)
{
    enum { HEADERS = 12 };
    const char *headers[HEADERS + 1] = {0};
    size_t n = request->conditional ? add_validators(f, request->url, headers) : 0, asked = n;
    for (size_t i = 0; request->headers && request->headers[i] && n < HEADERS; i++)
        headers[n++] = request->headers[i];
    struct body body = {.feed = f, .request = request};
    *ret_reply = (struct cw_reply){.body = ""};
    if (!f->bytes_left)
        return used_up(f);
    struct cw_http http = {
        .url = request->url,
        .headers = headers,
        .timeout = request_timeout,
        .max_size = f->bytes_left + SLACK, /* on_body counts what counts */
        .on_body = on_body,
        .arg = &body,
    };
    if (get(f, http, ret_reply) < 0)
        return -1;
    if (ret_reply->status == 304 && asked)
        return FEED_UNCHANGED;
    if (ret_reply->status != 200 && ret_reply->status != 203)
        return cw_problem(f->t, false, "RuntimeError", "HTTP %ld is no answer of a feed",
                          ret_reply->status);
    return FEED_READ;
}

void feed_keep_validators(struct feed *f, const struct cw_reply *reply)
{
    const char *tag = cw_header(reply, "etag"), *date = cw_header(reply, "last-modified");
    if (!tag && !date)
        return;
    BSON_APPEND_DATE_TIME(f->state, "read_at", f->now);
    doc_put(f->state, "url", f->url, INDICATOR_MAX);
    doc_put(f->state, "etag", tag, 1000);
    doc_put(f->state, "last_modified", date, 100);
}

static size_t origin_size(const char *url)
{
    const char *host = strstr(url, "://");
    return host ? (size_t)(host + 3 - url) + strcspn(host + 3, "/?#") : 0;
}

bool feed_is_same_origin(const struct feed *f, const char *url)
{
    size_t size = origin_size(f->url);
    return size && size == origin_size(url) && strncmp(f->url, url, size) == 0;
}
