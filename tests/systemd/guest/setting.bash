# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash has it
# What the checks stand on: a store with a password, a second agent, jobs.

readonly etc=/etc/systemd/system
readonly password=canary-5f1e-systemd
readonly second_socket=/run/second.sock

# What jobs run: `ends-in SECONDS NAME` takes so long to end when it is asked to, never-ends does
# not end, and `note-end NAME` writes down when that was.
install_workers() {
    cat >/usr/local/bin/ends-in <<'SCRIPT'
#!/bin/bash
# systemd asks whatever comes new into the cgroup meanwhile, too.
trap 'trap "" TERM; sleep "$1"; note-end "$2"; exit 0' TERM
while :; do sleep 1 & wait; done
SCRIPT
    cat >/usr/local/bin/never-ends <<'SCRIPT'
#!/bin/bash
trap '' TERM
while :; do sleep 1; done
SCRIPT
    cat >/usr/local/bin/note-end <<'SCRIPT'
#!/bin/sh
sed -E 's/^([0-9]+)\.([0-9]+) .*/\1\2/' /proc/uptime >"/run/ended.$1"
SCRIPT
    chmod 755 /usr/local/bin/{ends-in,never-ends,note-end}
}

redis() {
    redis-cli --no-auth-warning -a "$password" "$@"
}

# Not the machine's own unit, which may have a configuration. It has started when it answers: at a
# boot, the agent comes after it.
start_redis() {
    mkdir -p /var/lib/guest-redis
    cat >/usr/local/bin/redis-answers <<'SCRIPT'
#!/bin/sh
until redis-cli --no-auth-warning -a "$1" ping 2>/dev/null | grep -q PONG; do
    :
done
SCRIPT
    chmod 755 /usr/local/bin/redis-answers
    cat >"$etc/redis.service" <<UNIT
[Unit]
Before=stormlockd.service second.service
[Service]
ExecStart=/usr/bin/redis-server --bind 127.0.0.1 --requirepass $password \\
    --dir /var/lib/guest-redis --appendonly yes --appendfsync always
ExecStartPost=redis-answers $password
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload && systemctl enable -q --now redis
}

# The host's agent with a store that many hosts share; its password is a credential.
use_redis() {
    install -m 600 /dev/null /etc/stormlock/redis.password
    printf '%s\n' "$password" >/etc/stormlock/redis.password
    drop_in stormlockd.service '[Service]\nLoadCredential=redis:/etc/stormlock/redis.password\n'
    cat >/etc/stormlock/stormlock.toml <<'TOML'
default_ttl = "45s"

[backend.fleet]
kind = "redis"
url = "redis://127.0.0.1:6379/0"
password_credential = "redis"

[[resource]]
names = ["short/*"]
ttl = "40s"

[[resource]]
names = ["long/*"]
ttl = "15m"
TOML
    systemctl restart stormlockd
}

# The agent of another host, which happens to be here; it may break.
start_second() {
    cat >/etc/stormlock/second.toml <<'TOML'
host = "second"

[backend.fleet]
kind = "redis"
url = "redis://127.0.0.1:6379/0"
password_file = "/etc/stormlock/redis.password"
TOML
    cat >"$etc/second.service" <<UNIT
[Unit]
After=redis.service
[Service]
Type=notify
ExecStart=/usr/sbin/stormlockd --config /etc/stormlock/second.toml --socket $second_socket
StateDirectory=second
StateDirectoryMode=0700
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload && systemctl enable -q --now second
}

second() {
    stormctl --socket "$second_socket" "$@"
}

# The second agent has the lock from here on, until `second release`.
second_takes() {
    second acquire -q --keep -m 'of the second host' "$1"
}

# drop_in UNIT TEXT: systemctl daemon-reload is the caller's.
drop_in() {
    mkdir -p "$etc/$1.d"
    printf '%b' "$2" >"$etc/$1.d/50-guest.conf"
    systemctl daemon-reload
}

# job NAME LOCK SERVICE-LINES: bound to the lock as systemd/examples/job.conf says it.
job() {
    local holder
    holder=$(systemd-escape --template=stormlock@.service -- "$2")
    mkdir -p "$etc/$1.service.d"
    printf '[Service]\n%b\n' "${3:-ExecStart=/bin/sleep infinity}" >"$etc/$1.service"
    # What a unit file takes literally, sed takes as an escape.
    sed "s|stormlock@prod-db\\.service|${holder//\\/\\\\}|" "$PROJECT/systemd/examples/job.conf" \
        >"$etc/$1.service.d/50-stormlock.conf"
    systemctl daemon-reload
}

holder() {
    systemd-escape --template=stormlock@.service -- "$1"
}

# taken_next RESOURCE: the second agent waits for it in the background, writes down when it got it,
# and gives it back.
taken_next() {
    (
        second acquire -q --keep --timeout 3m -m 'waited for it' "$1" >/dev/null &&
            uptime_centiseconds >"/run/taken.${1//\//-}"
        second release -q "$1"
    ) &
}

# ended_before_taken JOB RESOURCE: by what note-end and taken_next wrote.
ended_before_taken() {
    local taken ended
    taken=$(cat "/run/taken.${2//\//-}")
    ended=$(cat "/run/ended.$1")
    printf 'ended at %s, taken at %s\n' "$ended" "$taken"
    [ "$ended" -le "$taken" ]
}

is_taken_next() {
    [ -s "/run/taken.${1//\//-}" ]
}
