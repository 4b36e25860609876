# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# The Debian package: what an upgrade leaves alone, what a removal keeps, and a purge.

# As an administrator would by hand, but without the index of all manual pages of the machine, which
# takes longer than all else here.
package() {
    DEBIAN_FRONTEND=noninteractive dpkg --no-triggers "$@" </dev/null
}

# What a new version must not disturb: a job under the lock of its holder, an operator's lease, and
# a client that comes meanwhile. The job runs already.
check_upgrade() {
    local before pid told
    before=$(undisturbed)
    stormctl acquire -q --keep long/desk >/guest/out/desk
    pid=$(of_unit stormlockd MainPID)
    asking /run/asked &
    told=$(package -i "$NEWER" 2>&1)
    said $? 'an upgrade to the next version' "$told"
    soon '... a client that asks all the time goes on' test -e /run/asked
    stop_asking
    is '... and no question of it failed' "$(cat /run/asked)" ''
    is '... the agent is another' "$(another_agent "$pid" && echo yes)" yes
    is '... neither holder nor job was disturbed' "$(undisturbed)" "$before"
    is "... an operator's lease is the same" "$(lease long/desk)" "$(cat /guest/out/desk)"
    is '... and the configuration is as it was written' \
        "$(grep -c password_credential /etc/stormlock/stormlock.toml)" 1

    pid=$(of_unit stormlockd MainPID)
    printf 'no_such_key = 1\n' >>/etc/stormlock/stormlock.toml
    told=$(package -i "$NEWER" 2>&1)
    ok 'where the new agent would refuse the configuration, an upgrade says so' \
        grep 'refuses the configuration' <<<"$told"
    is '... and the old agent goes on' "$(of_unit stormlockd MainPID) $(undisturbed)" \
        "$pid $before"
    sed -i '/^no_such_key/d' /etc/stormlock/stormlock.toml
    ok '... until that is mended' systemctl restart stormlockd
    systemctl stop stormlockd.service
    ok 'an upgrade of a stopped agent starts it' package -i "$NEWER"
    is '... and neither holder nor job was disturbed' "$(act stormlockd) $(undisturbed)" \
        "active $before"
}

# asking FILE: asks the agent again and again; the file is there when one question was answered
# after the installation began, and has in it what went wrong.
asking() {
    local told wrong=''
    touch /run/asking
    while [ -e /run/asking ]; do
        told=$(stormctl is-held long/desk 2>&1) || wrong+="$? $told; "
        printf '%s' "$wrong" >"$1.new"
        mv "$1.new" "$1"
    done
}

stop_asking() {
    rm -f /run/asking
    wait
}

# As the site's timer would, which is not due.
check_rotation() {
    local audit=/var/lib/stormlock/audit.jsonl
    ok 'the audit file is put away by logrotate' \
        logrotate -f -s /run/rotated /etc/logrotate.d/stormlock
    is '... all of it' "$(test -s $audit.1 && ls $audit 2>/dev/null)" ''
    stormctl acquire -q desk >/dev/null
    stormctl release -q desk
    is '... and the next lines are in a new one' "$(grep -c '"resource":"desk"' $audit)" 2
}

check_removal() {
    local stays
    # What the second agent is asked with, also when there is no client.
    install -m 755 /usr/bin/stormctl /usr/local/bin/stormctl
    job removed long/removed
    systemctl start removed
    ok 'before the removal a job runs under a lock' held long/removed
    ok 'removal' package -r stormlock
    is '... the job was stopped, and so were agent and socket' \
        "$(act removed) $(act stormlockd.service) $(act stormlockd.socket)" \
        'inactive inactive inactive'
    ok '... and its lock was given back' free long/removed
    ok "... but not an operator's" held long/desk
    is '... the programs, the units and the socket are gone' \
        "$(ls -d /usr/sbin/stormlockd /usr/bin/stormctl /usr/bin/stormlock /run/stormlock \
            /usr/lib/systemd/system/stormlock* /usr/lib/systemd/user/stormlock* 2>/dev/null)" ''
    ok '... the configuration stays' test -s /etc/stormlock/stormlock.toml
    ok '... and what the agent remembers' test -d /var/lib/stormlock
    ok 'installed again' package -i "$NEWER"
    is "... it keeps the operator's lease" "$(lease long/desk)" "$(cat /guest/out/desk)"
    stormctl release -q long/desk

    ok 'purge' package -P stormlock
    # Its account stays with its number, and so does what a site puts beside its files.
    stays=$(find /etc /usr /var /run -xdev -name '*stormlock*' \
        ! -path "$PROJECT/*" ! -path '/var/tmp/*' ! -path '/var/log/journal/*' \
        ! -path "$etc/*.d" ! -path "$etc/*.d/*" ! -path /usr/local/bin/stormctl)
    is '... leaves nothing of its own' "$stays" /etc/stormlock
    is "... neither its configuration, but what the site has put beside it" \
        "$(cd /etc/stormlock && ls stormlock.toml redis.password 2>/dev/null)" redis.password
    rm /usr/local/bin/stormctl
    hash -r
    ok 'installed after a purge' package -i "$NEWER"
    ok '... an operator acquires without any credential' \
        runuser -u maria -- stormctl acquire -q desk
    ok '... and gives it back' runuser -u maria -- stormctl release -q desk
}

# What `stormctl init systemd` writes binds a unit to its lock.
check_init() {
    local lock
    printf '[Service]\nExecStart=/bin/sleep infinity\n' >"$etc/bound.service"
    systemctl start bound
    for lock in init/job init/a-b@c+d:e._f; do
        ok "stormctl init systemd writes a drop-in for $lock" \
            stormctl init systemd bound --lock "$lock" --force
        systemctl daemon-reload
        soon '... which stops a unit that runs without the lock' is_act bound inactive
        ok '... and which systemd takes without a word' \
            systemd-analyze verify --man=no --recursive-errors=no bound.service
        ok '... then the unit starts' systemctl start bound
        ok '... with the lock' held "$lock"
        systemctl stop bound
        soon '... and gives it back when it stops' free "$lock"
    done
    second_takes "$lock" >/dev/null
    fails '... and does not start while another has the lock' any systemctl start bound
    second release -q "$lock"
}
