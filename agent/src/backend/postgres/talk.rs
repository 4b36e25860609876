//! One call as the server sees it: a transaction whose statements and COMMIT leave together, so
//! that the server never waits for us while it holds a row, and one round trip does.

use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use super::link::{Lent, Line};
use super::refusal::{Trouble, words};
use super::sql::{BEGIN, COMMIT};

/// A parameter and its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);
/// A statement and its parameters.
pub(super) type Statement<'a> = (&'a str, &'a [Parameter<'a>]);
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Error>> + Send + 'a>>;

impl Line {
    /// Asks one thing outside of a transaction; it changes nothing.
    pub(super) async fn read(&self, (text, of): Statement<'_>) -> Result<Vec<Row>, Trouble> {
        let mut lent = self.lend().await?;
        let answer = lent.link()?.client.query_typed(text, of).await;
        lent.settle(answer.map_err(|error| Trouble::of_statement(&error)))
    }

    /// Runs a transaction; the rows are those of its last statement.
    pub(super) async fn transact(&self, all: &[Statement<'_>]) -> Result<Vec<Row>, Trouble> {
        let mut lent = self.lend().await?;
        let answer = lent.transact(all).await;
        lent.settle(answer)
    }
}

impl Line {
    /// Runs statements without parameters, which bring their own transaction.
    pub(super) async fn script(&self, text: &str) -> Result<(), Trouble> {
        let mut lent = self.lend().await?;
        let answer = lent.link()?.client.batch_execute(text).await;
        // After an error inside a transaction it is still open there: so no other call gets it.
        lent.is_answered = answer.is_ok();
        answer.map_err(|error| Trouble::of_statement(&error))
    }
}

impl Lent {
    async fn transact(&self, all: &[Statement<'_>]) -> Result<Vec<Row>, Trouble> {
        let link = self.link()?;
        let client = &link.client;
        link.take_doubt();
        let simple = |text: &'static str| -> Answer<'_> {
            Box::pin(async move { client.simple_query(text).await.map(|_| Vec::new()) })
        };
        let mut answers: Vec<Answer<'_>> = vec![simple(BEGIN)];
        for (text, of) in all {
            answers.push(Box::pin(client.query_typed(text, of)));
        }
        answers.push(simple(COMMIT));
        // Each is sent when it is first polled, and they are polled in this order.
        let mut answers = join_all(answers).await;
        let commit = answers.pop();
        let mut answers = answers.into_iter();
        if let Some(Err(error)) = answers.next() {
            // Whatever followed ran without a transaction.
            let why = format!("postgres opened no transaction: {}", words(&error));
            return Err(Trouble::Silence(why));
        }
        let mut rows = Vec::new();
        for answer in answers {
            rows = answer.map_err(|error| Trouble::of_statement(&error))?;
        }
        if let Some(Err(error)) = commit {
            return Err(Trouble::of_commit(&error));
        }
        if link.take_doubt() {
            let why = "postgres committed it, but warned that it may be on no standby";
            return Err(Trouble::Silence(why.to_owned()));
        }
        Ok(rows)
    }

    /// Gives the connection back if it is as before.
    fn settle<T>(&mut self, answer: Result<T, Trouble>) -> Result<T, Trouble> {
        self.is_answered = match &answer {
            Ok(_) => true,
            Err(trouble) => !trouble.ends_session(),
        };
        answer
    }
}
