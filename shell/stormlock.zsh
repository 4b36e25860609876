# stormlock for zsh. Source it from ~/.zshrc after compinit; sourcing it twice does no harm.

if (( $+commands[stormctl] && $+functions[compdef] )); then
    # Printed by the client that they complete, so they always fit it.
    builtin source <(command stormctl completions zsh)
    compdef _stormctl stormctl
fi
