/* SPDX-License-Identifier: Apache-2.0 */

/* Another number of lanes while the pool works. The one idea: nothing that runs is disturbed. A
 * child too many is closed as one that has done its max_tasks_per_child is, and simply not
 * replaced. */

#include "worker/pool/pool_private.h"

int pool_most(const struct pool *p)
{
    return p->solo ? 1 : LANES_MAX / 2; /* the other half is for those on their way out */
}

/* Ends up to `excess` children, of those that hold jobs or of those that do not. */
static int children_close(struct pool *p, int excess, bool busy)
{
    struct pool_child *c, *next;
    LIST_FOREACH_SAFE(c, &p->children, link, next) {
        if (excess <= 0)
            break;
        if (c->closing || c->replaced || (c->jobs > 0) != busy)
            continue;
        excess--;
        if (c->state == CHILD_WANTED)
            child_free(c);
        else
            child_close(c);
    }
    return excess;
}

bool pool_resize(struct pool *p, int concurrency)
{
    const struct pool_child *c;
    if (p->solo)
        return false;
    int before = p->options.concurrency;
    p->options.concurrency = concurrency;
    if (p->options.kind == POOL_THREADS) {
        if (concurrency != before)
            pool_restart(p);
        return true;
    }
    int excess = -concurrency;
    LIST_FOREACH(c, &p->children, link)
        excess += !c->closing && !c->replaced;
    children_close(p, children_close(p, excess, false), true);
    pool_populate(p);
    pool_feed(p);
    return true;
}

void pool_restart(struct pool *p)
{
    if (p->solo)
        return;
    children_close(p, LANES_MAX, false);
    children_close(p, LANES_MAX, true);
    pool_populate(p);
}
