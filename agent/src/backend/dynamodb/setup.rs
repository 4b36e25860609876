//! Making the table: once, and harmless again.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use stormlock_protocol::message::Level;

use super::super::{BackendError, RefusedKind};
use super::item::{EXPIRES, RESOURCE};
use super::refusal::{of_read, of_write, refused};
use super::{DynamoDb, examine, strange};
use crate::clock::Alarm;

/// A new table is usually there after some ten seconds.
const ACTIVE_MAX: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const ACTIVE_EVERY: Duration = Duration::from_millis(500);

impl DynamoDb {
    /// See [`super::Backend::setup`].
    pub(super) async fn set_up(&self) -> Result<Vec<String>, BackendError> {
        let name = self.table();
        let mut done = Vec::new();
        match self.describe().await? {
            Some(_) => done.push(format!("table {name} is there already")),
            None if self.create().await? => done.push(format!("table {name} is created")),
            None => done.push(format!("table {name} was created meanwhile")),
        }
        let table = self.active().await?;
        if let Some(bad) = examine::table(&table).into_iter().find(|it| it.level == Level::Bad) {
            let why = format!("table {name} cannot be used: {}", bad.text);
            return Err(refused(RefusedKind::Foreign, &why));
        }
        done.push(self.sweep().await?);
        Ok(done)
    }

    /// The same as commands of the AWS tools, for whoever has the rights.
    pub(super) fn set_up_by_hand(&self) -> String {
        let name = self.table();
        let region = self.link.options.region.as_ref();
        let mut place = region.map_or(String::new(), |region| format!(" --region {region}"));
        if let Some(url) = &self.link.options.endpoint_url {
            place.push_str(&format!(" --endpoint-url {url}"));
        }
        format!(
            "aws dynamodb create-table{place} --table-name {name} \\\n    \
             --attribute-definitions AttributeName={RESOURCE},AttributeType=S \\\n    \
             --key-schema AttributeName={RESOURCE},KeyType=HASH \\\n    \
             --billing-mode PAY_PER_REQUEST --deletion-protection-enabled\n\
             aws dynamodb wait table-exists{place} --table-name {name}\n\
             aws dynamodb update-time-to-live{place} --table-name {name} \\\n    \
             --time-to-live-specification Enabled=true,AttributeName={EXPIRES}\n"
        )
    }

    async fn describe(&self) -> Result<Option<TableDescription>, BackendError> {
        let client = self.link.client().await?;
        match client.describe_table().table_name(self.table()).send().await {
            Ok(answer) => Ok(answer.table),
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), DescribeTableError::ResourceNotFoundException(_)) =>
            {
                Ok(None)
            }
            Err(error) => Err(of_read(&error)),
        }
    }

    /// False when another did it in the same moment.
    async fn create(&self) -> Result<bool, BackendError> {
        let attribute = AttributeDefinition::builder()
            .attribute_name(RESOURCE)
            .attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name(RESOURCE).key_type(KeyType::Hash);
        let (Ok(attribute), Ok(key)) = (attribute.build(), key.build()) else {
            return Err(strange("a table that cannot be built"));
        };
        let client = self.link.client().await?;
        let made = client
            .create_table()
            .table_name(self.table())
            .attribute_definitions(attribute)
            .key_schema(key)
            .billing_mode(BillingMode::PayPerRequest)
            .deletion_protection_enabled(true)
            .send()
            .await;
        match made {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), CreateTableError::ResourceInUseException(_)) =>
            {
                Ok(false)
            }
            Err(error) => Err(of_write(&error)),
        }
    }

    /// Waits until the table takes writes.
    async fn active(&self) -> Result<TableDescription, BackendError> {
        let no_timer = |error: std::io::Error| strange(&format!("no timer: {error}"));
        let mut alarm = Alarm::new().map_err(no_timer)?;
        let until = self.link.now() + ACTIVE_MAX;
        loop {
            if let Some(table) = self.describe().await?
                && matches!(table.table_status, Some(TableStatus::Active | TableStatus::Updating))
            {
                return Ok(table);
            }
            if self.link.now() >= until {
                let secs = ACTIVE_MAX.as_secs();
                let why = format!("the table is not ACTIVE after {secs} s: run this again later");
                return Err(refused(RefusedKind::NotWritable, &why));
            }
            alarm.set(Some(self.link.now() + ACTIVE_EVERY));
            alarm.rings().await;
        }
    }

    async fn sweep(&self) -> Result<String, BackendError> {
        let client = self.link.client().await?;
        let known = client.describe_time_to_live().table_name(self.table()).send().await;
        let known = known.map_err(|error| of_read(&error))?.time_to_live_description;
        let status = known.as_ref().and_then(|ttl| ttl.time_to_live_status.as_ref());
        let attribute = known.as_ref().and_then(|ttl| ttl.attribute_name.as_deref());
        if matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
            if attribute == Some(EXPIRES) {
                return Ok(format!("its TTL is on {EXPIRES} already"));
            }
            let why = format!(
                "its TTL is on {:?}, which is not ours to turn off: see whose it is",
                attribute.unwrap_or("?")
            );
            return Err(refused(RefusedKind::Foreign, &why));
        }
        let wanted = TimeToLiveSpecification::builder().attribute_name(EXPIRES).enabled(true);
        let wanted = wanted.build().map_err(|_| strange("a TTL that cannot be built"))?;
        let ask = client.update_time_to_live().table_name(self.table());
        let answer = ask.time_to_live_specification(wanted).send().await;
        answer.map_err(|error| of_write(&error))?;
        Ok(format!("its TTL is turned on, by {EXPIRES}"))
    }
}
