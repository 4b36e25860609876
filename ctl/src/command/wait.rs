//! `wait`: until nobody holds a resource; takes nothing.

use stormlock_protocol::message::Wait;

use crate::args;
use crate::connect::{Link, explain_question};
use crate::exit::{Answer, Failure};
use crate::render::View;
use crate::render::progress::Progress;
use crate::render::{Format, tsv};
use crate::run::around;
use crate::run::take::wait_until_free;

#[derive(serde::Serialize)]
struct Free<'a> {
    resource: &'a str,
    held: bool,
}

/// Runs the command.
pub(crate) fn run(args: &args::Wait, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let on = args.resource.as_str();
    let doing = format!("waiting for {on}");
    let wait = args.timeout.map_or(Wait::Forever, Wait::For);
    around::not_awaited(std::slice::from_ref(&args.resource), link)?;
    let progress = Progress::new(view);
    let waited = wait_until_free(&args.resource, wait, link, &progress);
    drop(progress);
    waited.map_err(|error| explain_question(error, &doing))?;
    let data = match view.format {
        Format::Human | Format::Id => String::new(),
        Format::Tsv => tsv([[on.to_owned(), false.to_string()]]),
        Format::Json | Format::Jsonl => view.one("held", Free { resource: on, held: false })?,
    };
    Ok(Answer { data, talk: vec![format!("nobody holds {on}")], ..Answer::default() })
}
