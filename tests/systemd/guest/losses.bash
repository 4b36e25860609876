# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# What ends a lock under a job. The losses that take their time happen side by side.

# A break is noticed within 15 s, and a holder that stands still within its WatchdogSec=10s; then the
# job has TimeoutStopSec=10s. The rest is for a busy machine.
readonly notice=60

check_losses() {
    start_all
    lose_all
    see_all
    check_unproven
}

start_all() {
    local noted='\nExecStopPost=note-end %p'
    job broken broken/job "ExecStart=ends-in 3\nRestart=always$noted"
    job stubborn stubborn/job "ExecStart=never-ends$noted"
    job batch batch/job "Type=oneshot\nExecStart=sleep infinity$noted"
    job killed killed/job "ExecStart=ends-in 3$noted"
    job frozen frozen/job "ExecStart=ends-in 3$noted"
    printf '[Service]\nType=exec\nExecStart=stormctl run wrapped/job -- sleep infinity%b\n' \
        "$noted" >"$etc/wrapped.service"
    systemctl daemon-reload
    ok 'jobs run, each under a lock' systemctl start broken stubborn killed frozen wrapped
    systemctl start batch 2>/dev/null &
    batch=$!
    soon '... a oneshot too' is_act batch activating
    soon '... and a job of stormctl run' held wrapped/job
}

lose_all() {
    local name
    for name in broken stubborn batch wrapped; do
        ok "the second agent breaks the lock of $name" \
            second break --yes -m 'to see what happens' "$name/job"
        taken_next "$name/job"
    done
    taken_next killed/job; taken_next frozen/job
    begun=$SECONDS
    systemctl kill --kill-who=main --signal=KILL "$(holder killed/job)"
    systemctl kill --kill-who=main --signal=STOP "$(holder frozen/job)"
    ok 'holder killed: its job is stopped' within "$patience" is_act killed inactive
    echo "# after $((SECONDS - begun)) s"
}

see_all() {
    local name status=0
    ok 'lost: the job is stopped' within "$notice" is_act broken inactive
    echo "# after $((SECONDS - begun)) s"
    is '... and ended by itself when it was asked to' "$(of_unit broken ExecMainStatus)" 0
    ok '... the holder says what happened' logged "$(holder broken/job)" 'to see what happens'
    ok '... and ends with 79' logged "$(holder broken/job)" 'status=79'
    wait "$batch" || status=$?
    is 'lost: a oneshot fails' "$((status != 0)) $(act batch)" '1 failed'
    ok 'lost: a job that ignores SIGTERM is killed' within "$notice" is_act stubborn failed
    is '... after its TimeoutStopSec=' "$(of_unit stubborn Result)" timeout
    ok 'lost: a command of stormctl run is ended' within "$notice" is_act wrapped failed
    is '... with 79' "$(of_unit wrapped ExecMainStatus)" 79
    ok 'holder frozen: its job is stopped' within "$notice" is_act frozen inactive
    echo "# after $((SECONDS - begun)) s"
    for name in broken stubborn batch wrapped; do
        ok "nobody gets the lock of $name" within 120 is_taken_next "$name/job"
        ok '... before it has ended' ended_before_taken "$name" "$name/job"
        echo "# after $((SECONDS - begun)) s"
    done
    ended_before_taken killed killed/job; echo "# rc $?"; ended_before_taken frozen frozen/job; echo "# rc $?"
    is 'a job with Restart=always does not come back without its lock' "$(act broken)" inactive
    ok '... but can be started again' systemctl start broken
    systemctl stop broken
}

# No agent, no renewal: the holder keeps the deadline by itself.
check_unproven() {
    job unproven short/unproven "ExecStart=ends-in 3
ExecStop=/bin/sh -c 'redis-cli --no-auth-warning -a $password pttl short/unproven >/run/unproven'
ExecStopPost=/bin/sh -c 'redis-cli --no-auth-warning -a $password pttl short/unproven >/run/unproven.post'"
    systemctl start unproven
    systemctl stop stormlockd.socket stormlockd.service
    ok 'no renewal in time: the job is asked to end' within "$notice" is_act unproven inactive
    ok '... while the lock is still there in the store' test "$(cat /run/unproven)" -gt 0
    cat /run/unproven.post
    systemctl start stormlockd.socket stormlockd.service
}
