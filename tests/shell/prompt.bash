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

# Another host breaks it: the shell that can redraws while nobody types, bash with the next prompt.
check_losses() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        shows 'a lock is shown' "$shell" "^◆ $shell/db "
        ok "another host breaks it" on beta break "$shell/db" -m 'my turn' --yes --now
        [ "$shell" != bash ] || {
            within "$patience" lost_on_alpha "$shell/db"
            types "$shell" ''
        }
        turns 'it turns red' "$shell" 31 "✖ $shell/db lost"
        types "$shell" "stormctl release $shell/db -q"
        shows 'and is gone when that is acknowledged' "$shell" '^ready>$'
    done
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
