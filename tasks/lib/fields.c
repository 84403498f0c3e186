/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/fields.h"

int field_texts(cw_task *t, const bson_t *document, const char *what, const char *field,
                bool (*check)(const char *), const char **ret, int max)
{
    bson_iter_t at, list;
    int n = 0;
    if (!doc_find(document, field, &at) || BSON_ITER_HOLDS_NULL(&at))
        return 0;
    if (!BSON_ITER_HOLDS_ARRAY(&at) || !bson_iter_recurse(&at, &list))
        return cw_problem(t, false, "ValueError", "%s: %s is not a list", what, field);
    while (bson_iter_next(&list)) {
        const char *text = BSON_ITER_HOLDS_UTF8(&list) ? bson_iter_utf8(&list, NULL) : NULL;
        if (!text || !check(text))
            return cw_problem(t, false, "ValueError", "%s: %s holds %s%.60s%s", what, field,
                              text ? "\"" : "something that is no text", text ? text : "",
                              text ? "\"" : "");
        if (n == max)
            return cw_problem(t, false, "ValueError", "%s: %s has more than %d entries", what,
                              field, max);
        ret[n++] = text;
    }
    return n;
}

int field_id(cw_task *t, const bson_t *document, const char *what, const char *field, bool required)
{
    bson_iter_t at;
    if (!doc_find(document, field, &at) || BSON_ITER_HOLDS_NULL(&at))
        return required ? cw_problem(t, false, "ValueError", "%s has no %s", what, field) : 0;
    bool good = BSON_ITER_HOLDS_UTF8(&at) ? *bson_iter_utf8(&at, NULL) || !required
                                          : BSON_ITER_HOLDS_OID(&at) || doc_is_whole(&at) ||
                                                BSON_ITER_HOLDS_BINARY(&at);
    return good ? 0
                : cw_problem(t, false, "ValueError",
                             "%s: %s must be an id: text, ObjectId, number or UUID", what, field);
}

static bool is_text_list(const bson_iter_t *at)
{
    bson_iter_t list;
    if (!BSON_ITER_HOLDS_ARRAY(at) || !bson_iter_recurse(at, &list))
        return false;
    while (bson_iter_next(&list))
        if (!BSON_ITER_HOLDS_UTF8(&list))
            return false;
    return true;
}

static bool is_int(const bson_iter_t *at, const struct field_rule *r)
{
    if (!doc_is_whole(at))
        return false;
    int64_t value = bson_iter_as_int64(at);
    return (!r->min && !r->max) || (value >= r->min && value <= r->max);
}

static const char *wanted(cw_task *t, const struct field_rule *r)
{
    switch (r->kind) {
    case CW_INT:
        return r->min || r->max ? cw_printf(t, "a whole number from %lld to %lld",
                                            (long long)r->min, (long long)r->max)
                                : "a whole number";
    case CW_BOOL:
        return "true or false";
    case CW_STR:
        return "text";
    case CW_LIST:
        return "a list of texts";
    default:
        return "an object";
    }
}

static bool is_good(const bson_iter_t *at, const struct field_rule *r)
{
    switch (r->kind) {
    case CW_INT:
        return is_int(at, r);
    case CW_BOOL:
        return BSON_ITER_HOLDS_BOOL(at);
    case CW_STR:
        return BSON_ITER_HOLDS_UTF8(at);
    case CW_LIST:
        return is_text_list(at);
    default:
        return BSON_ITER_HOLDS_DOCUMENT(at);
    }
}

int fields_check(cw_task *t, const bson_t *document, const struct field_rule *rules)
{
    for (const struct field_rule *r = rules; r->path; r++) {
        bson_iter_t at;
        if (doc_find(document, r->path, &at) && !BSON_ITER_HOLDS_NULL(&at) && !is_good(&at, r))
            return cw_problem(t, false, "ValueError", "%s must be %s", r->path, wanted(t, r));
    }
    return 0;
}
