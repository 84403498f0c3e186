/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/digest.h"
#include "tasks/threat_feeds/feed.h"

#include <string.h>

/* fetch_all_enabled_feeds sends one fetch_feed for each feed that is due; each of these makes one
 * pass over one feed, so that a bad feed is a failed sub-task and nothing more.
 *
 * A pass claims its feed by one update: nobody else reads it (`claimed_until`, at most as long as a
 * task may run), and nobody does before `next_fetch_at` (a minimum spacing guards limits like five
 * calls a day). Then it reads, and writes status, counts and cursor, and gives the claim back, in
 * one update at its end. A kill -9 before the claim leaves nothing; after it, the redelivered task
 * finds its own claim and reads again: indicators are upserts, and the cursor has not moved. A walk
 * over pages keeps its place behind each page's indicators, and goes on there. */

static const int64_t day_ms = 86400000, abuseipdb_spacing = 5 * 3600, spacing_max = 366 * 86400;
static const double wait_max = 7 * 86400;
enum { SLACK_MS = 5000, DEFAULT_LIFETIME_DAYS = 90, DAYS_MAX = 36500, DEFAULT_BYTES = 512 << 20 };
static const int64_t bytes_max = (int64_t)1 << 40, skew_ms = 3600000;

static const struct source {
    const char *kind;
    feed_source *read;
} sources[] = {
    {"plain", feed_read_plain}, {"csv", feed_read_csv},     {"abuseipdb", feed_read_abuseipdb},
    {"otx", feed_read_otx},     {"taxii", feed_read_taxii}, {"misp", feed_read_misp},
};

static feed_source *source_of(const char *kind)
{
    for (size_t i = 0; kind && i < sizeof sources / sizeof *sources; i++)
        if (strcmp(sources[i].kind, kind) == 0)
            return sources[i].read;
    return NULL;
}

/* --- the feed's document --- */

/* Documents name a secret, and only one that is meant for feeds: else whoever can write a feed
 * could have any secret of the worker's environment sent to a place of their own. */
static int read_key(struct feed *f)
{
    const char *name = doc_text(f->document, "secret");
    if (!name)
        return 0;
    const char *variable = cw_printf(f->t, "THREAT_FEED_%s", name);
    f->key = check_name(name) ? cw_secret(f->t, variable) : NULL;
    if (!f->key || !*f->key)
        return cw_problem(f->t, false, "RuntimeError", "no secret: set %.80s or %.80s_FILE",
                          variable, variable);
    if (f->key[strcspn(f->key, "\r\n")])
        return cw_problem(f->t, false, "ValueError", "%.80s holds a line break", variable);
    return 0;
}

/* What a feed takes back is found by its name, and teams name their feeds alike. */
static int name_source(struct feed *f)
{
    char room[DOC_ID_SIZE];
    const bson_t *first = NULL;
    bson_t *same = BCON_NEW("name", BCON_UTF8(f->name));
    bson_t *by_id = BCON_NEW("sort", "{", "_id", BCON_INT32(1), "}", "projection", "{", "_id",
                             BCON_INT32(1), "}");
    int found = mongo_find(f->t, "threat_feeds", same, by_id, &first);
    const char *id = found == 1 ? doc_id(first, "_id", room) : f->id;
    if (!id || strcmp(id, f->id) != 0)
        f->name = cw_printf(f->t, "%s (%s)", f->name, f->id);
    bson_destroy(same);
    bson_destroy(by_id);
    return found < 0 ? -1 : 0;
}

static int read_document(struct feed *f)
{
    const char *header = doc_text(f->document, "auth_header");
    int64_t bytes = doc_int(f->document, "max_bytes", DEFAULT_BYTES);
    f->url = doc_text(f->document, "url");
    if (!f->url || !check_url(f->url))
        return cw_problem(f->t, false, "ValueError", "url must be an http or https URL");
    if (header && !check_name(header))
        return cw_problem(f->t, false, "ValueError", "auth_header must be the name of a header");
    f->max_bytes = f->bytes_left = bytes > 0 && bytes <= bytes_max ? (size_t)bytes : DEFAULT_BYTES;
    int64_t days = doc_int(f->document, "expire_days", DEFAULT_LIFETIME_DAYS);
    f->lifetime = (days > 0 && days <= DAYS_MAX ? days : DEFAULT_LIFETIME_DAYS) * day_ms;
    f->confidence = (int)doc_int(f->document, "confidence", -1);
    return name_source(f) < 0 ? -1 : read_key(f);
}

/* --- claim and end --- */

static int64_t spacing_ms(const struct feed *f)
{
    int64_t usual = strcmp(f->kind, "abuseipdb") == 0 ? abuseipdb_spacing : 0;
    int64_t seconds = doc_int(f->document, "min_interval", usual);
    if (seconds < 0 || seconds > spacing_max)
        seconds = usual;
    return seconds * 1000;
}

static const char *claim_key(const struct feed *f)
{
    const struct cw_info *info = cw_info(f->t);
    return cw_printf(f->t, "%s/%lld", info->id, (long long)info->retries);
}

/* As long as a task may run. */
static int64_t claim_ms(const struct feed *f)
{
    double limit = cw_info(f->t)->hard_limit;
    return (int64_t)((limit > 0 ? limit : 3600) * 1000);
}

/* When it may be read again. What a clock says that was far ahead counts for nothing. */
static bool is_due(const bson_t *document, int64_t now)
{
    return doc_date(document, "next_fetch_at", 0) <= now + SLACK_MS ||
           doc_date(document, "started_at", 0) > now + skew_ms;
}

/* This delivery may come back and go on, whatever the spacing; a retry of the same task keeps to
 * that. `over`: a holder that has ended, or NULL. */
static void put_claim(const struct feed *f, const char *over, bson_t *filter)
{
    const char *own = cw_info(f->t)->id;
    /* What is no date holds nobody off, nor does a claim for longer than claims are made. */
    bson_t *free_or_ours =
        BCON_NEW("$or", "[", "{", "claimed_until", "{", "$not", "{", "$gt", BCON_DATE_TIME(f->now),
                 "}", "}", "}", "{", "claimed_until", "{", "$gt",
                 BCON_DATE_TIME(f->now + 2 * claim_ms(f)), "}", "}", "{", "claimed_task", "{",
                 "$in", "[", BCON_UTF8(own), BCON_UTF8(over ? over : own), "]", "}", "}", "]");
    bson_t *due = BCON_NEW("$or", "[", "{", "next_fetch_at", "{", "$not", "{", "$gt",
                           BCON_DATE_TIME(f->now + SLACK_MS), "}", "}", "}", "{", "started_at", "{",
                           "$gt", BCON_DATE_TIME(f->now + skew_ms), "}", "}", "{", "claimed_by",
                           BCON_UTF8(claim_key(f)), "}", "]");
    BCON_APPEND(filter, "$and", "[", BCON_DOCUMENT(free_or_ours), BCON_DOCUMENT(due), "]");
    bson_destroy(free_or_ours);
    bson_destroy(due);
}

static int try_claim(struct feed *f, const char *over)
{
    const struct cw_info *info = cw_info(f->t);
    bson_t filter = BSON_INITIALIZER;
    bson_t *update =
        BCON_NEW("$set", "{", "status", BCON_UTF8("RUNNING"), "claimed_by", BCON_UTF8(claim_key(f)),
                 "claimed_task", BCON_UTF8(info->id), "claimed_until",
                 BCON_DATE_TIME(f->now + claim_ms(f)), "started_at", BCON_DATE_TIME(f->now),
                 "next_fetch_at", BCON_DATE_TIME(f->now + spacing_ms(f)), "}");
    doc_copy(&filter, "_id", f->document, "_id");
    put_claim(f, over, &filter);
    int code = mongo_update(f->t, "threat_feeds", &filter, update, false);
    bson_destroy(&filter);
    bson_destroy(update);
    return code;
}

/* One that was killed for good (revoked, lost) could not give its claim back; its result tells. */
static bool is_over(cw_task *t, const char *task)
{
    static const char *const final[] = {"SUCCESS", "FAILURE", "REVOKED", NULL};
    const cJSON *result = cw_result(t, task, NULL);
    const char *status = result ? tree_text(result, "status") : NULL;
    for (int i = 0; status && final[i]; i++)
        if (strcmp(status, final[i]) == 0)
            return true;
    return false;
}

/* 1 ours, 0 it is not due or another one is at it, < 0 failed. */
static int claim(struct feed *f)
{
    int code = try_claim(f, NULL);
    if (code != 0)
        return code;
    const bson_t *now = mongo_load(f->t, "threat_feeds", "threat feed", f->id);
    const char *holder = now ? doc_text(now, "claimed_task") : NULL;
    if (!now)
        return -1;
    bool held = doc_date(now, "claimed_until", 0) > f->now;
    return held && holder && is_over(f->t, holder) ? try_claim(f, holder) : 0;
}

/* Only while the claim is ours: who took it over when ours had run out tells what is true. */
static int write_own(struct feed *f, const bson_t *set)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER;
    doc_copy(&filter, "_id", f->document, "_id");
    BSON_APPEND_UTF8(&filter, "claimed_task", cw_info(f->t)->id);
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    int code = mongo_update(f->t, "threat_feeds", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code < 0 ? -1 : 0;
}

static int save(struct feed *f, bson_t *set)
{
    BSON_APPEND_DATE_TIME(set, "last_fetched_at", doc_now());
    BSON_APPEND_NULL(set, "claimed_until");
    return write_own(f, set);
}

static void put_counts(bson_t *set, const struct feed *f)
{
    bson_t counts;
    BSON_APPEND_DOCUMENT_BEGIN(set, "counts", &counts);
    BSON_APPEND_INT64(&counts, "indicators", f->good);
    BSON_APPEND_INT64(&counts, "bad", f->bad);
    BSON_APPEND_INT64(&counts, "skipped", f->other);
    BSON_APPEND_INT64(&counts, "withdrawn", f->withdrawn);
    bson_append_document_end(set, &counts);
}

/* A long walk that time or the network ended goes on where it was; one that was refused does not. */
static void put_resume(bson_t *set, const struct feed *f, bool passing)
{
    bson_t resume;
    bson_iter_t at;
    if (passing && f->resume_at) {
        BSON_APPEND_DOCUMENT_BEGIN(set, "resume", &resume);
        doc_put(&resume, "url", f->resume_at, INDICATOR_MAX);
        doc_put(&resume, "newest", f->resume_newest, 100);
        bson_append_document_end(set, &resume);
    } else if (f->resume_at || doc_find(f->document, "resume", &at)) {
        BSON_APPEND_NULL(set, "resume");
    }
}

int feed_keep_place(struct feed *f)
{
    bson_t set = BSON_INITIALIZER;
    put_resume(&set, f, true);
    int code = write_own(f, &set);
    bson_destroy(&set);
    return code;
}

static int save_good(struct feed *f, int how)
{
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "status", how == FEED_UNCHANGED ? "UNCHANGED" : "OK");
    BSON_APPEND_NULL(&set, "error");
    BSON_APPEND_DATE_TIME(&set, "last_success_at", doc_now());
    if (how == FEED_READ) {
        put_counts(&set, f);
        BSON_APPEND_DOCUMENT(&set, "state", f->state);
        put_resume(&set, f, false);
    }
    int code = save(f, &set);
    bson_destroy(&set);
    return code;
}

static cJSON *summary(const struct feed *f, const char *status)
{
    cJSON *value = cJSON_CreateObject();
    cJSON_AddStringToObject(value, "feed_id", f->id);
    cJSON_AddStringToObject(value, "status", status);
    cJSON_AddNumberToObject(value, "indicators", (double)f->good);
    cJSON_AddNumberToObject(value, "bad", (double)f->bad);
    cJSON_AddNumberToObject(value, "skipped", (double)f->other);
    cJSON_AddNumberToObject(value, "withdrawn", (double)f->withdrawn);
    return value;
}

/* The service wants to be left alone for longer than a child should be held: the next pass is sent
 * with that time as its ETA, under an id of this pass, so that a redelivery sends it once. */
static cw_outcome defer(struct feed *f)
{
    double wait = f->deferred > wait_max ? wait_max : f->deferred;
    const char *parts[] = {"deferred", cw_info(f->t)->id, claim_key(f), f->id, NULL};
    char id[CW_ID_SIZE];
    bson_t set = BSON_INITIALIZER;
    cJSON *args = cJSON_CreateArray();
    digest_id(parts, id);
    BSON_APPEND_UTF8(&set, "status", "DEFERRED");
    BSON_APPEND_DATE_TIME(&set, "next_fetch_at", f->now + (int64_t)(wait * 1000));
    doc_put(&set, "error", cw_problem_text(f->t, NULL), 1000);
    put_resume(&set, f, true);
    int code = save(f, &set);
    bson_destroy(&set);
    cJSON_AddItemToArray(args, cJSON_CreateString(f->id));
    struct cw_send send = {
        .task = "threat_feeds.fetch_feed", .args = args, .countdown = wait, .id = id};
    if (cw_send(f->t, send, NULL) < 0 || code < 0)
        return cw_fail(f->t);
    return cw_return(f->t, summary(f, "DEFERRED"));
}

/* A feed that may not be asked again soon is not retried by backoff, only when its time has come.
 */
static cw_outcome fail(struct feed *f)
{
    bool transient = false;
    const char *text = cw_problem_text(f->t, &transient);
    double spacing = (double)spacing_ms(f) / 1000;
    double wait = spacing > f->asked_wait ? spacing : f->asked_wait;
    bson_t set = BSON_INITIALIZER;
    text = cw_printf(f->t, "%s", text ? text : "unknown");
    BSON_APPEND_UTF8(&set, "status", "ERROR");
    doc_put(&set, "error", text, 1000);
    put_counts(&set, f);
    put_resume(&set, f, transient);
    if (cw_stopping(f->t) == CW_SHUTDOWN) { /* it comes again, and finds its claim */
        bson_destroy(&set);
        return cw_stopped(f->t);
    }
    cw_outcome outcome = cw_stopping(f->t) != CW_GO ? cw_stopped(f->t)
                         : transient && spacing > 0
                             ? cw_retry(f->t, wait, "ConnectionError", "%s", text)
                             : cw_fail(f->t);
    if (save(f, &set) < 0)
        cw_log(f->t, CW_WARNING, "feed %s: its error could not be stored", f->name);
    bson_destroy(&set);
    return outcome;
}

static cw_outcome read_feed(struct feed *f)
{
    feed_source *read = source_of(f->kind);
    int code = read_document(f);
    if (code == 0 && !read)
        code = cw_problem(f->t, false, "ValueError",
                          "kind must be plain, csv, abuseipdb, otx, taxii or misp");
    if (code == 0)
        code = sink_open(f);
    if (code == 0)
        code = read(f);
    if (f->sink && sink_flush(f) < 0)
        code = -1;
    if (code < 0)
        return f->deferred > 0 ? defer(f) : fail(f);
    if (save_good(f, code) < 0)
        return cw_fail(f->t);
    return cw_return(f->t, summary(f, code == FEED_UNCHANGED ? "UNCHANGED" : "OK"));
}

cw_outcome fetch_feed(cw_task *t)
{
    struct feed *f = cw_alloc(t, sizeof *f);
    f->t = t;
    f->id = cw_str(t, "feed_id");
    f->now = doc_now();
    f->document = mongo_load(t, "threat_feeds", "threat feed", f->id);
    if (!f->document)
        return cw_fail(t);
    const char *name = doc_text(f->document, "name"), *kind = doc_text(f->document, "kind");
    f->name = name ? name : f->id;
    f->kind = kind ? kind : "";
    f->state = mongo_bson(t);
    if (!doc_bool(f->document, "enabled", false))
        return cw_return(t, summary(f, "DISABLED"));
    int mine = claim(f);
    if (mine < 0)
        return cw_fail(t);
    if (mine)
        return read_feed(f);
    return cw_return(t, summary(f, is_due(f->document, f->now) ? "BUSY" : "NOT_DUE"));
}

/* --- the fan-out --- */

struct fan_out {
    int64_t now, sent, waiting;
};

static int send_feed(cw_task *t, const bson_t *document, void *arg)
{
    struct fan_out *o = arg;
    char room[DOC_ID_SIZE], sub_task[CW_ID_SIZE];
    const char *id = doc_id(document, "_id", room);
    if (!id) {
        cw_log(t, CW_WARNING, "a feed is left out: its _id is neither a text nor an ObjectId");
        return 0;
    }
    if (!is_due(document, o->now)) {
        o->waiting++;
        return 0;
    }
    const char *parts[] = {"fetch_feed", cw_info(t)->id, id, NULL};
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(id));
    digest_id(parts, sub_task);
    o->sent++;
    struct cw_send send = {.task = "threat_feeds.fetch_feed", .args = args, .id = sub_task};
    return cw_send(t, send, NULL);
}

cw_outcome fetch_all_enabled_feeds(cw_task *t)
{
    struct fan_out o = {.now = doc_now()};
    bson_t *enabled = BCON_NEW("enabled", BCON_BOOL(true));
    bson_t *fields = BCON_NEW("projection", "{", "next_fetch_at", BCON_INT32(1), "started_at",
                              BCON_INT32(1), "}");
    int code = mongo_each(t, "threat_feeds", enabled, fields, send_feed, &o);
    bson_destroy(enabled);
    bson_destroy(fields);
    if (code < 0)
        return cw_fail(t);
    cJSON *value = cJSON_CreateObject();
    cJSON_AddNumberToObject(value, "sent", (double)o.sent);
    cJSON_AddNumberToObject(value, "not_due", (double)o.waiting);
    return cw_return(t, value);
}
