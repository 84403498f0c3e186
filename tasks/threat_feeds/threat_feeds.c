/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/policy.h"
#include "tasks/tables.h"
#include "tasks/threat_feeds/feed.h"

/* The queue `threat_feeds`: what others know to be hostile. */

static const struct cw_arg feed_args[] = {
    {"feed_id", CW_STR, .help = "_id of the document in threat_feeds"},
    {0},
};
static const struct cw_arg cleanup_args[] = {
    {"max_age_days", CW_INT, .fallback = "90", .help = "days since an indicator was last seen"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "threat_feeds.fetch_all_enabled_feeds",
        .run = fetch_all_enabled_feeds,
        BUILTIN_POLICY,
        .help = "one fetch_feed for each enabled feed that is due",
    },
    {
        .name = "threat_feeds.fetch_threat_intel",
        .run = fetch_all_enabled_feeds,
        BUILTIN_POLICY,
        .help = "another name of fetch_all_enabled_feeds",
    },
    {
        .name = "threat_feeds.fetch_feed",
        .run = fetch_feed,
        .args = feed_args,
        BUILTIN_POLICY,
        .help = "one pass over a feed: its indicators into threat_indicators",
    },
    {
        .name = "threat_feeds.cleanup_old_indicators",
        .run = cleanup_old_indicators,
        .args = cleanup_args,
        BUILTIN_POLICY,
        .help = "removes indicators that ran out or were long not seen",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"threat_indicators", "type, value", .unique = true},
    {"threat_indicators", "expires_at"},
    {"threat_indicators", "last_seen"},
    {"threat_feeds", "enabled"},
    {"threat_feed_events", "feed_id, uuid", .unique = true},
    {0},
};

const struct cw_table threat_feeds_table = {
    .api = CW_API,
    .queue = "threat_feeds",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
