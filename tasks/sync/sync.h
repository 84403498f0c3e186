/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SYNC_SYNC_H
#define TASKS_SYNC_SYNC_H

#include "tasks/lib/digest.h"
#include "tasks/lib/finding.h"
#include "tasks/lib/mongo.h"

/* What a source says about one vulnerability at one place. Texts live until the next one is
 * read. */
struct finding {
    bool open;
    const char *asset, *vulnerability, *location; /* what it is, with team and source */
    const char *title, *severity;
    int64_t first_seen; /* ms; 0: not told */
};

/* Occurrences are written in batches; see occurrences.c. `now` is the store's time (mongo_now).
 * `few`: not many findings will come, so that it pays to look each of them up. */
struct occurrences;
struct source;
struct occurrences *occurrences_open(cw_task *t, const char *team, const struct source *source,
                                     int64_t now, bool few);
/* The document that the next findings come from; its team_id and _id are kept with them. */
int occurrences_add(struct occurrences *o, const bson_t *document, const struct finding *f);
int occurrences_flush(struct occurrences *o);
int occurrences_end(struct occurrences *o); /* the last finding was added: what waits is written */
/* After the end of a few findings. 1: one of them is about something else than before; all that there
 * are must be added, and counts begin anew. */
int occurrences_moved(struct occurrences *o);
/* A document says nothing new for now: what is open by it stays so. */
int occurrences_keep(struct occurrences *o, const char *document_id);
/* What was open in this source (of this document, or of all when NULL) and was not seen since
 * `since` is gone: it is resolved. Flushes first. */
int occurrences_resolve_unseen(struct occurrences *o, const char *document_id, int64_t since);
struct occurrence_counts {
    int64_t seen, made, reopened, resolved;
};
struct occurrence_counts occurrences_counts(const struct occurrences *o);

/* The three sources: how a document of theirs becomes findings. */
typedef int source_read(struct occurrences *o, const bson_t *document);
struct source {
    const char *name, *collection;
    source_read *read;
    bool whole; /* a document holds the whole truth about its own findings */
    /* One or another of these times is set whenever a document changes; each has its index. */
    const char *changes[4];
};
extern const struct source sync_sources[];
enum { SYNC_SOURCES = 3 };

cw_handler sync_all_teams_vulnerabilities, sync_vulnerabilities_for_team;

#endif
