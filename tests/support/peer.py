"""The Python tool's own library, one operation per line: VERB RESOURCE [LEASE] [TTL], by tabs."""

import sys
from datetime import timedelta

from stormlock.backend import LockExpiredException, LockHeldException
from stormlock.lock import load_lock

locks = {}


def held(lease):
    return f"held\t{lease.id}\t{lease.principal}" if lease else "free"


def answer(verb, resource, *rest):
    lock = locks.setdefault(resource, None) or load_lock(resource)
    locks[resource] = lock
    if verb == "acquire":
        try:
            return f"granted\t{lock.acquire(timedelta(seconds=int(rest[0])))}"
        except LockHeldException as error:
            return held(error.lease)
    if verb == "renew":
        try:
            lock.renew(rest[0], timedelta(seconds=int(rest[1])))
            return "done"
        except LockExpiredException:
            return "expired"
    if verb == "release":
        lock.release(rest[0])
        return "done"
    if verb == "current":
        return held(lock.current())
    raise ValueError(f"no verb {verb}")


for line in sys.stdin:
    print(answer(*line.rstrip("\n").split("\t")))
