# stormlock for fish: `stormctl init fish | source` in ~/.config/fish/config.fish, after what makes
# the prompt. Doing so twice does no harm.
#
# Each prompt begins with the lock that matters most, and changes with it while nobody types. Those
# who make their prompt themselves say `stormctl init fish --no-prompt` and use $STORMLOCK_PROMPT.

if status is-interactive
    # For `stormctl doctor`: which shell has this.
    set -gx STORMLOCK_SHELL $fish_pid

    # True when an agent may be there: without one a prompt costs no process.
    function __stormlock_has_agent
        if test -n "$STORMLOCK_SOCKET"
            test -S "$STORMLOCK_SOCKET"
        else
            test -S /run/stormlock/stormlockd.sock
            or test -S "$XDG_RUNTIME_DIR/stormlock/stormlockd.sock"
        end
    end

    # It has a time limit.
    function __stormlock_ask
        command stormctl prompt fish 2>/dev/null | string collect --no-trim-newlines
    end

    function __stormlock_look --on-event fish_prompt
        set -e __stormlock_reads
        set -g STORMLOCK_PROMPT ''
        if __stormlock_has_agent
            set -g STORMLOCK_PROMPT (__stormlock_ask)
        end
        __stormlock_follow
    end

    # While something is shown, one process looks every second whether that changes, so that a lock
    # that is lost turns red in front of who is idle.
    function __stormlock_follow
        test -n "$STORMLOCK_PROMPT"
        or return 0
        # It is exported for the shell that this one may become (`exec fish`). No `kill -0`: that is
        # a process, and takes one that nobody waited for as alive.
        set -l known (string split ' ' -- "$STORMLOCK_FOLLOWER")
        if test "$known[1]" = $fish_pid -a -e "/proc/$known[2]/exe"
            return 0
        end
        command stormctl prompt fish --tell $fish_pid >/dev/null 2>&1 </dev/null &
        set -gx STORMLOCK_FOLLOWER "$fish_pid $last_pid"
        disown $last_pid 2>/dev/null
    end

    function __stormlock_heard --on-signal SIGUSR1
        set -l shown (__stormlock_ask)
        test "$shown" != "$STORMLOCK_PROMPT"
        or return 0
        set -g STORMLOCK_PROMPT "$shown"
        commandline -f repaint 2>/dev/null
    end

    # fish shows before a prompt what fish_mode_prompt prints. Others seldom make that anew, and
    # fish_prompt finds $status and $pipestatus as they were.
    if not set -q __stormlock_no_prompt
        and not functions fish_mode_prompt 2>/dev/null | string match -q '*$STORMLOCK_PROMPT*'
        functions -e __stormlock_mode_prompt
        functions -q fish_mode_prompt
        and functions -c fish_mode_prompt __stormlock_mode_prompt
        function fish_mode_prompt
            functions -q __stormlock_mode_prompt
            and __stormlock_mode_prompt
            # The prompts of `read` begin so too.
            set -q __stormlock_reads
            or printf '%s' "$STORMLOCK_PROMPT"
        end
        function __stormlock_read --on-event fish_read
            set -g __stormlock_reads
        end
    end
end
