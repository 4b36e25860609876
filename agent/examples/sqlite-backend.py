#!/usr/bin/env python3
"""Locks among the agents of one host, in an SQLite file: an example of a backend of one's own.

README.md beside this file is the protocol. What makes this store a sound one:
- each question is one transaction that has the file for itself (BEGIN IMMEDIATE);
- an acquire compares the resource's counter, and each grant and each cancel moves it, so a late
  copy of an acquire fails. Counters are kept for ever;
- its clock counts since boot, and nobody can set it. After a boot every lease starts its time
  again: late, never early. So the file must lie on a disk of this host.
"""
import json
import sqlite3
import sys
import time

BUSY_SECONDS = 4  # less than the agent waits for an answer
SCHEMA = """
CREATE TABLE IF NOT EXISTS boot (id TEXT);
CREATE TABLE IF NOT EXISTS counters (resource TEXT PRIMARY KEY, counter INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS locks (resource TEXT PRIMARY KEY, lease TEXT, mark TEXT, principal TEXT,
    host TEXT, reason TEXT, since_ms INTEGER, ttl_ms INTEGER, fence INTEGER, ends_ms INTEGER);
"""
IS_LOCK = """length(lease) = 32 AND lease NOT GLOB '*[^0-9a-f]*' AND length(principal) > 0
    AND typeof(principal) = 'text'
    AND length(principal || ifnull(host, '') || ifnull(reason, '')) < 1000"""


class Foreign(Exception):
    """Something that is no lock stands under a name."""


class Store:
    def __init__(self, path):
        self.path = path
        # Transactions are begun and ended here and in `answer` alone.
        self.db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        self.db.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            self.db.execute(statement)
        if not self.one("SELECT * FROM boot WHERE id = ?", boot):
            self.db.execute("DELETE FROM boot")
            self.db.execute("INSERT INTO boot VALUES (?)", (boot,))
            self.db.execute("UPDATE locks SET ends_ms = ? + ttl_ms", (now_ms(),))
        self.db.execute("COMMIT")

    def answer(self, question):
        """What a question comes to, once that is on disk."""
        refused = {"is": "refused", "kind": "not_writable"}
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            return {**refused, "why": f"{self.path}: {error}"}
        try:
            answer = getattr(self, "do_" + question["do"], unsupported)(question)
            self.db.execute("COMMIT")
            return answer
        except (Foreign, sqlite3.Error) as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if isinstance(error, Foreign):
                return {**refused, "kind": "foreign", "why": f"{self.path}: {error}"}
            return {"is": "unknown", "why": f"{self.path}: {error}"}

    def one(self, query, *values):
        return self.db.execute(query, values).fetchone()

    def lock(self, resource):
        """The live lock on a resource, if there is one."""
        found = self.one(f"SELECT *, {IS_LOCK} AS fits FROM locks WHERE resource = ?", resource)
        if found and not found["fits"]:
            raise Foreign(f"the row of {resource} is no lock")
        return found if found and remaining(found) != 0 else None

    def counter(self, resource):
        found = self.one("SELECT counter FROM counters WHERE resource = ?", resource)
        return found["counter"] if found else 0

    def move(self, resource):
        """Moves the counter, above the wall clock too: so fences rise even if the file is lost."""
        counter = max(self.counter(resource) + 1, time.time_ns() // 1000)
        self.db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (resource, counter))
        return counter

    def do_hello(self, q):
        only_here = {"store": self.path, "this_host_only": True}
        return {"is": "ready", "protocol": 1, "kind": "sqlite", **only_here}

    def do_look(self, q):
        lock = self.lock(q["resource"])
        return {**(held(lock) if lock else {"is": "free"}), "counter": self.counter(q["resource"])}

    def do_acquire(self, q):
        lock = self.lock(q["resource"])
        if lock and lock["lease"] == q["lease"]:
            return {"is": "granted", "fence": lock["fence"], "remaining_ms": remaining(lock)}
        if lock and lock["lease"] != q.get("over"):
            return held(lock)
        if q.get("over") and not lock:
            return {"is": "gone"}
        if self.counter(q["resource"]) != q["counter"]:
            return {"is": "moved"}
        ttl = max(q["ttl_ms"], (remaining(lock) or 0) if lock else 0)
        fence, ends_ms = self.move(q["resource"]), now_ms() + ttl
        row = "resource lease mark principal host reason since_ms ttl_ms".split()
        values = [q[column] for column in row] + [fence, ends_ms]
        self.db.execute("INSERT OR REPLACE INTO locks VALUES (?,?,?,?,?,?,?,?,?,?)", values)
        return {"is": "granted", "fence": fence, "remaining_ms": ttl}

    def do_verify(self, q):
        try:
            lock = self.lock(q["resource"])
        except Foreign:  # whatever it is, it is not this lease
            lock = None
        if not lock or lock["lease"] != q["lease"]:
            return {**(held(lock) if lock else {}), "is": "not_ours"}
        if q["marks"] and lock["mark"] not in q["marks"]:
            return {"is": "cloned"}
        return {"is": "ours", "remaining_ms": remaining(lock)}

    def do_renew(self, q):
        answer, ttl = self.do_verify(q), q["ttl_ms"]
        if answer["is"] == "ours":
            change = "UPDATE locks SET ttl_ms = ?, ends_ms = ?, mark = coalesce(?, mark)"
            values = (ttl, now_ms() + ttl, q["next"], q["resource"])
            self.db.execute(change + " WHERE resource = ?", values)
            answer["remaining_ms"] = ttl
        return answer

    def do_release(self, q):
        if self.do_verify(q)["is"] != "ours":
            return {"is": "gone"}
        self.db.execute("DELETE FROM locks WHERE resource = ?", (q["resource"],))
        return {"is": "done"}

    def do_cancel(self, q):
        self.move(q["resource"])
        self.do_release({**q, "marks": []})
        return {"is": "done"}

    def do_list(self, q):
        # SQLite compares texts byte by byte, as the agent does.
        query = f"""SELECT * FROM locks WHERE resource > ? AND {IS_LOCK}
            AND (ends_ms IS NULL OR ends_ms > ?) ORDER BY resource LIMIT ?"""
        found = self.db.execute(query, (q["after"] or "", now_ms(), q["limit"]))
        return {"is": "locks", "locks": [held(lock)["holder"] for lock in found]}


def unsupported(q):
    return {"is": "unsupported"}


def now_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def remaining(lock):
    """Milliseconds; None for a lock without an end, which somebody made by hand."""
    return None if lock["ends_ms"] is None else max(0, lock["ends_ms"] - now_ms())


def held(lock):
    keys = "resource lease principal host reason fence since_ms".split()
    shown = {key: lock[key] for key in keys}
    return {"is": "held", "holder": {**shown, "remaining_ms": remaining(lock)}}


def main():
    store = Store(sys.argv[1])
    for line in sys.stdin.buffer:  # until the agent goes
        question = json.loads(line)
        answer = {"id": question["id"], **store.answer(question)}
        # A row that somebody made by hand may hold what is no text: it must not end the program.
        print(json.dumps(answer, default=repr), flush=True)


if __name__ == "__main__":
    main()
