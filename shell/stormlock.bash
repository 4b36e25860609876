# stormlock for bash: `eval "$(stormctl init bash)"` in ~/.bashrc. Doing so twice does no harm.
#
# Each prompt begins with the lock that matters most. Those who make PS1 themselves (or let another
# program do it) say `stormctl init bash --no-prompt` and use ${STORMLOCK_PROMPT-} in it.

# shellcheck shell=bash

if [[ $- == *i* ]]; then
    # True when an agent may be there: without one a prompt costs no process.
    __stormlock_has_agent() {
        if [[ -n ${STORMLOCK_SOCKET-} ]]; then
            [[ -S $STORMLOCK_SOCKET ]]
        else
            [[ -S /run/stormlock/stormlockd.sock ||
                -S ${XDG_RUNTIME_DIR:-/nowhere}/stormlock/stormlockd.sock ]]
        fi
    }

    __stormlock_hook() {
        builtin local status=$? shown=''
        if __stormlock_has_agent; then
            # What it prints is made of letters, digits, ._/:@+- and colours. It has a time limit.
            shown=$(builtin command stormctl prompt bash 2>/dev/null) || shown=''
        fi
        if [[ -z ${__stormlock_no_prompt-} ]]; then
            # Others may have made PS1 anew since.
            PS1=$shown${PS1#"${STORMLOCK_PROMPT-}"}
        fi
        STORMLOCK_PROMPT=$shown
        builtin return "$status"
    }

    __stormlock_install() {
        builtin local kind
        if [[ -n ${BLE_VERSION-} ]]; then
            blehook PRECMD!=__stormlock_hook
        elif [[ -n ${bash_preexec_imported-}${__bp_imported-} ]]; then
            # It wants to be the only one in PROMPT_COMMAND.
            [[ " ${precmd_functions[*]-} " == *" __stormlock_hook "* ]] ||
                precmd_functions+=(__stormlock_hook)
        elif [[ "${PROMPT_COMMAND[*]-}" != *__stormlock_hook* ]]; then
            # The last one, after those that make PS1.
            kind=$(builtin declare -p PROMPT_COMMAND 2>/dev/null) || kind=''
            if [[ $kind == 'declare -a'* ]]; then
                PROMPT_COMMAND+=(__stormlock_hook)
            else
                # shellcheck disable=SC2128,SC2178 # here it is none
                PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}__stormlock_hook
            fi
        fi
    }

    __stormlock_install
    builtin unset -f __stormlock_install
fi
