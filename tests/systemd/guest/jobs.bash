# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# A job, its holder and its lock, where nothing goes wrong but that others have the lock.

check_jobs() {
    install_workers
    check_busy
    check_order
    check_oneshot
    check_sharing
    check_names
    check_journal
}

check_busy() {
    local since had
    second_takes busy/job >/dev/null
    job busy busy/job
    job again busy/job 'ExecStart=/bin/sleep infinity\nRestart=always\nRestartSec=100ms'
    fails 'busy: the job cannot be started' any systemctl start busy
    fails '... it never ran' any has_run busy
    ok '... its holder ended with 75 and named who has the lock' \
        logged "$(holder busy/job)" 'of the second host'
    ok '... (75)' logged "$(holder busy/job)" 'status=75'
    fails '... nor does one with Restart=always' any systemctl start again
    fails '... run, now or later' any has_run again
    is '... it is inactive' "$(act again)" inactive
    second release -q busy/job
    ok 'free again: the job can be started' systemctl start again
    since=$(of_unit "$(holder busy/job)" MainPID)
    ok '... and started again, under the same lease' systemctl restart again
    is '... and holder' "$(of_unit "$(holder busy/job)" MainPID)" "$since"
    had=$(of_unit again MainPID)
    systemctl kill --kill-who=main --signal=KILL again
    soon 'a job that crashed begins again' is_another again "$had"
    is '... under the same lease still' "$(of_unit "$(holder busy/job)" MainPID)" "$since"
    systemctl stop again
    soon '... and gives the lock back at its end' free busy/job
    is 'nothing is left of the holder' "$(act "$(holder busy/job)")" inactive
}

# is_another UNIT PID: it runs, as another process.
is_another() {
    is_act "$1" active && [ "$(of_unit "$1" MainPID)" != "$2" ]
}

# The lock is there when the job begins, and until its last command has ended.
check_order() {
    cat >/usr/local/bin/is-locked <<'SCRIPT'
#!/bin/sh
stormctl is-held order/job && echo "$1" >>/run/order
SCRIPT
    chmod 755 /usr/local/bin/is-locked
    job order order/job 'ExecStartPre=is-locked before
ExecStart=ends-in 1
ExecStop=is-locked stop
ExecStopPost=is-locked after'
    systemctl start order
    systemctl stop order
    is 'the job has the lock from before its first command until after its last' \
        "$(paste -sd' ' /run/order)" 'before stop after'
    soon '... and not longer' free order/job
}

check_oneshot() {
    local count
    job shot shot/job 'Type=oneshot
ExecStart=/bin/sh -c "stormctl is-held shot/job && echo >>/run/shot"'
    for ((count = 0; count < 10; count++)); do
        systemctl start shot || break
    done
    is 'ten runs of a oneshot back to back, each under the lock' "$(wc -l </run/shot)" 10
    soon '... which is given back after the last' free shot/job
    printf '[Timer]\nOnActiveSec=100ms\nAccuracySec=10ms\n' >"$etc/shot.timer"
    rm /run/shot
    systemctl daemon-reload
    systemctl start shot.timer
    soon 'a timer runs it under the lock' test -s /run/shot
    systemctl stop shot.timer
    soon '... which is given back' free shot/job
}

check_sharing() {
    job one pair/job
    job other pair/job
    systemctl start one other
    is 'two jobs on one lock run at the same time' "$(act one) $(act other)" 'active active'
    ok '... under one lease' test "$(stormctl list pair/job -o id | wc -l)" = 1
    systemctl stop one
    is '... which stays when one of them ends' "$(act other) $(held pair/job; echo $?)" 'active 0'
    systemctl stop other
    soon '... and not when both have' free pair/job

    # What `stormctl run` takes is the command's own.
    printf '[Service]\nType=exec\nExecStart=/usr/bin/stormctl run solo/job -- sleep infinity\n' |
        tee "$etc/first.service" >"$etc/last.service"
    systemctl daemon-reload
    systemctl start first
    soon 'a job of stormctl run has its lock' held solo/job
    systemctl start last
    soon '... alone: a second one ends' is_act last failed
    is '... with 75' "$(of_unit last ExecMainStatus)" 75
    systemctl stop first
    soon '... and gives it back' free solo/job
}

check_names() {
    local name
    # shellcheck disable=SC2016 # the names of variables are meant
    for name in plain with-dash a/b/c team-a/db_1.x:y@z+1 --/x 'a$b' 'a${HOME}b' 'a%hb'; do
        job named "$name"
        case $name in
        -* | *[%$]*)
            fails "a name that no lock may have, $name: the job does not run" any \
                systemctl start named
            ok '... and the holder names it as it is' logged "$(holder "$name")" "\\Q$name\\E"
            ;;
        *)
            ok "the lock of a unit may be called $name" systemctl start named
            ok '... and is just that one' held "$name"
            systemctl stop named
            ;;
        esac
    done
}

check_journal() {
    local found
    found=$(journalctl -b -q -o json STORMLOCK_RESOURCE=order/job |
        sed -nE 's/.*"STORMLOCK_EVENT":"([^"]*)".*/\1/p')
    is 'the journal finds what happened to a lock by its name' \
        "$(paste -sd' ' <<<"$found")" 'acquire release'
    ok '... and says which unit asked' grep -q "$(holder order/job)" \
        <(journalctl -b -q -o verbose STORMLOCK_RESOURCE=order/job)
}
