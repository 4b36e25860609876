//! `metrics`: the agent in numbers, as Prometheus reads them.

use crate::connect::Link;
use crate::exit::{Answer, Failure};
use crate::render::text::visible;

/// Runs the command. The format is Prometheus's, whatever else was asked for.
pub(crate) fn run(link: &mut Link) -> Result<Answer, Failure> {
    let text = link.read("asking for the metrics", |client| client.metrics())?;
    let data = text.lines().map(|line| visible(line) + "\n").collect();
    Ok(Answer { data, ..Answer::default() })
}
