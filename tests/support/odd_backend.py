#!/usr/bin/env python3
"""A backend that misbehaves in the way that its first argument says; else it has one free resource
and gives it to nobody. The second argument is a directory of the test's own."""

import json
import os
import signal
import subprocess
import sys

how, place = sys.argv[1], sys.argv[2]
held_back = []


def say(answer):
    print(json.dumps(answer), flush=True)


def note(name, text=""):
    with open(os.path.join(place, name), "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def child():
    """Something that outlives the program unless somebody ends it, and keeps its pipes."""
    for_ever_too = ["/usr/bin/env", "tail", "-f", "/dev/null"]
    started = subprocess.Popen(for_ever_too, stdin=subprocess.DEVNULL)
    note("pids", started.pid)


def for_ever():
    while True:
        signal.pause()


def remarks():
    texts = [
        "fds " + " ".join(sorted(os.listdir("/proc/self/fd"))),
        "env " + " ".join(sorted(os.environ)),
        "cwd " + os.getcwd(),
        "args " + " ".join(sys.argv[3:]),
    ]
    return [{"level": "note", "text": text} for text in texts]


def answer(question):
    number, do = question["id"], question["do"]
    if do == "examine" and how == "terse":
        return {"id": number, "is": "unsupported"}
    if do == "examine":
        return {"id": number, "is": "remarks", "remarks": remarks()}
    if how == "garbage":
        print("here \x1b[31mis\u202e no answer", flush=True)
    elif how == "bytes":
        os.write(1, b"\xff\xfe\n")
    elif how == "endless":
        while True:
            os.write(1, b"x" * 65536)
    elif how == "mute":
        return None
    elif how == "tells":
        with open(os.path.join(place, "hello"), encoding="utf-8") as file:
            password = json.loads(file.readline())["password"]
        print(f"connecting as agent:{password}@db", file=sys.stderr, flush=True)
        if do == "acquire":
            print(f"here is {json.dumps(password)}", flush=True)
        return {"id": number, "is": "refused", "kind": "denied", "why": f"no {password}"}
    elif how == "exit":
        print("the disk is full", file=sys.stderr, flush=True)
        sys.exit(7)
    elif how == "twice":
        say({"id": number, "is": "free", "counter": 1})
        return {"id": number, "is": "free", "counter": 2}
    elif how == "stranger":
        return {"id": number + 1000, "is": "free", "counter": 1}
    elif how == "closes":
        os.close(1)
        for_ever()
    elif how == "orphan":
        child()
        os._exit(0)
    elif how == "flood" and do != "look":
        while True:
            os.write(2, b"\x1b[2J no end of it\n" * 1000)
    elif how == "late" and do == "acquire":
        note("asked")
        held_back.append({"id": number, "is": "granted", "fence": 9, "remaining_ms": 60000})
        return None
    elif how == "late" and do == "cancel":
        say({"id": number, "is": "done"})
        return held_back.pop()
    elif how == "reversed" and do == "look":
        held_back.append({"id": number, "is": "free", "counter": int(question["resource"])})
        if len(held_back) < 4:
            return None
        while held_back:
            say(held_back.pop())
        return None
    elif how == "busy":
        # One after the other, and each takes until somebody's lease has been renewed.
        note("asked", do)
        if do != "renew":
            held_back.append({"id": number, "is": "free", "counter": 1})
            return None
        say({"id": number, "is": "ours", "remaining_ms": 60000})
        while held_back:
            say(held_back.pop())
        return None
    elif how == "hoards":
        # Nobody has an answer until the one who is waited for has asked.
        note("asked", question["resource"])
        answer = {"id": number, "is": "ours", "remaining_ms": 60000}
        if do == "look":
            answer = {"id": number, "is": "free", "counter": 1}
        held_back.append(answer)
        while question["resource"].endswith("mine") and held_back:
            say(held_back.pop())
        return None
    elif how == "disorder" and do == "list":
        lock = {"lease": "0" * 32, "principal": "p"}
        return {"id": number, "is": "locks", "locks": [{**lock, "resource": r} for r in "ba"]}
    elif how == "elsewhere":
        lock = {"lease": "0" * 32, "principal": "p", "resource": "elsewhere"}
        return {"id": number, "is": "held", "holder": lock}
    elif how in ("before", "forgets") and do in ("look", "acquire"):
        if do == "acquire":
            note("asked")
        lock = {"lease": "0" * 32, "principal": "p", "resource": question["resource"]}
        counter = {"counter": 7} if how == "forgets" else {}
        return {"id": number, "is": "held", "holder": lock, **counter}
    elif how == "gone" and do == "acquire":
        return {"id": number, "is": "gone"}
    elif how == "wrong":
        return {"id": number, "is": "done"}
    elif how == "foreign":
        return {"id": number, "is": "refused", "kind": "foreign", "why": "a \x1b[1mtable"}
    elif how == "unsure":
        return {"id": number, "is": "unknown", "why": "its own store is mute"}
    return {"id": number, "is": "free", "counter": 1}


def main():
    note("pids", os.getpid())
    if how == "dies":
        print("no such database", file=sys.stderr)
        sys.exit(3)
    if how == "deaf":
        for_ever()
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child()
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "hello":
            note("hello", line)
            version = 2 if how == "newer" else 1
            said = {"id": question["id"], "is": "ready", "protocol": version, "kind": "odd"}
        else:
            said = answer(question)
        if said:
            say(said)
    if how == "stubborn":
        for_ever()


if __name__ == "__main__":
    main()
