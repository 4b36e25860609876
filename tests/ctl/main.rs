//! The real `stormctl` against a scripted agent: exit codes, what is on which stream, and an agent
//! that misbehaves. What a real agent does is tested elsewhere.

mod compat;
mod doctor;
mod fake;
mod init;
mod log;
mod misbehaving;
mod output;
mod prompt;
mod refusals;
mod verbs;
