# shellcheck shell=bash
# shellcheck disable=SC2154 # setting.bash has it
# What happens to the agent happens to nobody's lease, holder or job.

check_agent() {
    local pid before
    ok 'a store that wants a password' start_redis
    ok 'the password is a credential of the unit (LoadCredential=)' use_redis
    ok 'a second agent on the same store' start_second
    ok 'the agent reaches the store with it' stormctl acquire -q desk
    soon '... where the second agent sees its lease' second is-held desk
    stormctl release -q desk
    ok 'the unit has the password' test -s /run/credentials/stormlockd.service/redis
    fails "it is nobody's to read: not in the journal" any \
        journalctl -b -q -o cat _SYSTEMD_UNIT=stormlockd.service --grep "$password"
    fails '... not in the properties of the unit' any \
        grep -F "$password" <(systemctl show stormlockd)
    fails '... not for a member of the group' any \
        runuser -u maria -- cat /run/credentials/stormlockd.service/redis

    job steady steady/job
    systemctl start steady
    before=$(undisturbed)
    ok 'a job runs under the lock of its holder' \
        grep -Eqx '[0-9a-f]{32} [1-9][0-9]* active [1-9][0-9]*' <<<"$before"
    pid=$(of_unit stormlockd MainPID)
    systemctl kill --kill-who=main --signal=KILL stormlockd
    soon 'the agent comes back after kill -9' another_agent "$pid"
    is '... with the same lease, holder and job' "$(undisturbed)" "$before"
    ok 'restart of the agent' systemctl restart stormlockd
    is '... disturbs neither holder nor job' "$(undisturbed)" "$before"
    ok 'stop of the agent, and its start by a client' systemctl stop stormlockd
    is '... disturbs neither holder nor job either' "$(undisturbed)" "$before"
    check_upgrade
    systemctl daemon-reload
    systemctl daemon-reexec
    is 'daemon-reload and daemon-reexec disturb neither' "$(undisturbed)" "$before"
    for _ in 1 2 3 4 5 6 7; do
        systemctl restart stormlockd
    done
    is 'seven restarts in a row are no crash loop' \
        "$(act stormlockd.socket) $(act stormlockd) $(undisturbed)" "active active $before"
    pid=$(of_unit stormlockd MainPID)
    systemctl kill --kill-who=main --signal=STOP stormlockd
    soon 'an agent that stands still is ended by the watchdog and comes back' another_agent "$pid"
    is '... with the same lease, holder and job' "$(undisturbed)" "$before"
    systemctl stop steady
    soon 'the lock is given back when the job is stopped' free steady/job
}

# Lease, holder and job, by the ids that each has.
undisturbed() {
    printf '%s %s %s %s\n' "$(lease steady/job)" \
        "$(of_unit "$(holder steady/job)" MainPID)" "$(act steady)" "$(of_unit steady MainPID)"
}

another_agent() {
    local pid
    pid=$(of_unit stormlockd MainPID)
    [ "$pid" != 0 ] && [ "$pid" != "$1" ] && is_act stormlockd active
}
