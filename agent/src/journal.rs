//! What must survive the agent, on disk: append, group commit, compact, recover.
