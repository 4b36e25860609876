# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# Units whose command is the process that systemd started: `stormctl run --exec`.

check_exec() {
    check_exec_notify
    check_exec_status
    check_exec_end
}

# exec_job NAME COMMAND SERVICE-LINES
exec_job() {
    printf '[Service]\nExecStart=/usr/bin/stormctl run --exec %s/job -- %s\n%b\n' \
        "$1" "$2" "${3:-Type=exec}" >"$etc/$1.service"
    systemctl daemon-reload
}

# An agent is all of it: it tells systemd that it is ready, feeds its watchdog, and takes a socket.
check_exec_notify() {
    local pid since
    printf 'host = "third"\n' >/etc/stormlock/third.toml
    exec_job third '/usr/sbin/stormlockd --config /etc/stormlock/third.toml' \
        'Type=notify
NotifyAccess=main
WatchdogSec=2s
StateDirectory=third
StateDirectoryMode=0700'
    printf '[Socket]\nListenStream=/run/third.sock\n' >"$etc/third.socket"
    systemctl daemon-reload
    systemctl start third.socket
    fails 'run --exec: nothing runs before a client comes' any held third/job
    ok '... a client on the socket starts the command (LISTEN_FDS, LISTEN_PID)' \
        stormctl --socket /run/third.sock status
    is '... which said itself that it is ready (Type=notify)' "$(act third)" active
    pid=$(of_unit third MainPID)
    is '... and is the main process' "$(readlink "/proc/$pid/exe")" /usr/sbin/stormlockd
    ok '... under its lock' held third/job
    is '... with no child that it did not start' "$(cat "/proc/$pid/task/$pid/children")" ''
    since=$(uptime_centiseconds)
    ok 'it feeds its watchdog itself' within "$patience" test_since "$since" 600
    is '... so that it runs on' "$(act third) $(of_unit third MainPID)" "active $pid"
    systemctl restart stormlockd
    is "the agent's restart disturbs it as little" \
        "$(act third) $(of_unit third MainPID) $(held third/job && echo held)" "active $pid held"
    systemctl kill --kill-who=main --signal=STOP third
    soon 'when it stands still the watchdog ends it' is_act third failed
    is '... as one of its own' "$(of_unit third Result)" watchdog
    soon '... and the lock is given back' free third/job
    systemctl stop third.socket
}

# test_since CENTISECONDS HOW-MANY
test_since() {
    [ "$(($(uptime_centiseconds) - $1))" -ge "$2" ]
}

check_exec_status() {
    exec_job seven '/bin/sh -c "exit 7"'
    systemctl start seven
    soon 'the exit status' is_act seven failed
    is "... is the command's" "$(of_unit seven ExecMainStatus)" 7
    exec_job missing /does/not/exist
    systemctl start missing 2>/dev/null
    soon 'a command that is not there' is_act missing failed
    is '... is told by 127' "$(of_unit missing ExecMainStatus)" 127
    exec_job single /bin/true 'Type=oneshot'
    ok 'a oneshot' systemctl start single
    fails '... whose lock is given back when it has ended' any held single/job
    second_takes single/job >/dev/null
    fails 'busy: a oneshot fails' any systemctl start single
    is '... with 75' "$(of_unit single ExecMainStatus)" 75
    second release -q single/job
}

check_exec_end() {
    local name
    for name in stopped mixed broke orphan; do
        exec_job "$name" "ends-in 2 $name"
    done
    exec_job mixed 'ends-in 2 mixed' 'Type=exec\nKillMode=mixed'
    systemctl start stopped mixed broke orphan
    for name in stopped mixed broke orphan; do
        soon "$name has its lock" held "$name/job"
    done
    ok 'the second agent breaks a lock' second break --yes -m 'to see what happens' broke/job
    taken_next broke/job
    ok 'a stop' systemctl stop stopped
    is '... lets the command end by itself' "$(of_unit stopped Result)" success
    fails '... and gives the lock back before the unit is stopped' any held stopped/job
    ok '... as does one by KillMode=mixed' systemctl stop mixed
    ok '... that lets it end by itself' test -s /run/ended.mixed
    soon '... and gives the lock back' free mixed/job
    name='stormlock-guard-the-command.*"pid":'"$(of_unit orphan MainPID),"
    ok 'a guardian is killed' pkill -KILL -f "$name"
    is '... without it the command goes on' "$(act orphan)" active
    ok '... and so does its lock' held orphan/job
    systemctl stop orphan
    soon '... which is given back when it has ended' free orphan/job
    ok 'lock broken: the command is asked to end' within "$notice" is_act broke inactive
    ok '... another host gets the lock' within "$settled" is_taken_next broke/job
    ok '... after its end' ended_before_taken broke broke/job
    fails 'no guardian stays' any pgrep -f stormlock-guard-the-command
}
