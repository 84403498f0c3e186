/* SPDX-License-Identifier: Apache-2.0 */
/* How large the messages of a signature will be, before any is made. Each member of a chord's header
 * carries the chord's body, so in a chain of groups each group multiplies all that follows it: some
 * lines of JSON become gigabytes, with Celery as well, whose child that ends; here it would be the
 * worker. The one idea: one walk adds up what each part weighs by itself, and how many copies it
 * will make of what it is given. */

#include "worker/canvas.h"

#include <string.h>

enum { NESTING_MOST = 64 };

struct weight {
    double bytes;          /* of JSON, roughly */
    double copies, takers; /* how often it holds the options, the arguments that it is given */
    int depth;             /* of chords in chords */
};

static double size_of(const cJSON *value)
{
    double size = 8;
    if (!value)
        return 0;
    if (value->string)
        size += (double)strlen(value->string);
    if (cJSON_IsString(value))
        size += (double)strlen(value->valuestring);
    for (const cJSON *item = value->child; item; item = item->next)
        size += size_of(item);
    return size;
}

static double max(double a, double b)
{
    return a > b ? a : b;
}

static struct weight weigh(const cJSON *signature);

static struct weight weigh_all(const cJSON *tasks)
{
    struct weight all = {0};
    for (const cJSON *task = tasks ? tasks->child : NULL; task; task = task->next) {
        struct weight w = weigh(task);
        all.bytes += w.bytes;
        all.copies += w.copies;
        all.takers += w.takers;
        all.depth = w.depth > all.depth ? w.depth : all.depth;
    }
    return all;
}

static struct weight chord_of(struct weight header, struct weight body)
{
    return (struct weight){
        .bytes = header.bytes + (header.copies + 1) * body.bytes,
        .copies = (header.copies + 1) * body.copies,
        .takers = header.takers,
        .depth = 1 + (header.depth > body.depth ? header.depth : body.depth),
    };
}

/* A chain is weighed from its end. */
struct steps {
    struct weight first;  /* of those that have been weighed */
    double rest;          /* the bytes of the others */
    double copies, last;  /* of all, of the last */
    int n;
};

static void weigh_steps(struct steps *s, const cJSON *tasks)
{
    const cJSON *first = tasks ? tasks->child : NULL;
    for (const cJSON *step = first ? first->prev : NULL; step;
         step = step == first ? NULL : step->prev) {
        const cJSON *inner = canvas_tasks(step);
        bool group = canvas_is(step, "group");
        bool single = group && inner && inner->child && !inner->child->next;
        if (canvas_is(step, "chain") || single) {
            weigh_steps(s, inner);
            continue;
        }
        if (group && s->n) {
            s->copies -= s->first.copies;
            s->first = chord_of(weigh_all(inner), s->first);
        } else {
            s->rest += s->first.bytes;
            s->first = weigh(step);
        }
        s->copies += s->first.copies;
        s->last = s->n++ ? s->last : s->first.copies;
    }
}

/* The first step carries the others; all of them get the chain's options, by their errbacks. */
static struct weight weigh_chain(const cJSON *signature, double options)
{
    struct steps s = {0};
    weigh_steps(&s, canvas_tasks(signature));
    return (struct weight){
        .bytes = s.first.bytes + s.first.copies * s.rest + s.copies * options,
        .copies = max(s.first.copies, s.last),
        .takers = s.first.takers,
        .depth = s.first.depth,
    };
}

static struct weight weigh(const cJSON *signature)
{
    struct weight plain = {.copies = 1};
    if (!json_get_string(signature, "subtask_type")) {
        plain.bytes = size_of(signature);
        plain.takers = !cJSON_IsTrue(json_get(signature, "immutable"));
        return plain;
    }
    double options = size_of(json_get(signature, "options"));
    const cJSON *kwargs = json_get(signature, "kwargs");
    if (canvas_is(signature, "chain"))
        return weigh_chain(signature, options);
    if (canvas_is(signature, "group")) {
        struct weight group = weigh_all(canvas_tasks(signature));
        group.bytes += group.copies * options;
        return group;
    }
    if (canvas_is(signature, "chord")) {
        struct weight header = weigh_all(canvas_tasks(signature));
        struct weight body = weigh(json_get(kwargs, "body"));
        header.bytes += header.copies * size_of(json_get(kwargs, "kwargs"));
        body.bytes += body.copies * options;
        return chord_of(header, body);
    }
    return plain; /* of a type that cannot be applied */
}

int canvas_fits(const cJSON *signatures, const cJSON *args, const cJSON *options, struct error *err)
{
    if (cJSON_IsObject(signatures) && !json_get_string(signatures, "subtask_type"))
        return 0; /* one message, of nothing twice */
    struct weight w = cJSON_IsArray(signatures) ? weigh_all(signatures) : weigh(signatures);
    double bytes = w.bytes + w.takers * size_of(args) + w.copies * size_of(options);
    if (w.depth > NESTING_MOST)
        return error_set(err, ERROR_TOO_BIG, "more than %d chords in one another", NESTING_MOST);
    if (!(bytes * 4 / 3 <= CANVAS_MIB_MOST * 1048576.0)) /* in base64 */
        return error_set(err, ERROR_TOO_BIG, "messages of more than %d MiB", CANVAS_MIB_MOST);
    return 0;
}

static int count_nesting(const cJSON *steps)
{
    int n = 0;
    for (const cJSON *step = steps ? steps->child : NULL; step; step = step->next)
        n += canvas_is(step, "chain")   ? count_nesting(canvas_tasks(step))
             : canvas_is(step, "group") ? 1
                                        : canvas_is(step, "chord");
    return n;
}

int canvas_or_fits(const cJSON *steps, struct error *err)
{
    return count_nesting(steps) <= NESTING_MOST
               ? 0
               : error_set(err, ERROR_TOO_BIG, "more than %d groups and chords in what remains of a "
                                               "chain", NESTING_MOST);
}
