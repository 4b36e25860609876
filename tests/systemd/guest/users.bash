# shellcheck shell=bash
# shellcheck disable=SC2154 # tap.bash and setting.bash have them
# Units of users, whose managers run without a login (linger).

check_users() {
    local name
    for name in maria eve; do
        user_job "$name"
        ok "$name's units run without a login (linger)" loginctl enable-linger "$name"
        soon '... when their manager is up' as_user "$name" systemctl --user is-system-running
    done
    ok "a user's job runs under a lock of the host's agent" \
        as_user maria systemctl --user start nightly
    is '... which the fleet sees as hers' "$(second current user/maria --json |
        sed -nE 's/.*"principal": ?"([^"]*)".*/\1/p')" "maria@$(uname -n)"
    ok '... and given back' as_user maria systemctl --user stop nightly
    soon '... at its end' free user/maria
    second_takes user/maria >/dev/null
    fails 'busy: it does not run' any as_user maria systemctl --user start nightly
    second release -q user/maria

    fails "who may not use the host's agent gets no lock" any \
        as_user eve systemctl --user start nightly
    runuser -u eve -- install -D -m 644 "$PROJECT/systemd/examples/own-agent.conf" \
        /home/eve/.config/systemd/user/stormlock@.service.d/50-own-agent.conf
    as_user eve systemctl --user daemon-reload
    ok "without the host's, an agent of one's own" \
        as_user eve systemctl --user enable -q --now stormlockd.socket
    ok '... is started by a job that needs a lock' as_user eve systemctl --user start nightly
    is '... which runs under it' "$(as_user eve systemctl --user is-active nightly stormlockd |
        paste -sd' ')" 'active active'
    as_user eve systemctl --user restart stormlockd
    is "... and survives the agent's restart" "$(as_user eve systemctl --user is-active nightly)" \
        active
}

user_job() {
    local units=/home/$1/.config/systemd/user
    runuser -u "$1" -- mkdir -p "$units/nightly.service.d"
    printf '[Service]\nExecStart=/bin/sleep infinity\n' >"$units/nightly.service"
    sed "s|stormlock@prod-db|stormlock@user-$1|" "$PROJECT/systemd/examples/job.conf" \
        >"$units/nightly.service.d/50-stormlock.conf"
}

as_user() {
    local name=$1
    shift
    runuser -u "$name" -- env "XDG_RUNTIME_DIR=/run/user/$(id -u "$name")" "$@"
}
