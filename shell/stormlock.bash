# stormlock for bash. Source it from ~/.bashrc; sourcing it twice does no harm.

if builtin command -v stormctl >/dev/null 2>&1; then
    # Printed by the client that they complete, so they always fit it.
    builtin source <(builtin command stormctl completions bash)
fi
