# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# The end of a host and its return: in good order, and not.

# The lock outlives a host that is gone for 15 minutes: what is held early is not held by waiting.
before_reboot() {
    job booted long/job
    printf '[Install]\nWantedBy=multi-user.target\n' >>"$etc/booted.service"
    systemctl daemon-reload
    ok 'a job with a lock begins at each boot' systemctl enable -q --now booted
    lease long/job >/guest/out/lease
    systemctl reboot
}

after_reboot() {
    local order
    soon 'after a reboot the job is back' is_act booted active
    fails '... under another lease' any grep -qx "$(lease long/job)" /guest/out/lease
    order=$(journalctl -b -1 -q -o cat | grep -nE "$(printf '%s|%s|%s' \
        'Stopped booted\.service' '^release ok long/job' 'Stopped stormlockd\.service')")
    ok 'at the end the job was stopped, its lock given back, the agent stopped, in this order' \
        test "$(sed -nE 's/.*(booted|long.job|stormlockd).*/\1/p' <<<"$order" |
            paste -sd' ')" = 'booted long/job stormlockd'
    printf '%s\n' "$order" | sed 's/^/# /'
}

before_crash() {
    lease long/job >/guest/out/lease
    sync
    reboot -ff
}

after_crash() {
    soon 'after a crash the job is back, though its lock was never given back' is_act booted active
    fails '... under another lease' any grep -qx "$(lease long/job)" /guest/out/lease
    systemctl stop booted
    soon '... which is given back' free long/job
}
