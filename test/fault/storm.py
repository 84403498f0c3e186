# SPDX-License-Identifier: Apache-2.0
"""A storm of faults over a small fleet, and the account of it.

    python test/fault/storm.py --seed 7 --seconds 60        (or: make fault SEED=7 SECONDS=60)

Tasks of a real Celery producer (single ones, retries, chains, chords) run in cworkers while children,
zygotes, mains, redis-server and the MongoDB server are killed with SIGKILL, workers are paused beyond
their lease, and connections are cut in the middle of a byte stream. A ledger that the tasks write
themselves counts the runs. At the end every task must have its result, and a task may have run more
often than it was retried only where a fault came while it ran."""
from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "test"), str(ROOT / "test/integration"), str(ROOT / "test/fault")]

from celery import Celery, chain, chord, group  # noqa: E402
from services.mongo import MongoServer  # noqa: E402
from services.process import descendants, die_with_us, is_alive, wait_until  # noqa: E402
from services.proxy import Proxy  # noqa: E402
from services.redis import RedisServer  # noqa: E402

BUILD = ROOT / os.environ.get("CWORKER_BIN", "build/cworker")
LEASE = 2.0
LEAST_FAULTS = 6
# What a fault may still spoil after a run has ended: its outcome is on its way to the store and the
# broker, and both may be down for a while.
TAIL_NS = int(3e9)


@dataclass
class Fault:
    kind: str
    begin: int
    end: int
    life: int | None  # of the worker that it hit; None: all of them
    pid: int | None   # of the child that it hit; None: all of that worker's

    def hits(self, run: Run) -> bool:
        return self.life in (None, run.life) and self.pid in (None, run.pid)


@dataclass
class Run:
    number: int
    attempt: int
    pid: int
    life: int
    begin: int
    end: int | None = None


@dataclass
class Account:
    sent: int = 0
    faults: list[Fault] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    explained: int = 0
    had_ended: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    recovery: float = 0

    @property
    def ok(self) -> bool:
        return not (self.lost or self.wrong or self.unexplained)

    def report(self) -> str:
        kinds = Counter(fault.kind for fault in self.faults)
        lines = [f"tasks sent                       {self.sent}",
                 f"lost                             {len(self.lost)} {self.lost[:20] or ''}",
                 f"wrong results                    {len(self.wrong)} {self.wrong[:5] or ''}",
                 f"run again after a fault          {self.explained}",
                 f"  that had ended before it         {dict(self.had_ended)}",
                 f"run again without a fault        {len(self.unexplained)}",
                 *[f"    {line}" for line in self.unexplained[:20]],
                 f"faults                           {dict(kinds)}",
                 f"longest from a fault to the rerun  {self.recovery:.1f} s (lease {LEASE:g} s)"]
        return "\n".join(lines)


class Worker:
    """A cworker that is started again when it is gone, as a pod would be: another life."""

    lives = itertools.count(1)

    def __init__(self, name: str, storm: Storm) -> None:
        self.name, self.storm = name, storm
        self.log = storm.folder / f"{name}.log"
        self.paused = False
        self.start()

    def command(self) -> list[str]:
        storm = self.storm
        return [str(BUILD), "-b", f"redis://127.0.0.1:{storm.proxy.port}/0", "--result-backend",
                storm.backend, "-A", str(BUILD.parent / "ledger.so"), "-P", storm.pool, "-c", "3", "-l", "INFO",
                "-n", f"{self.name}@storm", "--set", f"worker_lease={LEASE}",
                "--set", "task_max_deliveries=1000000"]

    def start(self) -> None:
        storm = self.storm
        self.life = next(self.lives)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parent, preexec_fn=die_with_us,
                env={**os.environ, "FAULT_LEDGER": str(storm.ledger),
                     "FAULT_LIFE": str(self.life), "BACKEND": storm.backend,
                     "BROKER": storm.redis.url()})

    def children(self, name: str) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            try:
                for tasks in Path(f"/proc/{pid}/task").iterdir():
                    todo += map(int, (tasks / "children").read_text().split())
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
            except OSError:
                continue
        return found

    def resume(self) -> None:
        if self.paused:
            self.process.send_signal(signal.SIGCONT)
            self.paused = False

    def keep_alive(self) -> None:
        if self.process.poll() is not None:
            self.start()

    def stop(self) -> int:
        self.resume()
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class PythonWorker(Worker):
    """Celery's own worker on the same queue. No fault is aimed at it: what it may lose itself (a
    message between BRPOP and its filing, say) is not what is tested here."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "python_tasks", "worker", "-c", "1", "-l",
                "INFO", "-n", f"{self.name}@storm", "--without-gossip", "--without-mingle"]


class Storm:
    def __init__(self, seed: int, mongo: bool, workers: int, chords: bool, python: bool,
                 pool: str) -> None:
        self.random = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="cworker-fault-"))
        self.ledger = self.folder / "ledger"
        self.ledger.touch()
        self.chords, self.pool = chords, pool
        self.redis = RedisServer(aof=True).start()
        self.mongo = MongoServer(private=True, durable=True).start() if mongo else None
        self.proxy = Proxy(self.redis.port)
        self.backend = self.mongo.url("storm") if mongo else self.redis.url()
        self.app = Celery("storm", broker=self.redis.url(), backend=self.backend,
                          set_as_current=False)
        self.account = Account()
        self.results: dict[int, object] = {}
        self.expected: dict[int, object] = {}
        self.workers = [Worker(f"w{i}", self) for i in range(workers)]
        self.python = PythonWorker("python", self) if python else None

    # --- work -------------------------------------------------------------------------------------

    def number(self) -> int:
        self.account.sent += 1
        return self.account.sent

    def signature(self, number: int):
        self.expected[number] = number
        return self.app.signature("fault.run", (number, round(self.random.uniform(0, 0.15), 3),
                                                self.random.choice([0, 0, 0, 1, 2])),
                                  task_id=f"task-{number}", immutable=True)

    def send(self) -> None:
        kind = self.random.choice(["one", "one", "one", "chain", "chord" if self.chords else "one"])
        numbers = [self.number() for _ in range({"one": 1, "chain": 3, "chord": 5}[kind])]
        steps = [self.signature(number) for number in numbers[:5 if kind != "chord" else 4]]
        if kind == "one":
            steps[0].apply_async()
        elif kind == "chain":
            chain(*steps, app=self.app).apply_async()
        else:
            self.expected[numbers[4]] = sum(numbers[:4])
            body = self.app.signature("fault.sum", kwargs={"number": numbers[4]},
                                      task_id=f"task-{numbers[4]}")
            chord(group(*steps, app=self.app), app=self.app)(body)

    # --- faults -----------------------------------------------------------------------------------

    def kill_one(self, name: str) -> tuple[int | None, int | None]:
        """The life and, where only one child was hit, its pid. Until all that ends with it has ended: a child
        that outlives its parent for a moment may begin what it had been given."""
        worker = self.random.choice(self.workers)
        pids = worker.children(name) if name != "main" else [worker.process.pid]
        if pids and worker.process.poll() is None:
            worker.resume()
            pid = self.random.choice(pids)
            below = descendants(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, [pid, *below])), what="the end of what was killed")
            return worker.life, pid if name == "cworker: pool" else None
        return 0, None

    def child(self) -> tuple[int | None, int | None]:
        return self.kill_one("cworker: pool")

    def zygote(self) -> tuple[int | None, int | None]:
        return self.kill_one("cworker: zygote")

    def main(self) -> tuple[int | None, int | None]:
        return self.kill_one("main")

    def pod(self) -> tuple[int | None, int | None]:
        """Every process of a worker, as the end of a container's namespace would."""
        worker = self.random.choice(self.workers)
        if worker.process.poll() is None:
            worker.resume()
            pids = [worker.process.pid, *worker.children("cworker: zygote"), *worker.children("cworker: pool")]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids)), what="the end of all of them")
        return worker.life, None

    def redis_server(self) -> None:
        self.redis.kill()
        time.sleep(self.random.uniform(0, 0.5))
        self.redis.start()

    def mongodb(self) -> None:
        self.mongo.kill()
        time.sleep(self.random.uniform(0, 0.5))
        self.mongo.start()

    def pause(self) -> tuple[int | None, int | None]:
        worker = self.random.choice(self.workers)
        worker.process.send_signal(signal.SIGSTOP)
        worker.paused = True
        time.sleep(LEASE * self.random.uniform(0.5, 2.5))
        worker.resume()
        return worker.life, None

    def cut(self) -> None:
        before = self.proxy.cuts
        self.proxy.cut(self.random.randrange(1, 4000))
        deadline = time.monotonic() + 1
        while self.proxy.cuts == before and time.monotonic() < deadline:
            time.sleep(0.01)

    def fault(self) -> None:
        kinds = [self.child] * 6 + [self.main] * 4 + [self.pod] * 2 + [self.cut] * 4 + [self.pause] * 2 + \
            [self.zygote] + ([self.redis_server] if not self.python else []) + \
            ([self.mongodb] if self.mongo and not self.python else [])
        kind = self.random.choice(kinds)
        begin = time.monotonic_ns()
        life, pid = kind() or (None, None)
        self.account.faults.append(Fault(kind.__name__, begin, time.monotonic_ns(), life, pid))

    # --- the whole --------------------------------------------------------------------------------

    def blow(self, seconds: float) -> None:
        """So long, and longer where a machine is too slow for a few faults in that time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or len(self.account.faults) < LEAST_FAULTS:
            for _ in range(self.random.randrange(10, 40)):
                self.send()
            time.sleep(self.random.uniform(0.1, 0.6))
            self.fault()
            for worker in self.workers:
                worker.keep_alive()

    def missing(self) -> list[int]:
        return [number for number in self.expected
                if number not in self.results and not self.collect(number)]

    def collect(self, number: int) -> bool:
        result = self.app.AsyncResult(f"task-{number}")
        meta = self.app.backend.get_task_meta(result.id)
        if meta["status"] in ("SUCCESS", "FAILURE", "REVOKED"):
            self.results[number] = meta["result"]
            return True
        return False

    def settle(self, patience: float) -> None:
        """Until all have their results, or nothing new has come for so many seconds."""
        last, begin = len(self.expected), time.monotonic()
        while missing := self.missing():
            for worker in self.workers:
                worker.keep_alive()
            if len(missing) < last:
                last, begin = len(missing), time.monotonic()
            if time.monotonic() - begin > patience:
                self.account.lost = missing
                return
            time.sleep(0.1)

    def runs(self) -> dict[int, list[Run]]:
        runs: dict[int, list[Run]] = defaultdict(list)
        for number, at, pid, event, attempt, life in struct.iter_unpack("<QQIIII",
                                                                        self.ledger.read_bytes()):
            if event == 1:
                runs[number].append(Run(number, attempt, pid, life, at))
            else:
                for run in reversed(runs[number]):
                    if run.pid == pid and run.end is None:
                        run.end = at
                        break
        return runs

    def explain(self, earlier: Run, later: Run) -> list[Fault]:
        """The faults that came while the earlier run went on, or its outcome was on its way."""
        end = (earlier.end or later.begin) + TAIL_NS
        return [fault for fault in self.account.faults
                if fault.hits(earlier) and fault.begin <= end and fault.end >= earlier.begin and
                fault.begin <= later.begin]

    def audit(self) -> None:
        account = self.account
        account.wrong = [f"task {number}: {self.results[number]!r}, not {value!r}"
                         for number, value in self.expected.items()
                         if number in self.results and self.results[number] != value]
        for number, runs in self.runs().items():
            by_attempt: dict[int, list[Run]] = defaultdict(list)
            for run in runs:
                by_attempt[run.attempt].append(run)
            for attempt, same in by_attempt.items():
                for earlier, later in zip(same, same[1:]):
                    if faults := self.explain(earlier, later):
                        account.explained += 1
                        if earlier.end and all(fault.begin > earlier.end for fault in faults):
                            account.had_ended["+".join(sorted({f.kind for f in faults}))] += 1
                        seconds = (later.begin - faults[-1].end) / 1e9
                        # A task whose child was killed goes behind all that waits: no rescue.
                        if all(fault.kind != "child" for fault in faults):
                            account.recovery = max(account.recovery, seconds)
                    else:
                        before = [(fault.kind, round((earlier.begin - fault.end) / 1e9, 3))
                                  for fault in account.faults if fault.begin <= later.begin]
                        account.unexplained.append(
                            f"task {number} attempt {attempt}: {earlier} then {later}; the last "
                            f"faults, in seconds before: {before[-2:]}")

    def close(self) -> None:
        for worker in [*self.workers, *([self.python] if self.python else [])]:
            worker.stop()
        self.app.close()
        self.proxy.close()
        self.redis.close()
        if self.mongo:
            self.mongo.close()


def blow(seed: int, seconds: float, *, mongo: bool = False, workers: int = 2, chords: bool = True,
         python: bool = False, pool: str = "prefork", patience: float = 120) -> tuple[Account, Path]:
    storm = Storm(seed, mongo, workers, chords, python, pool)
    everyone = [*storm.workers, *([storm.python] if python else [])]
    try:
        wait_until(lambda: all("ready." in worker.log.read_text() for worker in everyone),
                   what="the workers' ready lines")
        storm.blow(seconds)
        storm.settle(patience)
        storm.audit()
    finally:
        storm.close()
    return storm.account, storm.folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10 ** 6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mongo", action="store_true", help="results in MongoDB, killed as well")
    parser.add_argument("--no-chords", action="store_true")
    parser.add_argument("--pool", default="prefork", choices=["prefork", "threads", "solo"])
    parser.add_argument("--python", action="store_true", help="a Python worker on the same queue")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    account, folder = blow(options.seed, options.seconds, mongo=options.mongo,
                           workers=options.workers, chords=not options.no_chords,
                           python=options.python, pool=options.pool)
    print(account.report())
    print(f"logs and ledger: {folder}")
    return 0 if account.ok else 1


if __name__ == "__main__":
    sys.exit(main())
