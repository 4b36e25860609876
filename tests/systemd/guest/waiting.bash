# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# A lock that is waited for, as systemd/examples/wait.conf says it.

check_waiting() {
    local unit
    unit=$(holder waits/job)
    mkdir -p "$etc/$unit.d"
    {
        cat "$PROJECT/systemd/examples/wait.conf"
        printf 'TimeoutStartSec=2s\n'
    } >"$etc/$unit.d/50-wait.conf"
    job waits waits/job
    second_takes waits/job >/dev/null
    systemctl start --no-block waits
    soon 'a holder that waits says so' waits_for "$unit"
    ok '... and is not given up after its TimeoutStartSec=' waited_for "$unit" 5
    fails '... the job did not run yet' any has_run waits
    second release -q waits/job
    soon 'when the lock is free the job begins' is_act waits active
    systemctl stop waits
    soon '... and at its end it is given back' free waits/job

    second_takes waits/job >/dev/null
    systemctl start --no-block waits
    soon 'a holder waits' waits_for "$unit"
    ok 'a job that is not wanted any more is stopped with its holder' systemctl stop waits "$unit"
    soon '... and nobody waits' is_act "$unit" inactive
    systemctl start --no-block waits
    soon 'a holder waits' waits_for "$unit"
    systemctl stop waits
    ok '... also when its job alone is stopped' waits_for "$unit"
    second release -q waits/job
    soon '... until it has the lock, which it gives back' is_act "$unit" inactive
    fails '... so that nobody holds it' any held waits/job
    second_takes waits/job >/dev/null

    sed -i 's/--timeout 10m/--timeout 3s/' "$etc/$unit.d/50-wait.conf"
    systemctl daemon-reload
    fails 'a wait that is over: the job cannot be started' any systemctl start waits
    is '... and does not run' "$(act waits)" inactive
    ok '... the holder ended with 75' logged "$unit" 'status=75'
    second release -q waits/job
}

# As at the boot of a host whose network is late.
check_store_away() {
    job hasty hasty/job
    systemctl stop redis
    fails 'the store is away: the job cannot be started' any systemctl start hasty
    ok '... its holder ended with 69' logged "$(holder hasty/job)" 'status=69'
    job patient patient/job
    mkdir -p "$etc/$(holder patient/job).d"
    cp "$PROJECT/systemd/examples/wait.conf" "$etc/$(holder patient/job).d/50-wait.conf"
    systemctl daemon-reload
    systemctl start --no-block patient
    ok '... one that waits waits for the store' within "$patience" \
        logged "$(holder patient/job)" 'the wait goes on'
    systemctl start redis
    ok '... and has the lock when that is back' within "$patience" is_act patient active
    systemctl stop patient
    ok '... and it can be when the store is back' within "$patience" systemctl start hasty
    systemctl stop hasty
}

waits_for() {
    [ "$(of_unit "$1" ActiveState)" = activating ] && of_unit "$1" StatusText | grep -q 'waits for'
}

# waited_for UNIT SECONDS: it is still starting so long after it began to.
waited_for() {
    local since
    since=$(of_unit "$1" InactiveExitTimestampMonotonic)
    within "$patience" test_age "$since" "$2" && waits_for "$1"
}

test_age() {
    [ "$(($(uptime_centiseconds) - $1 / 10000))" -ge "$(($2 * 100))" ]
}
