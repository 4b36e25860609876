# shellcheck shell=bash
# shellcheck disable=SC2154 # setting.bash has them
# A fresh installation: what is active, who may do what, without any configuration.

check_install() {
    ok 'the package is installed' package -i "$PACKAGE"
    is '... and socket and agent are active and enabled' \
        "$(systemctl is-active stormlockd.socket stormlockd.service | paste -sd' ') $(
            systemctl is-enabled stormlockd.socket stormlockd.service | paste -sd' ')" \
        'active active enabled enabled'
    is '... both programs are of its version' \
        "$(stormctl -V | grep -c "$(stormlockd --version | cut -d' ' -f2)")" 2
    ok "... and so is the client by the Python tool's name" stormlock current --help
    ok 'systemd takes each unit without a word' systemd-analyze verify --man=no \
        --recursive-errors=no stormlockd.service stormlockd.socket stormlock@x.service
    ok 'the configuration that is shipped is right' \
        stormlockd check /etc/stormlock/stormlock.toml
    ok "the agent's exposure is 1.5 at most" \
        systemd-analyze security --no-pager --threshold=15 stormlockd.service
    ok "the holder's exposure is 0.7 at most" \
        systemd-analyze security --no-pager --threshold=7 stormlock@x.service
    tell_boots_apart
    useradd -m -G stormlock maria
    useradd -m eve

    systemctl stop stormlockd.service
    is 'before the first client the socket alone is active' \
        "$(act stormlockd.socket) $(act stormlockd.service)" 'active inactive'
    fails 'who is not in group stormlock is refused, and starts nothing' 77 \
        runuser -u eve -- stormctl acquire -q desk
    is '... not even the agent' "$(act stormlockd.service)" inactive
    ok 'an operator in group stormlock acquires without any credential' \
        runuser -u maria -- stormctl acquire -q desk
    is 'which started the agent' "$(act stormlockd.service)" active
    is 'the holder is the user that the kernel names' \
        "$(stormctl current desk --json | sed -nE 's/.*"principal": ?"([^"]*)".*/\1/p')" \
        "maria@$(uname -n)"
    fails 'another cannot release it' 1 stormctl release -q desk
    ok 'she gives it back' runuser -u maria -- stormctl release -q desk
    is 'the agent runs as a user of its own' \
        "$(sed -nE 's/^Uid:\t([0-9]+)\t.*/\1/p' "/proc/$(of_unit stormlockd MainPID)/status")" \
        "$(id -u stormlock)"
    ok 'doctor finds nothing wrong' runuser -u maria -- stormctl doctor
}

# A unit has a /proc of its own, which has the id of the machine's boot and not that of the guest's.
tell_boots_apart() {
    mkdir -p "$etc/stormlockd.service.d"
    cat >"$etc/stormlockd.service.d/boot.conf" <<'END'
[Service]
ExecStartPre=+/bin/sh -c 'umask 022; cat /proc/sys/kernel/random/boot_id >/run/boot_id'
Environment=STORMLOCK_BOOT_ID_FILE=/run/boot_id
END
    systemctl daemon-reload
}
