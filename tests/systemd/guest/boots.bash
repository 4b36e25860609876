# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# The end of a host and its return: in good order, and not.

# What a host leaves behind of this lock stays for 15 minutes: a job that has it earlier did not
# wait for that.
before_reboot() {
    job booted long/job
    printf '[Install]\nWantedBy=multi-user.target\n' >>"$etc/booted.service"
    systemctl daemon-reload
    ok 'a job with a lock begins at each boot' systemctl enable -q --now booted
    lease long/job >/guest/out/lease
    systemctl reboot
}

after_reboot() {
    soon 'after a reboot the job is back' is_act booted active
    fails '... under another lease' any grep -qx "$(lease long/job)" /guest/out/lease
    ok 'at the end the job was stopped, then its lock given back, then the agent stopped' \
        in_order 'systemd\[1\]: Stopped booted\.service' \
        'event=release result=ok resource=long/job .* by=stormlock@' \
        'systemd\[1\]: Stopped stormlockd\.service'
}

# in_order PATTERN...: the last line of each in the journal of the boot before, one after the other.
in_order() {
    local pattern line last=0 lines
    lines=$(journalctl -b -1 -q)
    for pattern in "$@"; do
        line=$(grep -nE "$pattern" <<<"$lines" | tail -n 1)
        printf '%s\n' "$line"
        [ "${line%%:*}" -gt "$last" ] || return 1
        last=${line%%:*}
    done
}

lingers() {
    stormctl status -o jsonl | grep -q '"state":"lingering"'
}

before_crash() {
    local holder
    lease long/job >/guest/out/lease
    # Longer than anybody waits here; but nobody survives a boot.
    stormctl hold crash/left --ttl 1h --grace 15m &
    holder=$!
    soon 'a holder is there' held crash/left
    kill -KILL "$holder"
    soon '... and leaves its lock to what counts on it' lingers
    sync
    reboot -ff
}

after_crash() {
    soon 'after a crash the job is back, though its lock was never given back' is_act booted active
    fails '... under another lease' any grep -qx "$(lease long/job)" /guest/out/lease
    systemctl stop booted
    soon '... which is given back' free long/job
    soon '... and so is what the killed holder had left' free crash/left
}
