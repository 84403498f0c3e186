/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/scripts.h"

/* The Lua scripts. The one idea: each is one durable step, so a kill -9 of the caller leaves either all
 * of it or nothing. All are flagged allow-oom and free before they write, so that a Redis at its memory
 * limit can still be emptied. None looks into a message: texts go through byte for byte. */

/* KEYS queue, in-flight list. The message, or nil: LMOVE for a Redis that is out of memory. A list that is
 * none fails here before anything is taken, and so in the scripts below. */
struct redis_script script_fetch = {.body = SCRIPT_ALLOW_OOM
    "redis.call('LLEN', KEYS[2])\n"
    "local text = redis.call('RPOP', KEYS[1])\n"
    "if text then redis.call('LPUSH', KEYS[2], text) end\n"
    "return text"};

/* KEYS in-flight list, then one (lists, outbox, chord), two (delayed set and hash) or four (these, chord,
 *      queue) for each effect.
 * ARGV 'text', element | 'digest', SHA-1, size | 'held', element (which stays) | 'none', and then for
 *      each effect 'L'|'R', text | 'Z', score, member, value | 'H', field, value | 'D', field |
 *      'U', holder, ms (0: at once) | 'C', seconds | 'B', seconds | 'Y', score, member, value, seconds,
 *      number of parts.
 * 1: done; 0: the entry is not there, nothing was done. Types are looked at first, because a script that
 * fails half-way is not undone. Each key's type is asked once: for a client that tracks keys, as ours
 * does, Redis looks at all keys of a script for each read in it.
 *
 * A chord that is polled: C counts a part, Y delays the message that looks whether all are there, and
 * whichever of the two comes last moves that message to its queue, once for each count. B lets what is
 * behind it be sent by the first that comes. A delayed entry of a later format stays where it is. */
struct redis_script script_settle = {.body = SCRIPT_ALLOW_OOM
    "local a, k, first = 3, 2, 3\n"
    "local wanted = {L = 'list', R = 'list', Z = 'zset', Z2 = 'hash', H = 'hash', D = 'hash',\n"
    "  C = 'hash', B = 'hash', Y = 'zset', Y2 = 'hash', Y3 = 'hash', Y4 = 'list'}\n"
    "local keys = {Z = 2, Y = 4}\n"
    "local size = {L = 2, R = 2, Z = 4, H = 3, D = 2, U = 3, C = 2, B = 2, Y = 6}\n"
    "if ARGV[1] == 'digest' then first = 4 elseif ARGV[1] == 'none' then first = 2 end\n"
    "local checked = {}\n"
    "local function check(key, kind)\n"
    "  if not kind or checked[key] == kind then return true end\n"
    "  local found = redis.call('TYPE', key).ok\n"
    "  if found ~= 'none' and found ~= kind then return false end\n"
    "  checked[key] = kind\n"
    "  return true\n"
    "end\n"
    "a = first\n"
    "while ARGV[a] do\n"
    "  local op = ARGV[a]\n"
    "  for i = 1, keys[op] or 1 do\n"
    "    if not check(KEYS[k], wanted[i == 1 and op or op .. i]) then\n"
    "      return redis.error_reply('WRONGTYPE of key ' .. KEYS[k]) end\n"
    "    k = k + 1\n"
    "  end\n"
    "  a = a + size[op]\n"
    "end\n"
    "if ARGV[1] == 'held' then\n"
    "  if not redis.call('LPOS', KEYS[1], ARGV[2]) then return 0 end\n"
    "elseif ARGV[1] == 'text' then\n"
    "  if redis.call('LREM', KEYS[1], -1, ARGV[2]) == 0 then return 0 end\n"
    "elseif ARGV[1] == 'digest' then\n"
    "  local bytes, found = tonumber(ARGV[3]), false\n"
    "  for i = -1, -redis.call('LLEN', KEYS[1]), -1 do\n"
    "    local text = redis.call('LINDEX', KEYS[1], i)\n"
    "    if #text == bytes and redis.sha1hex(text) == ARGV[2] then\n"
    "      redis.call('LSET', KEYS[1], i, '\\0settled')\n"
    "      redis.call('LREM', KEYS[1], -1, '\\0settled')\n"
    "      found = true\n"
    "      break\n"
    "    end\n"
    "  end\n"
    "  if not found then return 0 end\n"
    "end\n"
    "local function forward(chord)\n"
    "  local v = redis.call('HMGET', chord, 'n', 'size', 'at', 'set', 'member', 'list')\n"
    "  local n, size = tonumber(v[1] or '0'), tonumber(v[2] or '')\n"
    "  if not n or not size or not v[4] or not v[5] or not v[6] then return end\n"
    "  if n < size or n <= (tonumber(v[3] or '') or -1) then return end\n"
    "  if not check(v[4], 'zset') or not check(v[4] .. '.msg', 'hash') then return end\n"
    "  local value = redis.call('HGET', v[4] .. '.msg', v[5])\n"
    "  local from = value and string.match(value, '^1 %d+ ()')\n"
    "  if not from or not check(v[6], 'list') then return end\n"
    "  redis.call('ZREM', v[4], v[5])\n"
    "  redis.call('HDEL', v[4] .. '.msg', v[5])\n"
    "  redis.call('HSET', chord, 'at', n)\n"
    "  redis.call('RPUSH', v[6], string.sub(value, from))\n"
    "end\n"
    "local mute = false\n"
    "a, k = first, 2\n"
    "while ARGV[a] do\n"
    "  local op, key = ARGV[a], KEYS[k]\n"
    "  if op == 'H' then\n"
    "    redis.call('HSET', key, ARGV[a + 1], ARGV[a + 2])\n"
    "  elseif op == 'D' then\n"
    "    redis.call('HDEL', key, ARGV[a + 1])\n"
    "  elseif op == 'U' then\n"
    "    local held = redis.pcall('GET', key)\n" /* of another type: not ours */
    "    local mine = held == ARGV[a + 1]\n"
    "    if mine and ARGV[a + 2] == '0' then redis.call('DEL', key)\n"
    "    elseif mine then redis.call('PEXPIRE', key, ARGV[a + 2]) end\n"
    "  elseif op == 'C' then\n"
    "    if redis.call('HEXISTS', key, 'sent') == 0 then\n"
    "      if type(redis.pcall('HINCRBY', key, 'n', 1)) == 'table' then\n"
    "        redis.call('HSET', key, 'n', 1)\n"
    "      end\n"
    "      redis.call('EXPIRE', key, ARGV[a + 1])\n"
    "      forward(key)\n"
    "    end\n"
    "  elseif op == 'B' then\n"
    "    mute = redis.call('HEXISTS', key, 'sent') == 1\n"
    "    if not mute then\n"
    "      redis.call('DEL', key)\n"
    "      redis.call('HSET', key, 'sent', 1)\n"
    "      redis.call('EXPIRE', key, ARGV[a + 1])\n"
    "    end\n"
    "  elseif mute then\n"
    "  elseif op == 'Z' or op == 'Y' then\n"
    "    redis.call('ZADD', key, ARGV[a + 1], ARGV[a + 2])\n"
    "    redis.call('HSET', KEYS[k + 1], ARGV[a + 2], ARGV[a + 3])\n"
    "    if op == 'Y' and redis.call('HEXISTS', KEYS[k + 2], 'sent') == 0 then\n"
    "      redis.call('HSET', KEYS[k + 2], 'size', ARGV[a + 5], 'set', key, 'member', ARGV[a + 2],\n"
    "        'list', KEYS[k + 3])\n"
    "      redis.call('EXPIRE', KEYS[k + 2], ARGV[a + 4])\n"
    "      forward(KEYS[k + 2])\n"
    "    end\n"
    "  else\n"
    "    redis.call(op == 'L' and 'LPUSH' or 'RPUSH', key, ARGV[a + 1])\n"
    "  end\n"
    "  k, a = k + (keys[op] or 1), a + size[op]\n"
    "end\n"
    "return 1"};

/* KEYS lease, registry. ARGV incarnation, ms, description. 1: the lease still lived; 0: it is new. */
struct redis_script script_lease_take = {.body = SCRIPT_ALLOW_OOM
    "redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])\n"
    "if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 1 then return 1 end\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "return 0"};

/* KEYS registry. ARGV incarnation, description. */
struct redis_script script_register = {.body = SCRIPT_ALLOW_OOM
    "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"};

/* KEYS lease, registry, in-flight lists. ARGV incarnation. What is still held stays registered. */
struct redis_script script_leave = {.body = SCRIPT_ALLOW_OOM
    "redis.call('DEL', KEYS[1])\n"
    "for i = 3, #KEYS do\n"
    "  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end\n"
    "end\n"
    "return redis.call('HDEL', KEYS[2], ARGV[1])"};

/* KEYS delayed set, hash, queue key of each step. ARGV most to take, then the number of each step.
 * Answers how many were taken, the microseconds until the next is due (-1: none waits), and how many were
 * put off. The earliest is pushed last, so that it is taken first. An entry of a later format waits for a
 * later worker. */
struct redis_script script_promote = {.body = SCRIPT_ALLOW_OOM
    "local t = redis.call('TIME')\n"
    "local now = tonumber(t[1]) * 1000000 + tonumber(t[2])\n"
    "local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now),\n"
    "  'LIMIT', 0, ARGV[1])\n"
    "local off, seen = 0, {}\n"
    "for i = #due, 1, -1 do\n"
    "  local value = redis.call('HGET', KEYS[2], due[i])\n"
    "  local key, step, from = KEYS[3], nil, nil\n"
    "  if value then step, from = string.match(value, '^1 (%d+) ()') end\n"
    "  for s = 2, #ARGV do if ARGV[s] == step then key = KEYS[s + 1] end end\n"
    "  if from and not seen[key] then seen[key] = redis.call('LLEN', key) end\n"
    "  if value and not from then\n"
    "    redis.call('ZADD', KEYS[1], string.format('%.0f', now + 60000000), due[i])\n"
    "    off = off + 1\n"
    "  else\n"
    "    redis.call('ZREM', KEYS[1], due[i])\n"
    "    redis.call('HDEL', KEYS[2], due[i])\n"
    "  end\n"
    "  if from then redis.call('RPUSH', key, string.sub(value, from)) end\n"
    "end\n"
    "local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')\n"
    "if #first == 0 then return {#due, -1, 0} end\n"
    "local wait = tonumber(first[2]) - now\n"
    "return {#due, wait > 0 and wait or 0, off}"};

/* KEYS in-flight list, queue key, lease. ARGV pairs of entry and what to put back for it, newest first.
 * How many went back, or -1 when the owner lives. */
struct redis_script script_give_back = {.body = SCRIPT_ALLOW_OOM
    "if redis.call('EXISTS', KEYS[3]) == 1 then return -1 end\n"
    "local kind = redis.call('TYPE', KEYS[2]).ok\n"
    "if kind ~= 'none' and kind ~= 'list' then\n"
    "  return redis.error_reply('WRONGTYPE of key ' .. KEYS[2]) end\n"
    "local n = 0\n"
    "for i = 1, #ARGV, 2 do\n"
    "  if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then\n"
    "    redis.call('RPUSH', KEYS[2], ARGV[i + 1])\n"
    "    n = n + 1\n"
    "  end\n"
    "end\n"
    "return n"};

int script_give_back_most(size_t bytes, size_t n)
{
    enum { MOST = 100, MOST_BYTES = 16 << 20 };
    size_t most = bytes ? MOST_BYTES / (bytes / n + 1) : MOST;
    return most < 1 ? 1 : most < MOST ? (int)most : MOST;
}

/* KEYS list, our in-flight list, lease of the first one's owner; then maybe an outbox. ARGV most to take; or
 * 1, a field of that outbox and a text: while the field is there, the first element to be taken next that
 * has the text in it. What was moved, newest first and in the same order in ours; -1 when the owner lives. */
struct redis_script script_adopt = {.body = SCRIPT_ALLOW_OOM
    "if redis.call('EXISTS', KEYS[3]) == 1 then return -1 end\n"
    "local moved = {}\n"
    "redis.call('LLEN', KEYS[2])\n"
    "if KEYS[4] and redis.call('HEXISTS', KEYS[4], ARGV[2]) == 0 then return moved end\n"
    "local last, page = -1, KEYS[4] and redis.call('LRANGE', KEYS[1], -1000, -1) or {}\n"
    "while #page > 0 and #moved == 0 do\n"
    "  for i = #page, 1, -1 do\n"
    "    if string.find(page[i], ARGV[3], 1, true) then\n"
    "      redis.call('LREM', KEYS[1], -1, page[i])\n"
    "      moved[1] = page[i]\n"
    "      break\n"
    "    end\n"
    "  end\n"
    "  last = last - 1000\n"
    "  page = redis.call('LRANGE', KEYS[1], last - 999, last)\n"
    "end\n"
    "while not KEYS[4] and #moved < tonumber(ARGV[1]) do\n"
    "  local text = redis.call('LPOP', KEYS[1])\n"
    "  if not text then break end\n"
    "  moved[#moved + 1] = text\n"
    "end\n"
    "for _, text in ipairs(moved) do redis.call('RPUSH', KEYS[2], text) end\n"
    "return moved"};

/* KEYS registry, lease, in-flight lists. ARGV incarnation. */
struct redis_script script_forget = {.body = SCRIPT_ALLOW_OOM
    "for i = 2, #KEYS do\n"
    "  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end\n"
    "end\n"
    "return redis.call('HDEL', KEYS[1], ARGV[1])"};

/* KEYS Kombu's index, hash. ARGV visibility timeout, most. Tag, score and record of what is overdue by
 * Redis' clock, newest first; a tag without a record is removed, as Kombu does. */
struct redis_script script_overdue = {.body = SCRIPT_ALLOW_OOM
    "local t = redis.call('TIME')\n"
    "local before = tonumber(t[1]) + tonumber(t[2]) / 1000000 - tonumber(ARGV[1])\n"
    "local tags = redis.call('ZREVRANGEBYSCORE', KEYS[1], string.format('%.6f', before), '0',\n"
    "  'LIMIT', 0, ARGV[2])\n"
    "local found = {}\n"
    "for _, tag in ipairs(tags) do\n"
    "  local record = redis.call('HGET', KEYS[2], tag)\n"
    "  if record then\n"
    "    found[#found + 1] = tag\n"
    "    found[#found + 1] = redis.call('ZSCORE', KEYS[1], tag)\n"
    "    found[#found + 1] = record\n"
    "  else redis.call('ZREM', KEYS[1], tag) end\n"
    "end\n"
    "return found"};

/* KEYS Kombu's index, hash, then a list for each push. ARGV tag, score, then 'L'|'R' and text for each.
 * 1: done; 0: acked, or delivered again, meanwhile: the score is another one. */
struct redis_script script_restore = {.body = SCRIPT_ALLOW_OOM
    "if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end\n"
    "for i = 3, #KEYS do\n"
    "  local kind = redis.call('TYPE', KEYS[i]).ok\n"
    "  if kind ~= 'none' and kind ~= 'list' then\n"
    "    return redis.error_reply('WRONGTYPE of key ' .. KEYS[i]) end\n"
    "end\n"
    "redis.call('ZREM', KEYS[1], ARGV[1])\n"
    "if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end\n"
    "for i = 3, #KEYS do\n"
    "  local a = 2 * i - 3\n"
    "  redis.call(ARGV[a] == 'L' and 'LPUSH' or 'RPUSH', KEYS[i], ARGV[a + 1])\n"
    "end\n"
    "return 1"};

/* KEYS lock. ARGV token. */
struct redis_script script_unlock = {.body = SCRIPT_ALLOW_OOM
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
    "return redis.call('DEL', KEYS[1])"};
