# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2016 # other files have them, and other shells expand
# Whoever types sees nothing of the hooks: statuses, strict modes, modes of editing.

check_strict() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")" "$(hooked "$shell")"
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        shows 'twice is once' "$shell" "^◆ $shell/db (2h59m|3h) ready>$"
        types "$shell" false
        case $shell in
        bash | zsh) prints 'the status of a command survives' "$shell" 'echo "is $?"' 'is 1' ;;
        fish) prints 'the status of a command survives' "$shell" 'echo is $status' 'is 1' ;;
        esac
        types "$shell" 'true | false | true'
        case $shell in
        bash) prints 'and of each in a pipe' "$shell" 'echo "are ${PIPESTATUS[*]}"' 'are 0 1 0' ;;
        zsh) prints 'and of each in a pipe' "$shell" 'echo "are $pipestatus"' 'are 0 1 0' ;;
        fish) prints 'and of each in a pipe' "$shell" 'echo are $pipestatus' 'are 0 1 0' ;;
        esac
        if [ "$shell" != fish ]; then
            types "$shell" 'set -euo pipefail' ':'
            shows 'strict modes end no shell' "$shell" "^◆ $shell/db (2h59m|3h) ready>$"
            prints 'nor complain' "$shell" 'echo "alive"' alive
            kill -STOP "$alpha_pid"
            prints 'also when the agent stands still' "$shell" 'echo "alive again"' 'alive again'
            kill -CONT "$alpha_pid"
        fi
        types "$shell" 'stormctl release --all -q'
        shows 'nothing is left' "$shell" '^ready>$'
    done
}
