/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/sync/met.h"

#include <stdlib.h>

/* A hash of each id, 16 bytes at most, in one open table that doubles. Past a million of them, or
 * without memory, every id counts as met: whoever asks then looks closer. */

enum { FEWEST = 1024, MOST = 1 << 21 };

struct met {
    uint64_t *slots; /* 0: free */
    size_t n, room;
    bool all;
};

static uint64_t hash_of(const char *id)
{
    uint64_t hash = 14695981039346656037u;
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 1099511628211u;
    return hash ? hash : 1;
}

static uint64_t *slot_of(uint64_t *slots, size_t room, uint64_t hash)
{
    size_t at = (size_t)(hash ^ hash >> 32) & (room - 1);
    while (slots[at] && slots[at] != hash)
        at = (at + 1) & (room - 1);
    return &slots[at];
}

static void free_slots(void *met)
{
    struct met *m = met;
    free(m->slots);
    m->slots = NULL;
}

struct met *met_open(cw_task *t)
{
    struct met *m = cw_alloc(t, sizeof *m);
    cw_defer(t, free_slots, m);
    return m;
}

static bool make_room(struct met *m)
{
    size_t room = m->room ? 2 * m->room : FEWEST;
    uint64_t *slots = room <= MOST ? calloc(room, sizeof *slots) : NULL;
    if (!slots)
        return false;
    for (size_t i = 0; i < m->room; i++)
        if (m->slots[i])
            *slot_of(slots, room, m->slots[i]) = m->slots[i];
    free(m->slots);
    m->slots = slots;
    m->room = room;
    return true;
}

void met_add(struct met *m, const char *id)
{
    if (m->all || !id)
        return;
    if (2 * m->n >= m->room && !make_room(m)) {
        m->all = true;
        return;
    }
    uint64_t hash = hash_of(id), *slot = slot_of(m->slots, m->room, hash);
    m->n += !*slot;
    *slot = hash;
}

bool met_any(const struct met *m)
{
    return m->n > 0;
}

bool met_has(const struct met *m, const char *id)
{
    return m->all || (m->n && *slot_of(m->slots, m->room, hash_of(id)));
}
