# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2016 # other files have them, and other shells expand
# Hooks of others, and prompts that others make.

check_hooks() {
    local shell line
    on alpha acquire hook/db --for 3h -q >/dev/null

    shell_with bash 'PROMPT_COMMAND="made=yes;"' "$(hooked bash)"
    types bash ''
    shows 'PROMPT_COMMAND as a text is kept' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... and runs' bash 'echo "made $made"' 'made yes'
    shell_with bash 'first() { made=yes; }' 'PROMPT_COMMAND=(first)' "$(hooked bash)"
    types bash ''
    shows 'PROMPT_COMMAND as an array is kept' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... and runs' bash 'echo "made $made ${#PROMPT_COMMAND[@]}"' 'made yes 2'
    # As most themes do.
    shell_with bash 'PROMPT_COMMAND='\''PS1="themed ready> "'\' "$(hooked bash)"
    types bash '' ''
    shows 'a prompt that is made anew each time gets one lock' bash \
        '^◆ hook/db (2h59m|3h) themed ready>$'
    shell_with zsh 'precmd() { made=yes; }' "$(hooked zsh)"
    types zsh ''
    prints 'precmd of another is kept' zsh 'echo "made $made"' 'made yes'
    shows '... and the lock is shown' zsh '^◆ hook/db (2h59m|3h) ready>$'

    shell_with bash 'eval "$(stormctl init bash --no-prompt)"' \
        'PS1="\${STORMLOCK_PROMPT-}own ready> "'
    types bash ''
    turns 'a prompt of one'\''s own has it where it wants' bash 32 '◆ hook/db (2h59m|3h)'
    shell_with zsh 'eval "$(stormctl init zsh --no-prompt)"' 'setopt prompt_subst' \
        "PROMPT='\${STORMLOCK_PROMPT}own ready> '"
    turns 'a prompt of one'\''s own has it where it wants' zsh 32 '◆ hook/db (2h59m|3h)'
    shell_with fish 'stormctl init fish --no-prompt | source' \
        'function fish_prompt; printf "%sown ready> " "$STORMLOCK_PROMPT"; end'
    turns 'a prompt of one'\''s own has it where it wants' fish 32 '◆ hook/db (2h59m|3h)'

    settings=(-e NO_COLOR=1 -e LC_ALL=C)
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" ''
        shows 'without colours and in ASCII where that is wanted' "$shell" \
            '^\* hook/db (2h59m|3h) ready>$'
        line=$(last_line "$shell" -e)
        is "$shell: ... no colour at all" "${line/$'\e'/colour}" "$line"
    done
    settings=()
    on alpha release --all -q >/dev/null
}
