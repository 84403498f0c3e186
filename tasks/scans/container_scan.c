/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/failure.h"
#include "tasks/lib/fields.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/mirror.h"
#include "tasks/lib/severity.h"
#include "tasks/lib/targets.h"
#include "tasks/lib/tool.h"
#include "tasks/scans/scan_state.h"
#include "tasks/scans/scans.h"

#include <string.h>
#include <unistd.h>

/* execute_container_scan: Trivy's report of an image into its document in container_scans. The
 * report's results are read one at a time; the document holds as many vulnerabilities as MongoDB
 * takes in one document, the counts are of all. A document that was set to CANCELLED stays so, and
 * ends Trivy. */

static const double tell_every = 3;
enum { MAX_KEPT = 10000, MAX_SECRETS = 1000, MAX_BYTES = 12 << 20, MAX_RESULT = 64 << 20 };

struct container_scan {
    cw_task *t;
    struct scan_state state;
    const char *image;
    const bson_t *document;
    bson_t *vulnerabilities, *secrets;
    uint32_t kept, secrets_kept;
    int64_t found, secrets_found, severities[N_SEVERITIES];
    char *digest, *os;
    double told_at;
    bool is_report; /* it told its schema: without it, "nothing found" would be believed */
};

/* --- the report --- */

static void put(bson_t *entry, const char *field, const cJSON *tree, const char *path, size_t max)
{
    doc_put(entry, field, tree_text(tree, path), max);
}

static double score_of(const cJSON *vulnerability)
{
    double best = -1;
    const cJSON *source;
    cJSON_ArrayForEach(source, tree_at(vulnerability, "CVSS"))
    {
        const cJSON *score = tree_at(source, "V3Score");
        if (cJSON_IsNumber(score) && score->valuedouble > best)
            best = score->valuedouble;
    }
    return best;
}

static void keep_vulnerability(struct container_scan *s, const char *target, const cJSON *v)
{
    const char *severity = severity_name(tree_text(v, "Severity")), *name;
    bson_t entry;
    char room[16];
    double score = score_of(v);
    s->found++;
    s->severities[severity_index(severity)]++;
    if (s->kept == MAX_KEPT || s->vulnerabilities->len > MAX_BYTES)
        return;
    bson_uint32_to_string(s->kept++, &name, room, sizeof room);
    BSON_APPEND_DOCUMENT_BEGIN(s->vulnerabilities, name, &entry);
    put(&entry, "vulnerability_id", v, "VulnerabilityID", 100);
    put(&entry, "package", v, "PkgName", 255);
    put(&entry, "purl", v, "PkgIdentifier.PURL", 512);
    put(&entry, "installed_version", v, "InstalledVersion", 128);
    put(&entry, "fixed_version", v, "FixedVersion", 128);
    put(&entry, "status", v, "Status", 64);
    put(&entry, "title", v, "Title", 300);
    put(&entry, "url", v, "PrimaryURL", 300);
    BSON_APPEND_UTF8(&entry, "severity", severity);
    doc_put(&entry, "target", target, 300);
    if (score >= 0)
        BSON_APPEND_DOUBLE(&entry, "cvss_score", score);
    bson_append_document_end(s->vulnerabilities, &entry);
}

/* Where a secret lies, never what it is: Trivy's Match is left out. */
static void keep_secret(struct container_scan *s, const char *target, const cJSON *secret)
{
    const char *name, *severity = severity_name(tree_text(secret, "Severity"));
    const cJSON *line = tree_at(secret, "StartLine");
    bson_t entry;
    char room[16];
    s->secrets_found++;
    s->severities[severity_index(severity)]++;
    if (s->secrets_kept == MAX_SECRETS)
        return;
    bson_uint32_to_string(s->secrets_kept++, &name, room, sizeof room);
    BSON_APPEND_DOCUMENT_BEGIN(s->secrets, name, &entry);
    put(&entry, "rule_id", secret, "RuleID", 128);
    put(&entry, "title", secret, "Title", 300);
    BSON_APPEND_UTF8(&entry, "severity", severity);
    doc_put(&entry, "target", target, 300);
    if (cJSON_IsNumber(line))
        BSON_APPEND_INT32(&entry, "line", line->valueint);
    bson_append_document_end(s->secrets, &entry);
}

/* Trivy leaves out what it has nothing of. */
static bool is_list(const cJSON *value)
{
    return !value || cJSON_IsNull(value) || cJSON_IsArray(value);
}

static int on_result(cw_task *t, const cJSON *result, void *arg)
{
    struct container_scan *s = arg;
    const char *target = tree_text(result, "Target");
    const cJSON *item;
    if (!cJSON_IsObject(result))
        return cw_problem(t, false, "ValueError", "trivy: a result is not an object");
    if (!is_list(tree_at(result, "Vulnerabilities")) || !is_list(tree_at(result, "Secrets")))
        return cw_problem(t, false, "ValueError", "trivy: a result's findings are not a list");
    cJSON_ArrayForEach(item, tree_at(result, "Vulnerabilities"))
    {
        if (!tree_text(item, "VulnerabilityID"))
            return cw_problem(t, false, "ValueError",
                              "trivy: a vulnerability without VulnerabilityID");
        keep_vulnerability(s, target, item);
    }
    cJSON_ArrayForEach(item, tree_at(result, "Secrets")) keep_secret(s, target, item);
    return 0;
}

static int on_member(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct container_scan *s = arg;
    const char *family = tree_text(value, "OS.Family"), *version = tree_text(value, "OS.Name");
    const char *digest = tree_text(value, "RepoDigests.0");
    if (strcmp(name, "SchemaVersion") == 0) {
        s->is_report = cJSON_IsNumber(value) && value->valueint == 2;
        return s->is_report ? 0
                            : cw_problem(t, false, "ValueError",
                                         "trivy: report schema %d is not known", value->valueint);
    }
    if (strcmp(name, "Results") == 0 && !is_list(value))
        return cw_problem(t, false, "ValueError", "trivy: its results are not a list");
    if (strcmp(name, "Metadata") != 0)
        return 0;
    digest = digest ? digest : tree_text(value, "ImageID");
    s->digest = digest ? cw_printf(t, "%.300s", digest) : NULL;
    s->os = family ? cw_printf(t, "%.60s %.60s", family, version ? version : "") : NULL;
    return 0;
}

/* --- the document --- */

static int save_failed(struct container_scan *s, const char *why)
{
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "status", "FAILED");
    BSON_APPEND_UTF8(&set, "task_id", cw_info(s->t)->id);
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    doc_put(&set, "error", why, 4000);
    int code = scan_state_set(&s->state, &set);
    bson_destroy(&set);
    return code;
}

static cw_outcome finish(struct container_scan *s)
{
    bson_t set = BSON_INITIALIZER, summary, by;
    BSON_APPEND_UTF8(&set, "status", "COMPLETED");
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    BSON_APPEND_NULL(&set, "error");
    doc_put(&set, "digest", s->digest, 300);
    doc_put(&set, "os", s->os, 128);
    BSON_APPEND_ARRAY(&set, "vulnerabilities", s->vulnerabilities);
    BSON_APPEND_ARRAY(&set, "secrets", s->secrets);
    BSON_APPEND_DOCUMENT_BEGIN(&set, "summary", &summary);
    BSON_APPEND_INT64(&summary, "vulnerabilities", s->found);
    BSON_APPEND_INT64(&summary, "secrets", s->secrets_found);
    BSON_APPEND_BOOL(&summary, "truncated",
                     s->found > s->kept || s->secrets_found > s->secrets_kept);
    BSON_APPEND_DOCUMENT_BEGIN(&summary, "by_severity", &by);
    for (int i = 0; i < N_SEVERITIES; i++)
        bson_append_int64(&by, severities[i], -1, s->severities[i]);
    bson_append_document_end(&summary, &by);
    bson_append_document_end(&set, &summary);
    int code = scan_state_set(&s->state, &set);
    bson_destroy(&set);
    if (code < 0)
        return cw_fail(s->t);
    if (s->state.ended)
        return cw_return_str(s->t, s->state.ended);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "image", s->image);
    cJSON_AddNumberToObject(result, "vulnerabilities", (double)s->found);
    cJSON_AddNumberToObject(result, "secrets", (double)s->secrets_found);
    return cw_return(s->t, result);
}

static cw_outcome failed(struct container_scan *s)
{
    struct failure f = failure_read(s->t);
    if (!f.again && cw_stopping(s->t) != CW_SHUTDOWN && save_failed(s, f.why) < 0)
        cw_log(s->t, CW_WARNING, "container scan %s: its failure could not be recorded",
               s->state.id);
    return s->state.ended ? cw_return_str(s->t, s->state.ended) : f.outcome;
}

/* --- the run --- */

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct container_scan *s = arg;
    if (seconds - s->told_at >= tell_every) {
        s->told_at = seconds;
        cJSON *meta = cJSON_CreateObject(); /* Trivy does not tell how far it is */
        cJSON_AddStringToObject(meta, "phase", "trivy");
        cJSON_AddNumberToObject(meta, "seconds", (double)(int64_t)seconds);
        cw_progress(t, meta);
    }
    return scan_state_watch(&s->state, seconds);
}

static bool says(const char *text, const char *const *words)
{
    while (*words && !strcasestr(text, *words))
        words++;
    return *words;
}

/* Its error tells of each place where it looked for the image, daemons that are not there among
 * them: a registry's own refusal is certain, so it comes before words of the network. */
static int judge_failure(struct container_scan *s, const struct cw_exit *end)
{
    static const char *const refused[] = {"MANIFEST_UNKNOWN:", "NAME_UNKNOWN:", "UNAUTHORIZED:",
                                          "DENIED:", NULL};
    static const char *const passing[] = {"timeout",           "deadline exceeded", "connection",
                                          "TOOMANYREQUESTS",   "too many requests", "unexpected EOF",
                                          "temporary failure", "server misbehaving",
                                          "502 Bad Gateway",   "503 Service",       "504 Gateway",
                                          NULL};
    size_t size = strlen(end->errors);
    bool transient = !says(end->errors, refused) && says(end->errors, passing);
    return cw_problem(s->t, transient, "RuntimeError", "trivy ended with exit status %d: %s",
                      end->status, end->errors + (size > 600 ? size - 600 : 0));
}

static int run_trivy(struct container_scan *s, const char *path)
{
    const char *program = cw_setting(s->t, "trivy"), *folder = cw_tmpdir(s->t);
    const char *argv[] = {program ? program : "trivy",
                          "image",
                          "--format",
                          "json",
                          "--quiet",
                          "--scanners",
                          "vuln,secret",
                          "--timeout",
                          "30m",
                          "--output",
                          path,
                          s->image,
                          NULL};
    const char *cache = cw_setting(s->t, "trivy_cache");
    const char *environment[] = {cw_printf(s->t, "HOME=%s", folder),
                                 cw_printf(s->t, "TRIVY_CACHE_DIR=%s", cache ? cache : folder),
                                 NULL};
    struct cw_command command = {
        .argv = argv,
        .environment = environment,
        .on_tick = on_tick,
        .arg = s,
        .hint = "install it (https://trivy.dev) or set CWORKER_TRIVY to its path",
    };
    struct cw_exit end;
    if (tool_run(s->t, command, NULL, &end) < 0)
        return -1;
    if (end.signal)
        return cw_problem(s->t, true, "RuntimeError", "trivy was ended by signal %d", end.signal);
    return end.status ? judge_failure(s, &end) : 0;
}

/* Trivy asks the registry that the image names, and whoever writes the document chooses it. */
static int check_source(struct container_scan *s)
{
    if (!s->image || !check_image(s->image))
        return cw_problem(s->t, false, "ValueError", "image must be like registry/name:tag");
    const char *registry = cw_printf(s->t, "%.*s", (int)strcspn(s->image, ":/"), s->image);
    return target_is_metadata(registry)
               ? cw_problem(s->t, false, "PermissionError",
                            "image: %s is a link-local or metadata address", registry)
               : 0;
}

static cw_outcome scan(struct container_scan *s)
{
    struct json_stream_options options = {
        .member = "Results",
        .max_element = MAX_RESULT,
        .on_element = on_result,
        .on_member = on_member,
        .arg = s,
    };
    const char *folder = cw_tmpdir(s->t);
    const char *what = cw_printf(s->t, "container scan %.80s", s->state.id);
    if (field_id(s->t, s->document, what, "team_id", true) < 0 || check_source(s) < 0)
        return failed(s);
    const char *path = folder ? cw_printf(s->t, "%s/report.json", folder) : "";
    if (!folder || scan_state_running(&s->state) < 0)
        return failed(s);
    if (s->state.ended)
        return cw_return_str(s->t, s->state.ended);
    if (run_trivy(s, path) < 0 || json_stream_file(s->t, path, &options, NULL) < 0)
        return failed(s);
    if (!s->is_report) {
        cw_problem(s->t, false, "ValueError",
                   "trivy: what it wrote is not a report: no SchemaVersion");
        return failed(s);
    }
    return finish(s);
}

cw_outcome execute_container_scan(cw_task *t)
{
    struct container_scan *s = cw_alloc(t, sizeof *s);
    s->t = t;
    s->state = (struct scan_state){.t = t, .collection = "container_scans",
                                   .label = "container scan", .type = "container",
                                   .id = cw_str(t, "image_scan_id"), .synced = true};
    s->vulnerabilities = mongo_bson(t);
    s->secrets = mongo_bson(t);
    s->document = mongo_load(t, "container_scans", "container scan", s->state.id);
    if (!s->document)
        return cw_fail(t);
    s->state.document = s->document;
    const char *status = doc_text(s->document, "status");
    s->image = doc_text(s->document, "image");
    if (!status || (strcmp(status, "COMPLETED") != 0 && strcmp(status, "CANCELLED") != 0))
        return scan(s);
    if (mirror_to_unified_scan_results(t, s->state.collection, s->document, s->state.type) < 0)
        return cw_fail(t);
    return cw_return_str(t, status);
}
