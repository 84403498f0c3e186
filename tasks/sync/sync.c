/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/policy.h"
#include "tasks/sync/sync.h"
#include "tasks/tables.h"

/* The queue `sync`: from what each tool wrote to what pages show. */

static const struct cw_arg team_args[] = {
    {"team_id", CW_STR, .help = "the team"},
    {"full", CW_BOOL, .fallback = "false", .help = "all findings, not only what changed"},
    {0},
};
static const struct cw_arg all_args[] = {
    {"full", CW_BOOL, .fallback = "false", .help = "all findings, not only what changed"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "sync.sync_all_teams_vulnerabilities",
        .run = sync_all_teams_vulnerabilities,
        .args = all_args,
        BUILTIN_POLICY,
        .help = "sends sync_vulnerabilities_for_team for every team that has findings",
    },
    {
        .name = "sync.sync_vulnerabilities_for_team",
        .run = sync_vulnerabilities_for_team,
        .args = team_args,
        BUILTIN_POLICY,
        .help = "a team's findings into vulnerability_occurrences",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"vulnerability_occurrences", "dedup_key", .unique = true},
    {"vulnerability_occurrences", "team_id, source, status, last_seen"},
    {"vulnerability_occurrences", "team_id, source, source_id, status"},
    {"vulnerability_occurrences", "team_id, status, severity, sla_breached_at, opened_at"},
    {"cspm_findings", "team_id, last_seen"},
    {"cspm_findings", "team_id, resolved_at"},
    {"cspm_findings", "team_id, updated_at"},
    {"k8s_findings", "team_id, last_seen"},
    {"k8s_findings", "team_id, resolved_at"},
    {"k8s_findings", "team_id, updated_at"},
    {"container_scans", "team_id, finished_at"},
    {"container_scans", "team_id, updated_at"},
    {"sync_watermarks", "team_id, source", .unique = true},
    {0},
};

const struct cw_table sync_table = {
    .api = CW_API,
    .queue = "sync",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
