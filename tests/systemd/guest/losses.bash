# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# What ends a lock under a job. The losses that take their time happen side by side.

# A break is noticed within 15 s, a holder that stands still within its WatchdogSec=10s, no renewal
# within the ttl; then the job has its TimeoutStopSec=10s. The rest is for a busy machine.
readonly notice=60
# A broken lock is nobody's for half a minute after its job was asked to end.
readonly settled=120

# Begins what check_nobody_early sees the end of.
check_losses() {
    local name status=0 batch
    start_jobs
    timeout "$settled" systemctl start batch 2>/dev/null &
    batch=$!
    soon '... a oneshot too' is_act batch activating
    soon '... and a command of stormctl run' held wrapped/job
    for name in broken stubborn batch wrapped; do
        ok "the second agent breaks the lock of $name" \
            second break --yes -m 'to see what happens' "$name/job"
        taken_next "$name/job"
    done
    for name in killed frozen; do
        taken_next "$name/job"
    done
    systemctl kill --kill-who=main --signal=KILL "$(holder killed/job)" "$(holder revived/job)"
    systemctl kill --kill-who=main --signal=STOP "$(holder frozen/job)"
    ok 'a job whose holder was killed can be started again' systemctl restart revived
    ok '... when those who counted on its lock had their time' \
        logged "$(holder revived/job)" 'which was killed'
    systemctl stop revived
    ok 'holder killed: its job is stopped' within "$notice" is_act killed inactive
    ok 'holder frozen: its job is stopped' within "$notice" is_act frozen inactive
    ok 'lock broken: its job is stopped' within "$notice" is_act broken inactive
    ok '... and had the time to end by itself' test -s /run/ended.broken
    ok '... the holder says what happened' logged "$(holder broken/job)" 'to see what happens'
    ok '... and ends with 79' logged "$(holder broken/job)" 'status=79'
    wait "$batch" || status=$?
    is '... a oneshot fails for whoever started it' "$((status != 0))" 1
    ok '... a job that ignores SIGTERM is killed' within "$notice" is_act stubborn failed
    is '... after its TimeoutStopSec=' "$(of_unit stubborn Result)" timeout
    ok '... a command of stormctl run is ended' within "$notice" is_act wrapped failed
    is '... with 79' "$(of_unit wrapped ExecMainStatus)" 79
}

start_jobs() {
    job broken broken/job 'ExecStart=ends-in 3 broken\nRestart=always'
    job stubborn stubborn/job 'ExecStart=never-ends\nExecStopPost=note-end stubborn'
    job batch batch/job 'Type=oneshot\nExecStart=ends-in 3 batch'
    job killed killed/job 'ExecStart=ends-in 5 killed'
    job frozen frozen/job 'ExecStart=ends-in 5 frozen'
    job revived revived/job 'ExecStart=ends-in 1 revived'
    cat >"$etc/wrapped.service" <<'UNIT'
[Service]
Type=exec
ExecStart=stormctl run wrapped/job -- ends-in 3 wrapped
KillMode=mixed
UNIT
    systemctl daemon-reload
    ok 'jobs run, each under a lock' systemctl start broken stubborn killed frozen revived wrapped
}

check_nobody_early() {
    local name
    for name in killed frozen broken stubborn batch wrapped; do
        ok "another host gets the lock of $name" \
            within "$settled" is_taken_next "$name/job"
        ok '... after the end of the job' ended_before_taken "$name" "$name/job"
    done
    is 'a job with Restart=always did not come back without its lock' "$(act broken)" inactive
    ok '... and can be started again' systemctl start broken
    systemctl stop broken
}

# No agent, no renewal: the holder keeps the deadline by itself.
check_unproven() {
    local unit
    unit=$(holder short/job)
    job unproven short/job 'ExecStart=ends-in 6 unproven'
    systemctl start unproven
    systemctl stop stormlockd.socket stormlockd.service
    taken_next short/job
    ok 'no renewal in time: the job is stopped' within "$notice" is_act unproven inactive
    ok '... the holder says why' logged "$unit" 'was not renewed in time'
    ok '... and ends with 79' logged "$unit" 'status=79'
    ok '... another host gets the lock' within "$settled" is_taken_next short/job
    ok '... after the end of the job' ended_before_taken unproven short/job
    systemctl start stormlockd.socket stormlockd.service
}
