# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2016 # other files have them, and other shells expand
# What is shown: each state of a lease, and what is shown when nobody knows.

check_prompt() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        shows 'nothing is shown while nothing is held' "$shell" '^ready>$'
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        turns 'a lock is green, with the time left' "$shell" 32 "◆ $shell/db (2h59m|3h)"
        types "$shell" "stormctl acquire $shell/web --ttl 5m -q"
        turns 'of two the one that ends first, and +1' "$shell" 32 "◆ $shell/web 4m[0-9]+s \+1"
        types "$shell" "stormctl release $shell/web $shell/db -q"
        shows 'nothing is left of what was given back' "$shell" '^ready>$'
        types "$shell" "stormctl acquire $shell/db --keep -q"
        turns 'one that is kept has no end' "$shell" 32 "◆ $shell/db kept"
        types "$shell" "stormctl release $shell/db -q"
        shows 'nothing is left' "$shell" '^ready>$'
    done
}

# The shell of a private agent has the hook, whatever the user's own files have.
check_dev() {
    local shell dev="stormlockd dev --backend redis://127.0.0.1:$port"
    printf 'PS1="ready> "\n' >"$place/.bashrc"
    for shell in "${shells[@]}"; do
        shell_with "$shell"
        types "$shell" "SHELL=\$(command -v $shell) $dev"
        types "$shell" "stormctl acquire dev/db --ttl 15m --for 2h -q"
        turns "the shell of 'dev' shows its lock" "$shell" 32 '◆ dev/db (1h59m|2h)'
        ok "$shell: which stands in the store" on beta is-held dev/db
        types "$shell" 'exit'
        shows 'its end is an end of the locks' "$shell" '^ready>$'
        fails "$shell: also in the store" 1 on beta is-held dev/db
    done
}

# Another host breaks it, with words that a shell might run: the shell that can redraws while nobody
# types, bash with the next prompt.
check_losses() {
    local shell since trap
    trap="\$(touch $place/trap) \`touch $place/trap\` ; touch $place/trap %F{blue} \\w"
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        shows 'a lock is shown' "$shell" "^◆ $shell/db "
        ok "another host breaks it" on beta break "$shell/db" -m "$trap" --yes --now
        within "$patience" lost_on_alpha "$shell/db"
        since=$EPOCHREALTIME
        [ "$shell" != bash ] || types "$shell" ''
        turns 'it turns red' "$shell" 31 "✖ $shell/db lost"
        printf '# %s: %d ms after it was lost\n' "$shell" \
            "$(((${EPOCHREALTIME/./} - ${since/./}) / 1000))"
        types "$shell" '' ''
        shows 'and stays so' "$shell" "^✖ $shell/db lost ready>$"
        types "$shell" "stormctl release $shell/db -q"
        shows 'and is gone when that is acknowledged' "$shell" '^ready>$'
    done
    ok 'nothing of what was said is run' not test -e "$place/trap"
    check_notice
}

# What bash cannot show while nobody types, the agent says.
check_notice() {
    shell_with bash "$(hooked bash)" 'mesg y'
    types bash 'stormctl acquire bash/note --for 3h'
    shows 'a lock is shown' bash '^◆ bash/note '
    ok 'another host breaks it' on beta break bash/note -m 'my turn' --yes --now
    soon 'bash: the loss is said while nobody types' said_on bash 'bash/note is lost: '
    types bash "stormctl release bash/note -q"
    shows 'and is gone when that is acknowledged' bash '^ready>$'
}

said_on() {
    screen "$1" | grep -Fq -- "$2"
}

# No renewal comes through to the store: it is at risk, and lost when its time is over.
check_risk() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
    done
    on alpha acquire risk/db --ttl 40s --for 1h -q >/dev/null
    for shell in "${shells[@]}"; do
        types "$shell" ''
        turns 'a lock is green' "$shell" 32 '◆ risk/db (59m|1h)'
    done
    kill -STOP "$redis_pid"
    soon 'a renewal failed' at_risk_on_alpha
    types bash ''
    for shell in "${shells[@]}"; do
        turns 'what is at risk is yellow' "$shell" 33 '▲ risk/db at risk, [0-9]+s'
    done
    within "$((patience + 40))" lost_on_alpha risk/db
    types bash ''
    for shell in "${shells[@]}"; do
        turns 'and what ended red' "$shell" 31 '✖ risk/db lost'
    done
    kill -CONT "$redis_pid"
    soon 'the store is back' on alpha list
    fails 'it is acknowledged' 79 on alpha release risk/db -q
}

at_risk_on_alpha() {
    on alpha status -o tsv | grep -q 'risk/db.*at_risk'
}

lost_on_alpha() {
    on alpha status -o tsv | grep -q "$1.*lost"
}

# An agent that stands still, is gone, or never was.
check_silence() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        shows 'a lock is shown' "$shell" "^◆ $shell/db "
        kill -STOP "$alpha_pid"
        types "$shell" 'echo still here'
        shows 'an agent that stands still is in doubt' "$shell" '^\? ready>$'
        prints 'and holds up nothing' "$shell" 'echo "and here"' 'and here'
        kill -CONT "$alpha_pid"
        types "$shell" ''
        shows 'and when it goes on so does the prompt' "$shell" "^◆ $shell/db "
        types "$shell" "stormctl release $shell/db -q"
        shows 'nothing is left' "$shell" '^ready>$'
    done
}

# An agent that was killed and is there again, in front of who does nothing meanwhile.
check_returns() {
    local shell
    on alpha acquire back/db --for 3h -q >/dev/null
    for shell in zsh fish; do
        shell_with "$shell" "$(hooked "$shell")"
        turns 'a lock is shown' "$shell" 32 '◆ back/db '
    done
    kill -KILL "$alpha_pid"
    for shell in zsh fish; do
        shows 'nothing is known of an agent that is dead' "$shell" '^ready>$'
        types "$shell" 'echo still here'
    done
    agent alpha
    for shell in zsh fish; do
        turns 'and when it is there again so is the lock' "$shell" 32 '◆ back/db (2h59m|3h)'
        soon "$shell: one process looks" one_follows "$shell"
    done
    ok 'another host breaks it' on beta break back/db -m 'my turn' --yes --now
    for shell in zsh fish; do
        turns 'it turns red' "$shell" 31 '✖ back/db lost'
    done
    fails 'it is acknowledged' 79 on alpha release back/db -q
    for shell in zsh fish; do
        shows 'nothing is left' "$shell" '^ready>$'
        soon "$shell: and nobody looks" none_follows "$shell"
    done
}

# An agent that was killed leaves its socket behind, and one that stops takes it along.
check_ends() {
    local shell
    on alpha acquire end/db --for 3h -q >/dev/null
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" ''
        shows 'a lock is shown' "$shell" '^◆ end/db '
    done
    kill -KILL "$alpha_pid"
    for shell in "${shells[@]}"; do
        types "$shell" 'echo still here'
        shows 'nothing is known of an agent that is dead' "$shell" '^ready>$'
    done
    agent alpha
    for shell in "${shells[@]}"; do
        types "$shell" ''
        shows 'and when it is there again so is the lock' "$shell" '^◆ end/db (2h59m|3h) ready>$'
    done
    kill "$alpha_pid"
    within "$patience" not test -e "$place/alpha/sock"
    for shell in "${shells[@]}"; do
        types "$shell" ''
        shows 'nothing is shown without an agent' "$shell" '^ready>$'
    done
}
